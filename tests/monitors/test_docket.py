"""Verdicts in any order, units in their own."""

from __future__ import annotations

from monitors.docket import Docket
from monitors.formats import Channel, WireField
from monitors.judges.base import Passage
from monitors.taxonomy import Stage
from monitors.units import Unit
from tests.playbook import verdict


def unit(text: str) -> Unit:
    passage = Passage(Stage.ANSWER, text.strip()) if text.strip() else None
    return Unit(Channel.ANSWER, WireField.CONTENT, text, 0, passage)


def test_a_unit_waits_for_its_verdict_and_for_those_before_it() -> None:
    docket = Docket()
    units = [unit("A."), unit("\n"), unit("B.")]
    first, last = docket.add(units)
    docket.answer(last.id, verdict(0.1))
    assert docket.next() is None
    assert docket.answer(first.id, verdict(0.1)) is units[0]
    assert [docket.next() for _ in range(4)] == [*units, None]
    assert not docket.verdicts_due


def test_no_unit_comes_before_the_requests_verdicts_which_keep_its_order() -> None:
    docket = Docket()
    how, why = docket.ask_inputs([Passage(Stage.INPUT, "How?"), Passage(Stage.INPUT, "Why?")])
    list(docket.add([unit("\n")]))
    assert docket.answer_input(why.id, verdict(0.2))
    assert docket.next() is None
    assert docket.answer_input(how.id, verdict(0.1))
    assert docket.next() is not None
    assert docket.input_verdicts == [verdict(0.1), verdict(0.2)]


def test_answers_that_nobody_waits_for_are_ignored() -> None:
    docket = Docket()
    (question,) = docket.add([unit("A.")])
    docket.drop_units()
    assert docket.answer(question.id, verdict(0.1)) is None
    assert not docket.answer_input(question.id, verdict(0.1))
