"""Charts: whatever the numbers are, a sound picture comes out, with everything inside of it."""

import math
import re
from xml.etree import ElementTree

import pytest

from xnor_ref.charts.axes import Axis, axes_of, short
from xnor_ref.charts.chart import Area, Bars, Chart, Dots, Figure, Line, Segments
from xnor_ref.charts.drawing import SMALL, Disc, Stroke, Text, draw
from xnor_ref.charts.files import DARK, LIGHT, check_plot, save, svg
from xnor_ref.errors import InputError, OutputError

ODD = [None, math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-300, 1e300]
NAMES = ["", "a & b <c> \"d\" 'e'", "Ω" * 80, "$x^2$"]
MARKS = {
    "line": [Line([1, 2, 3, 4], [0.5, None, math.nan, 2.0], "validation", dots=True)],
    "odd": [Line(list(range(len(ODD))), ODD, NAMES[1]), Dots([1, 2], [1, math.inf], NAMES[2], low=[0, 1], high=[2, 3])],
    "bars": [Bars([0, 1], [0, 0], [0.8, 1.8], [3, 40], "x", 1, ["3", "40"]), Dots([0], [3], None, 0, [2], [4], "y", 0)],
    "area": [Area([0, 1, 2], [0, 0, 0], [1, math.nan, 2]), Segments([(0, 0, 1, 1)], [0.5])],
    "none": [],
    "one point": [Line([1], [0.25], dots=True)],
    "nothing finite": [Line([1, 2], [math.nan, None])],
}


def numbers(shape):
    points = shape.points if isinstance(shape, Stroke) else [shape.at]
    return [v for point in points for v in point]


@pytest.mark.parametrize("log", [0, 2, 10])
@pytest.mark.parametrize("name", MARKS)
def test_every_shape_has_a_place_inside(name, log):
    title = NAMES[len(name) % len(NAMES)]
    chart = Chart(title, MARKS[name], "x", "y", y_log=log)
    (width, height), shapes = draw(Figure([chart, chart], 2, "a caption " * 20))
    assert all(math.isfinite(v) for shape in shapes for v in numbers(shape))
    for shape in shapes:
        for x, y in shape.points if isinstance(shape, Stroke) else [shape.at]:
            assert -1 <= x <= width + 1 and -1 <= y <= height + 1, shape
    root = ElementTree.fromstring(svg(chart))
    texts = [e.text for e in root.iter() if e.tag.endswith("}text")]
    assert (name in ("none", "nothing finite") or (name == "area" and log > 0)) == ("no numbers" in texts)


def test_a_line_is_broken_where_a_number_is_missing():
    _, shapes = draw(Figure([Chart("", MARKS["line"])]))
    assert sum(isinstance(shape, Disc) for shape in shapes) == 2
    assert not any(isinstance(s, Stroke) and s.colour == "c0" and s.width < 3 for s in shapes)  # but for the legend's


@pytest.mark.parametrize("low, high", [(0, 1), (-3, 7), (0.00012, 0.00013), (1e6, 3e9), (99.999, 100.001), (0, 1e-12)])
def test_ticks_are_round_in_order_and_told_apart(low, high):
    ticks = Axis(low, high).ticks(5)
    values, names = zip(*ticks)
    assert 1 <= len(ticks) <= 12 and list(values) == sorted(set(values)) and len(set(names)) == len(names)
    assert all(low - 1e-9 * (high - low) <= value <= high + 1e-9 * (high - low) for value in values)


def test_ticks_of_a_logarithmic_axis_are_powers():
    assert [name for _, name in Axis(0.5, 5000, 10).ticks(6)] == ["1", "10", "100", "1,000"]
    assert [value for value, _ in Axis(1, 256, 2).ticks(4)] == [1, 8, 64]


def test_numbers_in_few_digits():
    assert [short(v) for v in (0, 0.125, 12, 1234, 2.5e9, 1e-5)] == ["0", "0.125", "12", "1,234", "2.5e9", "1e-5"]


def test_axes_begin_at_zero_where_nothing_can_be_below():
    assert axes_of(Chart("", [Line([1, 2], [0.0, 0.0])]))[1].low == 0
    assert axes_of(Chart("", [Line([1, 2], [0.01, 2.0])]))[1].low == 0
    assert axes_of(Chart("", [Line([1, 2], [-1.0, 2.0])]))[1].low < -1
    assert axes_of(Chart("", [Line([1, 2], [5.0, 6.0])], y_zero=True))[1].low == 0


def test_a_point_lies_where_its_number_is():
    chart = Chart("", [Dots([0, 10], [0, 1])], x_range=(0, 10), y_range=(0, 1))
    _, shapes = draw(Figure([chart]))
    (x0, y0), (x1, y1) = (shape.at for shape in shapes if isinstance(shape, Disc))
    ticks = {shape.text: shape.at for shape in shapes if isinstance(shape, Text)}
    assert ticks["0.4"][1] - SMALL / 2 < y0 + 0.4 * (y1 - y0) < ticks["0.4"][1]
    assert ticks["4"][0] == pytest.approx(x0 + 0.4 * (x1 - x0))


def test_files_of_svg_stand_alone_and_have_both_palettes(tmp_path):
    save(Chart("A <chart>", MARKS["line"]), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    ElementTree.fromstring(text)
    assert LIGHT.keys() == DARK.keys() and all(f"--{key}:{value}" in text for key, value in DARK.items())
    assert set(re.findall(r"var\(--(\w+)\)", text)) <= LIGHT.keys()


def test_files_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(OutputError):
        save(Chart("", []), tmp_path / "no" / "a.svg")
    monkeypatch.setattr("xnor_ref.charts.files.find_spec", lambda name: None)
    check_plot("a.svg")
    with pytest.raises(InputError, match=r"--figures: png needs matplotlib, .* \(pip install 'xnor_ref\[plot\]'\)"):
        check_plot("a.png", "--figures")
    with pytest.raises(InputError, match=r"ends in one of svg, png, pdf; got 'a\.gif'"):
        save(Chart("", []), "a.gif")


@pytest.mark.interop
@pytest.mark.parametrize("kind, begins", [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_matplotlib_draws_the_same_shapes(tmp_path, kind, begins):
    pytest.importorskip("matplotlib")
    charts = [Chart(NAMES[at % len(NAMES)], marks, "x", "y") for at, marks in enumerate(MARKS.values())]
    save(Figure(charts, 3, NAMES[1]), tmp_path / f"a.{kind}")
    assert (tmp_path / f"a.{kind}").read_bytes().startswith(begins)
