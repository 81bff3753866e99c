"""The speed of a run, and the time that it still takes."""

import pytest

from xnor_ref.training.callbacks.progress import FIRST, LAST, Pace
from xnor_ref.training.storing.checkpoint import Position


def test_the_time_left_counts_steps_and_timed_validations():
    pace = Pace(epochs=5, steps=4, batch_size=12)
    assert pace.figures(Position()) == {}
    pace.step(0.5)
    assert pace.figures(Position(0, 1)) == {"images_per_second": 24, "seconds_left": 9.5, "with_validation": False}
    pace.validation = 3.0
    assert pace.figures(Position(1)) == {"images_per_second": 24, "seconds_left": 8 + 12, "with_validation": True}
    assert pace.figures(Position(3, 2))["seconds_left"] == 3 + 6  # where a resumed run may stand
    assert pace.figures(Position(5))["seconds_left"] == 0


def test_the_first_steps_and_old_ones_do_not_count():
    pace = Pace(epochs=1, steps=1000, batch_size=1)
    for seconds in (*[8.0] * FIRST, *[0.5] * 3):
        pace.step(seconds)
    assert pace.figures(Position())["images_per_second"] == 2
    for _ in range(LAST):
        pace.step(0.25)
    assert pace.figures(Position())["images_per_second"] == 4 and pace.taken == FIRST + 3 + LAST


def test_a_clock_that_stands_still_divides_by_nothing():
    pace = Pace(epochs=1, steps=2, batch_size=1)
    pace.step(0.0)
    assert pace.figures(Position(0, 1))["seconds_left"] == pytest.approx(0, abs=1e-6)
