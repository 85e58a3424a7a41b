"""Generated text to units, and the words of an open step."""

from __future__ import annotations

from dataclasses import replace

from monitors.formats import SEPARATED, Channel, ReplyParser
from monitors.taxonomy import Stage
from monitors.units import Unit, Units
from tests.playbook import TASK


def units_of(units: Units, *contents: str) -> list[Unit]:
    done = [u for c in contents for p in units.read("", c) for u in units.segment(p, 0.0)]
    done += [u for p in units.close() for u in units.segment(p, 0.0)]
    return [*done, *units.rest(0.0)]


def test_units_are_the_text_and_know_where_they_stand() -> None:
    units = Units(TASK, ReplyParser(), start=5, earlier=["Before."])
    opener, fine, closer, again, open_ = units_of(
        units, "<think>A fine", " day.</think>\n\n", "<think>x"
    )
    assert [u.start for u in (opener, fine, closer, again, open_)] == [5, 5, 16, 16, 16]
    assert fine.passage is not None
    assert (fine.stage, fine.passage.earlier) == (Stage.REASONING, ("Before.",))
    assert (closer.channel, closer.passage, closer.undecided) == (Channel.MARKUP, None, False)
    assert units.generated == 17


def test_nothing_behind_a_stop_string_becomes_a_unit() -> None:
    units = Units(replace(TASK, stop=("STOP",)), ReplyParser(SEPARATED))
    assert [u.text for u in units_of(units, "Yes. ST", "OP no")] == ["Yes. "]
    assert units.stopped == "STOP"


def test_words_that_were_let_out_are_not_let_out_again() -> None:
    units = Units(TASK, ReplyParser(SEPARATED))
    for piece in units.read("", "The sky is bl"):
        units.segment(piece, 1.0)
    (words,) = units.ask(3.0)
    assert (words.text, units.since) == ("The sky is", 3.0)
    assert (units.let_out(words), units.let_out(words)) == ("The sky is", "")
    assert units.ask(4.0) == ()
    (step,) = units.rest(0.0)
    assert (step.text, step.released) == ("The sky is bl", len("The sky is"))
    assert units.let_out(words) == ""
