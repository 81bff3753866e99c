"""Axes: from numbers of the data to places, and the ticks between."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from xnor_ref.charts.chart import Area, Bars, Chart, Dots, Mark, Segments, Ticks

ENDS = 0.04  # of an axis, left free at either end
_MOST = 1e150  # products of numbers below it are finite


@dataclass(frozen=True)
class Axis:
    """A range of numbers that is laid onto a range of places."""

    low: float
    high: float
    log: int = 0
    start: float = 0.0
    end: float = 1.0

    def at(self, value: float) -> float:
        """The place of a number that `is_shown`."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return self.start + (self.end - self.start) * (self._scaled(value) - low) / (high - low)

    def is_shown(self, value: float | None) -> bool:
        """Whether a number has a place: it is finite; and on a logarithmic axis, positive."""
        return _has_place(value, self.log)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value

    def ticks(self, most: int) -> Ticks:
        """At most about `most` round numbers."""
        if self.log and self.high / self.low >= self.log:
            first, last = (math.log(value, self.log) for value in (self.low, self.high))
            powers = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)
            every = max(1, math.ceil(len(powers) / most))
            return [(float(self.log) ** p, short(float(self.log) ** p)) for p in powers[::every]]
        raw = (self.high - self.low) / most
        unit = 10.0 ** math.floor(math.log10(raw))
        step = unit * next(factor for factor in (1, 2, 5, 10) if factor * unit >= raw * (1 - 1e-9))
        found = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        return [(index * step, short(index * step, step)) for index in found]


def short(value: float, step: float | None = None) -> str:
    """A number in few digits: those that the step between ticks needs, or three."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    if step is not None:
        return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
    return f"{value:,.0f}" if size >= 100 else f"{value:.3g}"


def axes_of(chart: Chart) -> tuple[Axis, Axis]:
    """Axes that hold all marks, without places yet."""
    x, y = zip(*map(_numbers, chart.marks)) if chart.marks else ([], [])
    return (
        _axis([v for part in x for v in part], chart.x_log, chart.x_range),
        _axis([v for part in y for v in part] + [0.0] * chart.y_zero, chart.y_log, chart.y_range or _named(chart)),
    )


def _named(chart: Chart) -> tuple[float, float] | None:
    """The range of an axis of names, with half a place at either end."""
    places = [place for place, _ in chart.y_ticks or ()]
    return (min(places) - 0.5, max(places) + 0.5) if places else None


def _has_place(value: float | None, log: int) -> bool:
    return value is not None and abs(value) < _MOST and (not log or value > 1 / _MOST)


def _axis(values: Iterable[float | None], log: int, given: tuple[float, float] | None) -> Axis:
    shown = [v for v in values if v is not None and _has_place(v, log)]
    low, high = given or (min(shown, default=1.0 if log else 0.0), max(shown, default=1.0))
    if log:
        low, high = (low, high) if high > low else (low / log, high * log)
        room = (high / low) ** (0 if given else ENDS)
        return Axis(low / room, high * room, log)
    if not high > low:
        reach = abs(low) * 0.1
        low, high = (low - reach, high + reach) if low else (0.0, 1.0)
    room = 0 if given else ENDS * (high - low)
    below = 0.0 if low >= 0 and low - room < 0 else low - room  # an axis of what cannot be negative ends at 0
    return Axis(below if not given else low, high + room)


def _numbers(mark: Mark) -> tuple[list[float | None], list[float | None]]:
    """All x and all y of a mark."""
    if isinstance(mark, Area):
        return list(mark.x), [*mark.low, *mark.high]
    if isinstance(mark, Bars):
        return [*mark.x0, *mark.x1], [*mark.y0, *mark.y1]
    if isinstance(mark, Segments):
        return [v for e in mark.ends for v in e[::2]], [v for e in mark.ends for v in e[1::2]]
    x: list[float | None] = list(mark.x)
    y: list[float | None] = list(mark.y)
    if isinstance(mark, Dots):
        (x if mark.along == "x" else y).extend([*mark.low, *mark.high])
    return x, y
