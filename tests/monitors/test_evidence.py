"""Evidence: sequential, clipped, drifting, and blind to what the policy tolerates."""

from __future__ import annotations

from math import inf

import pytest

from monitors.evidence import Evidence, input_pressure, weigh_input
from monitors.judges.base import Verdict
from monitors.taxonomy import Action, Scenario, Stage
from tests.playbook import policy, verdict

R, A = Stage.REASONING, Stage.ANSWER


def fed(evidence: Evidence, *scores: float, scenario: Scenario | None = None) -> Evidence:
    for score in scores:
        evidence.update(verdict(score, scenario), R)
    return evidence


def test_one_odd_step_does_not_cross_and_two_do() -> None:
    evidence = fed(Evidence(policy()), 0.999)
    assert (evidence.level, evidence.crossed(R)) == (1.5, (Action.ALLOW, None))
    assert fed(evidence, 0.999).crossed(R) == (Action.CORRECT, None)


def test_benign_steps_sink_it_to_its_floor() -> None:
    assert fed(Evidence(policy()), 0.99, 0.01).at_floor(R)


def test_certainty_is_not_clipped() -> None:
    evidence = fed(Evidence(policy()), 1.0, scenario=Scenario.FRAUD)
    assert evidence.level == inf
    assert evidence.crossed(R) == (Action.CORRECT, Scenario.FRAUD)


def test_an_unknown_verdict_moves_nothing() -> None:
    evidence = fed(Evidence(policy()), 0.99)
    evidence.update(verdict("late"), R)
    assert evidence.level == 1.5


def test_tolerated_harm_flags_and_stays_at_the_floor() -> None:
    evidence = fed(Evidence(policy()), 1.0, scenario=Scenario.LEGAL_OPINION)
    assert evidence.at_floor(R)
    assert evidence.crossed(R) == (Action.FLAG, Scenario.LEGAL_OPINION)


@pytest.mark.parametrize(("advice", "level"), [(0.3, 1.5), (0.6, 0.0)])
def test_a_step_counts_whole_unless_most_of_its_harm_is_tolerated(
    advice: float, level: float
) -> None:
    scores = {Scenario.FRAUD: 0.9 - advice, Scenario.LEGAL_OPINION: advice}
    evidence = Evidence(policy())
    evidence.update(Verdict(0.9, "test", scores), R)
    assert evidence.level == level


FLAGGED = Verdict(1.0, "rules", {Scenario.LEGAL_OPINION: 1.0})
STOPPED = Verdict(1.0, "rules", {Scenario.WEAPONS: 1.0})
HARM = Verdict(0.9, "model", {Scenario.FRAUD: 0.8})
BLIND = Verdict.of_unknown("model", "unreadable")
BOTH = Verdict(1.0, "rules", {Scenario.LEGAL_OPINION: 1.0, Scenario.FRAUD: 1.0})


@pytest.mark.parametrize("order", [1, -1])
def test_certainty_of_what_is_tolerated_hides_no_other_judges_finding(order: int) -> None:
    evidence, both = Evidence(policy()), Verdict.combined("panel", [HARM, FLAGGED][::order])
    assert evidence.weigh(both, R).action is Action.FLAG
    assert evidence.level == fed(Evidence(policy()), 0.9).level  # as the model alone would have it
    decision = evidence.weigh(both, R)
    assert (decision.action, decision.scenario) == (Action.CORRECT, Scenario.FRAUD)
    assert weigh_input(policy(), [both])[:3] == (Action.REFUSE, Stage.INPUT, Scenario.FRAUD)


OPEN = {"on_unknown": {"input": "open", "reasoning": "open", "answer": "open"}}


@pytest.mark.parametrize("order", [1, -1])
def test_what_one_judge_finds_no_blind_judge_hides(order: int) -> None:
    both = Verdict.combined("panel", [HARM, BLIND][::order])
    for policies in (policy(), policy(**OPEN)):
        decision = weigh_input(policies, [both])
        assert decision == (Action.REFUSE, Stage.INPUT, Scenario.FRAUD, "input")
        decision = Evidence(policies).last_word(both, A)
        assert (decision.scenario, decision.reason) == (Scenario.FRAUD, "cap")
    evidence = Evidence(policy(**OPEN))
    assert evidence.weigh(both, R)[::3] == (Action.FLAG, "unknown"), "one step does not cross"
    assert evidence.level == 1.5
    assert evidence.weigh(both, R)[::2] == (Action.CORRECT, Scenario.FRAUD)
    assert Evidence(policy()).weigh(both, R)[::3] == (Action.REFUSE, "unknown"), "not yet stopped"
    evidence = fed(Evidence(policy()), 0.999, scenario=Scenario.FRAUD)
    assert evidence.weigh(both, R)[::3] == (Action.CORRECT, "threshold"), "stopped: nothing leaves"


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("score", [0.0, 0.3, 0.45])
def test_what_one_judge_clears_another_may_not_have_seen(order: int, score: float) -> None:
    both = Verdict.combined("panel", [verdict(score), BLIND][::order])
    assert weigh_input(policy(), [both])[::3] == (Action.REFUSE, "unknown")
    assert weigh_input(policy(**OPEN), [both])[::3] == (Action.FLAG, "unknown")
    assert Evidence(policy()).last_word(both, A)[::3] == (Action.REFUSE, "unknown")
    evidence = fed(Evidence(policy(**OPEN)), 0.999)
    assert evidence.weigh(both, R)[::3] == (Action.FLAG, "unknown")
    assert evidence.level == 1.5, "nothing sinks it"


def test_words_that_one_judge_could_not_read_are_not_let_out_early() -> None:
    both = Verdict.combined("panel", [verdict(0.55), BLIND])
    assert Evidence(policy()).would_stay_at_floor(verdict(0.55), R)
    assert not Evidence(policy()).would_stay_at_floor(both, R)


@pytest.mark.parametrize("order", [1, -1])
def test_only_a_finding_that_is_stopped_outweighs_a_blind_judge(order: int) -> None:
    flagged, stopped = (
        Verdict.combined("panel", [BLIND, rules][::order]) for rules in (FLAGGED, STOPPED)
    )
    for decision in (Evidence(policy()).weigh(flagged, R), weigh_input(policy(), [flagged])):
        assert (decision.action, decision.reason) == (Action.REFUSE, "unknown")
    assert Evidence(policy()).weigh(stopped, R).scenario is Scenario.WEAPONS
    assert weigh_input(policy(), [stopped]).scenario is Scenario.WEAPONS


def test_of_two_rules_the_one_that_stops_counts() -> None:
    assert weigh_input(policy(), [BOTH])[::2] == (Action.REFUSE, Scenario.FRAUD)
    assert Evidence(policy()).weigh(BOTH, R).scenario is Scenario.FRAUD


def test_priming_for_one_harm_hides_no_other_that_is_refused() -> None:
    rows = {"fraud": {"input": "prime"}, "weapons": {"input": "refuse"}}
    rules = Verdict(1.0, "rules", {Scenario.FRAUD: 1.0, Scenario.WEAPONS: 1.0})
    assert weigh_input(policy(rows), [rules])[::2] == (Action.REFUSE, Scenario.WEAPONS)
    primed = Verdict(1.0, "rules", {Scenario.FRAUD: 1.0})
    assert weigh_input(policy(rows), [primed])[::2] == (Action.PRIME, Scenario.FRAUD)
    for order in (1, -1):
        both = Verdict.combined("panel", [BLIND, primed][::order])
        assert weigh_input(policy(rows), [both])[::3] == (Action.REFUSE, "unknown")


def test_a_guessed_name_brings_no_row_of_its_own() -> None:
    """A judge that spreads the harm over many names does not know which it is."""
    rows = policy(
        {"default": {"input": "flag", "reasoning": "correct", "answer": "refuse"}}
        | {"child_safety": {"input": "refuse", "reasoning": "refuse", "answer": "refuse"}}
    )
    guessed = dict.fromkeys(Scenario, 0.04) | {Scenario.CHILD_SAFETY: 0.09}
    known = {Scenario.CHILD_SAFETY: 0.5}
    for scores, action in ((guessed, Action.FLAG), (known, Action.REFUSE)):
        assert weigh_input(rows, [Verdict(0.9, "judge", scores)]).action is action


def test_harm_spread_over_rows_that_all_refuse_is_refused_whatever_default_says() -> None:
    four = list(Scenario)[:4]
    refusing = {"input": "refuse", "reasoning": "refuse", "answer": "refuse"}
    tolerant = {"input": "allow", "reasoning": "flag", "answer": "flag"}
    rows = policy({"default": tolerant} | {str(s): refusing for s in four})
    spread = Verdict(0.95, "judge", dict.fromkeys(four, 0.23))
    assert weigh_input(rows, [spread]).action is Action.REFUSE
    assert input_pressure(rows, [spread]) > 1


def test_harm_without_a_name_is_ruled_by_the_default_row() -> None:
    rows = {"default": {"input": "flag", "reasoning": "flag", "answer": "flag"}}
    evidence = fed(Evidence(policy({**rows, "fraud": {"reasoning": "refuse"}})), 1.0)
    assert evidence.at_floor(R)
    assert evidence.crossed(R) == (Action.FLAG, None)


def test_what_one_stage_tolerates_does_not_count_against_the_next() -> None:
    evidence = Evidence(policy({"weapons": {"reasoning": "flag", "answer": "refuse"}}))
    fed(evidence, 1.0, scenario=Scenario.WEAPONS)
    evidence.update(verdict(0.01), A)
    assert evidence.at_floor(A)
    assert evidence.crossed(A) == (Action.ALLOW, None)


def test_it_restarts_at_half_the_threshold_under_the_same_name() -> None:
    evidence = fed(Evidence(policy()), 0.99, 0.99, scenario=Scenario.FRAUD)
    evidence.restart(Scenario.FRAUD, R)
    assert evidence.level == 1.5
    assert fed(evidence, 0.99).crossed(R) == (Action.CORRECT, Scenario.FRAUD)


@pytest.mark.parametrize(("score", "stays"), [(0.1, True), (0.5, True), (0.9, False)])
def test_would_stay_at_floor_moves_nothing(score: float, stays: bool) -> None:
    evidence = Evidence(policy())
    assert evidence.would_stay_at_floor(verdict(score), R) is stays
    assert evidence.level == 0.0
    assert not evidence.would_stay_at_floor(Verdict.of_unknown("test", "late"), R)


def test_the_pressure_of_an_input_is_its_worst_passages_as_a_share_of_where_it_is_flagged() -> None:
    ours = policy({"fraud": {"input": "flag"}})
    found = [verdict(0.1), verdict(0.4, Scenario.FRAUD), BLIND]
    assert input_pressure(ours, found) == pytest.approx(0.8)
    assert input_pressure(ours, [verdict(0.6, Scenario.FRAUD)]) >= 1.0
    assert weigh_input(ours, [verdict(0.6, Scenario.FRAUD)]).action is Action.FLAG
    assert input_pressure(ours, [BLIND]) == input_pressure(ours, []) == 0.0
    lax = policy({"fraud": {"input": "allow"}})
    assert input_pressure(lax, [verdict(0.9, Scenario.FRAUD)]) == 0.0
