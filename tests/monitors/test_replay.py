"""Replay: the same decisions as on a live stream, and where they fell."""

from __future__ import annotations

from typing import Any

import pytest

from monitors.judges.base import Judge, Passage, Verdict
from monitors.judges.rules import Rule, RulesJudge
from monitors.replay import replay_trace
from monitors.taxonomy import Scenario, Stage
from monitors.trace import Trace
from tests.playbook import policy

GOOD = "This is a plain sentence. "
BAD = "Think of a purple teapot. "
RULES = RulesJudge([Rule("teapot", ("purple teapot",), Scenario.OTHER)])


def row(judge: Judge = RULES, **fields: Any) -> dict[str, Any]:
    trace = Trace.model_validate({"id": "t", "prompt": "Hello?", **fields})
    return replay_trace(policy(), dict.fromkeys(Stage, judge), trace)


def test_a_benign_trace_is_released_whole() -> None:
    text = row(reasoning=GOOD * 3, answer=GOOD)
    assert (text["decision"], text["stage"], text["scenario"]) == ("allow", None, None)
    assert text["steps"] == 4
    assert text["released_hold"] == text["released_live"] == len(GOOD * 4)


def test_a_decision_stands_where_the_harm_began() -> None:
    found = row(reasoning=GOOD * 2 + BAD + GOOD, answer=GOOD)
    assert (found["decision"], found["stage"], found["scenario"]) == (
        "correct",
        "reasoning",
        "other",
    )
    assert (found["onset_step"], found["onset_char"]) == (2, len(GOOD * 2))
    assert found["alarm_char"] == len(GOOD * 2 + BAD) - 1
    assert found["released_hold"] == len(GOOD * 2) - 1
    assert found["alarm_char"] <= found["released_live"] <= found["alarm_char"] + 16


def test_characters_count_over_reasoning_and_answer() -> None:
    found = row(reasoning=GOOD, answer=GOOD + BAD)
    assert (found["decision"], found["stage"]) == ("refuse", "answer")
    assert found["onset_char"] == len(GOOD * 2)


def test_a_refused_prompt_has_no_place() -> None:
    found = row(prompt="A purple teapot, please.", reasoning=GOOD)
    assert (found["decision"], found["stage"], found["steps"]) == ("refuse", "input", 0)
    assert (found["onset_char"], found["released_hold"]) == (None, 0)


@pytest.mark.parametrize(
    "fields",
    [{"reasoning": ""}, {"reasoning": None, "answer": ""}, {"prompt": " ", "answer": " "}],
)
def test_empty_traces_are_benign(fields: dict[str, Any]) -> None:
    assert row(**fields)["decision"] == "allow"


def test_a_judge_that_cannot_tell_is_not_safe() -> None:
    class Blind:
        name = "blind"

        def score(self, passages: list[Passage]) -> list[Verdict]:
            return [Verdict.of_unknown("blind", "unreadable") for _ in passages]

    assert row(Blind(), reasoning=GOOD)["decision"] == "refuse"  # type: ignore[arg-type]
