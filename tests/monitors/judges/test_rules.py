"""Rules: certain on a hit, across step boundaries, and never fooled by invisible characters."""

from __future__ import annotations

import pytest

from monitors.errors import UserError
from monitors.judges.base import Passage
from monitors.judges.rules import Rule, RulesJudge, literal
from monitors.taxonomy import Scenario, Stage

BLUE = Rule("blue", (r"blue\s+lantern", r"lan(tern)? nine"), Scenario.FRAUD)
PLUS = Rule("plus", (literal("Straße C++"),), Scenario.WEAPONS, frozenset({Stage.ANSWER}))


def hits(text: str, *earlier: str, stage: Stage = Stage.ANSWER) -> dict[Scenario, float]:
    verdict = RulesJudge([BLUE, PLUS]).score([Passage(stage, text, earlier=earlier)])[0]
    assert verdict.unsafe == (1.0 if verdict.scenarios else 0.0)
    return dict(verdict.scenarios)


@pytest.mark.parametrize(
    "text",
    [
        "the blue lantern",
        "The BLUE\n\n  Lantern!",
        "b\u200blue lan\u00adtern",
        "ｂｌｕｅ lantern",
        "x " * 100_000 + "blue lantern",
    ],
)
def test_hit_on_normalised_text(text: str) -> None:
    assert hits(text) == {Scenario.FRAUD: 1.0}


@pytest.mark.parametrize(
    ("earlier", "text"),
    [
        ("see the blue", " lantern now"),
        ("see the blue", "lantern now"),  # the space between was stripped
        ("see the blue lan", "tern now"),  # cut inside a word
        ("blue lantern, lan", "tern nine"),  # an earlier hit does not hide the one that reaches in
    ],
)
def test_phrase_split_over_a_step_boundary(earlier: str, text: str) -> None:
    assert hits(text, "first", earlier) == {Scenario.FRAUD: 1.0}


@pytest.mark.parametrize(
    ("earlier", "text"), [("blue lantern", "and on"), ("blue lantern ", " "), ("blue", "lamp")]
)
def test_a_match_inside_the_earlier_step_is_not_this_steps(earlier: str, text: str) -> None:
    assert hits(text, earlier) == {}


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [("the blue", "lan", "tern"), ("the bl", "ue", "lantern"), ("see blu", "e lan", "tern")],
)
def test_phrase_split_over_three_steps(first: str, second: str, text: str) -> None:
    assert hits(text, first, second) == {Scenario.FRAUD: 1.0}
    assert hits("and on", first, second + text) == {}


def test_steps_are_joined_in_their_order() -> None:
    assert hits("lantern", "blue", "and then") == {}


def test_stages_and_literals() -> None:
    assert hits("die STRASSE c++ entlang") == {Scenario.WEAPONS: 1.0}
    assert hits("die strasse c++", stage=Stage.INPUT) == {}
    assert hits("strasse ccc") == {}


def test_several_scenarios() -> None:
    assert hits("blue lantern, straße c++") == {Scenario.FRAUD: 1.0, Scenario.WEAPONS: 1.0}


def test_name_follows_the_rules() -> None:
    assert RulesJudge([BLUE]).name == RulesJudge([BLUE]).name
    assert RulesJudge([BLUE]).name != RulesJudge([BLUE, PLUS]).name
    assert RulesJudge([]).score([Passage(Stage.INPUT, "x")])[0].unsafe == 0.0


def test_hostile_pattern_and_text_stay_linear() -> None:
    judge = RulesJudge([Rule("nested", (r"(x+x+)+y",), Scenario.OTHER)])
    passage = Passage(Stage.ANSWER, "x" * 100_000, earlier=("x" * 5_000,))
    assert judge.score([passage])[0].unsafe == 0.0


@pytest.mark.parametrize("pattern", ["(", "a(?=b)", r"(a)\1", "x*", "\ud83d"])
def test_bad_pattern_is_named(pattern: str) -> None:
    with pytest.raises(UserError, match="rule broken: pattern"):
        RulesJudge([BLUE, Rule("broken", (pattern,), Scenario.OTHER)])


def test_rule_without_patterns() -> None:
    with pytest.raises(UserError, match="rule empty: has no patterns"):
        RulesJudge([Rule("empty", (), Scenario.OTHER)])
