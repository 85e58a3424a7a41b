"""How long text is held back, in steps, characters and seconds."""

from __future__ import annotations

from monitors.excursion import Excursion
from monitors.formats import Channel, WireField
from monitors.judges.base import Passage
from monitors.policy import Caps
from monitors.taxonomy import Stage
from monitors.units import Unit

STEP = Unit(Channel.ANSWER, WireField.CONTENT, "A step.", 0, Passage(Stage.ANSWER, "A step."))
BLANK = Unit(Channel.ANSWER, WireField.CONTENT, "\n" * 10, 0)


def test_steps_fill_it_and_blanks_only_by_their_characters() -> None:
    excursion = Excursion(Caps(excursion_steps=2, excursion_chars=28))
    for unit, full in ((STEP, False), (BLANK, False), (BLANK, False), (STEP, True)):
        excursion.add(unit)
        assert excursion.full is full
    assert excursion.steps == [STEP, STEP]
    excursion.end(0.0)
    for _ in range(3):
        excursion.add(BLANK)
    assert excursion.full


def test_time_counts_from_the_first_unit_that_is_held() -> None:
    excursion = Excursion(Caps(excursion_seconds=5.0))
    excursion.add(STEP)
    assert excursion.deadline is None
    excursion.hold(10.0)
    excursion.hold(12.0)
    assert excursion.deadline == 15.0
    assert (excursion.end(13.0), excursion.end(14.0)) == (3.0, 0.0)
    assert not excursion.units
