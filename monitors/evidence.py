"""What accumulates over the steps of one generation.

Theory. Each statistic is Page's cumulative sum (Page 1954, "Continuous inspection schemes") of the
steps' log-likelihood ratios. A verdict's `unsafe` p is calibrated so that 0.5 is the operating
point (by the judge, then by the policy's curves, where `mlrm-guard calibrate` fitted any), hence
logit(p) stands in for the ratio:

    S <- max(0, S + clip(logit(p), -c, +c) - d)          all in nats

The clip c keeps one odd sentence from stopping a good answer, the drift d lets benign steps sink S
to its floor, 0. Certainty (p exactly 1, which only rules give) is not clipped. There is one
statistic per scenario, one for the harm that no scenario names (the `default` row rules it), and
`any`. Of a step whose harm is mostly of scenarios that the policy lets pass at this stage (`allow`,
`flag`), `any` counts the rest only, so that tolerated advice does not stop a stream under another
name; any other step counts whole, for judges spread what they are unsure of over many scenarios.
Where several judges gave the verdict, each one's harm is weighed by itself and the highest counts:
a judge's certainty of what is tolerated hides no other's finding. Where one of them could not tell,
what others found raises the statistics and nothing sinks them; what then crosses is stopped for
that, and anything else is unknown. Nor does what one stage tolerated
count against the next. When `any` crosses, the scenario that
gathered most probability during the excursion names it.

The request's passages are weighed one by one instead (`weigh_input`): there is no order in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import inf, log
from typing import NamedTuple

from monitors.judges.base import Verdict
from monitors.policy import Curve, Key, Policy
from monitors.taxonomy import Action, Scenario, Stage


class Decision(NamedTuple):
    """What verdicts ask for at a stage, in which scenario (None: nobody named one), and why."""

    action: Action
    stage: Stage
    scenario: Scenario | None
    reason: str
    """As `Outcome.reason`."""


class Evidence:
    """The statistics of one generation under one policy."""

    __slots__ = ("_any", "_mass", "_per", "_policy", "_stage")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._stage = Stage.REASONING  # of the last step
        self._any = 0.0
        self._per: dict[Key, float] = {}  # None: harm without a name
        self._mass: dict[Scenario, float] = {}  # who gathered the harm since the floor was left

    @property
    def level(self) -> float:
        """The `any` statistic, in nats."""
        return self._any

    def weigh(self, verdict: Verdict, stage: Stage) -> Decision:
        """Take in the verdict of one true step, in order; what is to be done then.

        What is stopped for a finding does not leave, whoever else could not tell about it.
        """
        blind = _blind(verdict)
        moved = self.update(verdict, stage)
        action, scenario = self.crossed(stage)
        if blind is None or (moved and action in _STOPS):
            return Decision(action, stage, scenario, "threshold")
        return _of_unknown(self._policy, blind, stage)

    def update(self, verdict: Verdict, stage: Stage) -> bool:
        """Take in the verdict of one true step, in order; whether that raised any statistic.

        An unknown verdict moves nothing. Of judges of whom one could not tell the others only raise
        what they found.
        """
        if not _opinions(verdict):
            return False
        at_least = _blind(verdict) is not None
        if stage is not self._stage:
            self._per = {s: v for s, v in self._per.items() if self._acts(s, self._stage)}
            self._stage = stage
        harm = 0.0
        scores: dict[Key, float] = {}
        for counted, own in self._weighed(verdict, stage):
            harm = max(harm, counted)
            for key, score in own.items():
                scores[key] = max(score, scores.get(key, 0.0))
        any_before, before = self._any, dict(self._per)
        self._any = self._step(any_before, harm)
        if at_least:
            self._any = max(self._any, any_before)
        for key in {**before, **scores}:  # in a fixed order: of equals the first crosses
            level = self._step(before.get(key, 0.0), scores.get(key, 0.0))
            if at_least:
                level = max(level, before.get(key, 0.0))
            if level > 0.0:
                self._per[key] = level
            else:
                self._per.pop(key, None)
        if self.at_floor(stage):
            self._mass.clear()
        else:
            for scenario, score in verdict.scenarios.items():
                self._mass[scenario] = self._mass.get(scenario, 0.0) + score
        raised = (level > before.get(key, 0.0) for key, level in self._per.items())
        return self._any > any_before or any(raised)

    def would_stay_at_floor(self, verdict: Verdict, stage: Stage) -> bool:
        """Whether this verdict, were it a true step's, leaves evidence at its floor."""
        if _blind(verdict) is not None or not self.at_floor(stage):
            return False
        unsafe = max(unsafe for unsafe, _ in _corrected(self._policy, verdict, stage))
        return self._step(0.0, unsafe) == 0.0

    def at_floor(self, stage: Stage) -> bool:
        """Whether every statistic that can intervene at this stage is at its floor."""
        if self._any > 0.0 or not self._per:
            return self._any <= 0.0
        return not any(self._acts(s, stage) for s in self._per)

    def crossed(self, stage: Stage) -> tuple[Action, Scenario | None]:
        """The strongest action that a crossed threshold asks for, and the scenario that asks.

        The scenario is None where no judge named one.
        """
        policy = self._policy
        best: tuple[Action, Scenario | None] = (Action.ALLOW, None)
        if self._any > 0.0:
            leader = self._leader(stage)
            action = policy.action(leader, stage)
            if action.intervenes and self._any >= policy.threshold(leader, stage):
                best = (action, leader)
        for scenario, level in self._per.items():
            action = policy.action(scenario, stage)
            if action.strength > best[0].strength and level >= policy.threshold(scenario, stage):
                best = (action, scenario)
        return best

    def pressure(self, stage: Stage) -> float:
        """The highest statistic that can intervene, as a share of its threshold: 1 crosses it.

        No threshold moves a statistic, so with all thresholds k times as high, k crosses.
        """
        policy = self._policy
        highest = 0.0
        if self._any > 0.0:
            leader = self._leader(stage)
            if self._acts(leader, stage):
                highest = self._any / policy.threshold(leader, stage)
        for scenario, level in self._per.items():
            if self._acts(scenario, stage):
                highest = max(highest, level / policy.threshold(scenario, stage))
        return highest

    def harm(self, verdict: Verdict, stage: Stage) -> float:
        """The probability by which `any` takes in this verdict."""
        return max((harm for harm, _ in self._weighed(verdict, stage)), default=0.0)

    def last_word(self, verdict: Verdict, stage: Stage) -> Decision:
        """What the stronger judge's verdict on an excursion at its cap asks for: half is enough."""
        best = Decision(Action.ALLOW, stage, None, "cap")
        for harm, own in self._weighed(verdict, stage):
            acting = {s: p for s, p in own.items() if s is not None and self._acts(s, stage)}
            named = max(acting, key=lambda s: acting[s], default=self._leader(stage))
            action = self._policy.action(named, stage)
            if harm >= 0.5 and action.strength > best.action.strength:
                best = Decision(action, stage, named, "cap")
        blind = _blind(verdict)
        if blind is None or best.action in _STOPS:
            return best
        return _of_unknown(self._policy, blind, stage)

    def restart(self, scenario: Scenario | None, stage: Stage) -> None:
        """After a correction: evidence goes on at a share of the threshold, under the same name."""
        share = self._policy.evidence.restart
        self._any = share * self._policy.threshold(scenario, stage)
        self._per.clear()
        self._mass = {scenario: share} if scenario is not None and self._any > 0.0 else {}

    def reset(self) -> None:
        """Back to the floor."""
        self._any = 0.0
        self._per.clear()
        self._mass.clear()

    def _weighed(self, verdict: Verdict, stage: Stage) -> Iterator[tuple[float, dict[Key, float]]]:
        """Of each who could tell: what of the harm `any` counts, and the scores by name."""
        for unsafe, scenarios in _corrected(self._policy, verdict, stage):
            nameless = max(0.0, unsafe - sum(scenarios.values()))
            own = dict[Key, float]([(None, nameless), *scenarios.items()])
            tolerated = sum(p for s, p in own.items() if not self._acts(s, stage))
            mostly = 2.0 * tolerated > unsafe
            yield unsafe - tolerated * mostly, own

    def _leader(self, stage: Stage) -> Scenario | None:
        acting = {s: m for s, m in self._mass.items() if self._acts(s, stage)}
        return max(acting, key=lambda s: acting[s], default=None)

    def _acts(self, scenario: Key, stage: Stage) -> bool:
        return self._policy.action(scenario, stage).intervenes

    def _step(self, level: float, probability: float) -> float:
        parameters = self._policy.evidence
        if probability >= 1.0:
            return inf
        if probability <= 0.0:
            ratio = -parameters.clip
        else:
            ratio = log(probability / (1.0 - probability))
            ratio = min(parameters.clip, max(-parameters.clip, ratio))
        return max(0.0, level + ratio - parameters.drift)


def weigh_input(policy: Policy, verdicts: Iterable[Verdict]) -> Decision:
    """What the verdicts of a request's passages ask for: the strongest, of equals the first."""
    strongest = Decision(Action.ALLOW, Stage.INPUT, None, "input")
    for verdict in verdicts:
        opinions = [_of_passage(policy, *opinion) for opinion in _opinions(verdict)]
        decisions = [Decision(action, Stage.INPUT, s, "input") for action, s in opinions]
        if (blind := _blind(verdict)) is not None:  # behind what was found: that names the harm
            decisions.append(_of_unknown(policy, blind, Stage.INPUT))
        strongest = max(strongest, *decisions, key=lambda decision: decision.action.strength)
    return strongest


def input_pressure(policy: Policy, verdicts: Iterable[Verdict]) -> float:
    """The highest harm of a passage, as a share of the threshold at which it is flagged or more.

    Harm of scenarios that the policy lets pass does not count; 0 where nothing can be flagged.
    """
    highest = 0.0
    for verdict in verdicts:
        for unsafe, scores in _opinions(verdict):
            harm, leader = _led(policy, unsafe, scores, Action.FLAG)
            if policy.action(leader, Stage.INPUT) is not Action.ALLOW:
                highest = max(highest, harm / policy.threshold(leader, Stage.INPUT))
    return highest


_UNCHANGED = Curve()
_STOPS = (Action.CORRECT, Action.REFUSE)  # to prime lets the text pass that one could not read


def _opinions(verdict: Verdict) -> list[tuple[float, Mapping[Scenario, float]]]:
    """The scores of each who could tell."""
    parts = verdict.parts or (verdict,)
    return [(part.unsafe, part.scenarios) for part in parts if part.unsafe is not None]


def _corrected(
    policy: Policy, verdict: Verdict, stage: Stage
) -> list[tuple[float, Mapping[Scenario, float]]]:
    """The opinions, with the probabilities that calibration made of the judge's.

    Scenarios keep their shares of the whole, then follow curves of their own, up to the whole.
    """
    opinions, curves = _opinions(verdict), policy.curves
    if not curves:
        return opinions
    overall = curves.get((None, stage), _UNCHANGED)
    found: list[tuple[float, Mapping[Scenario, float]]] = []
    for unsafe, scenarios in opinions:
        whole = overall(unsafe)
        share = whole / unsafe if unsafe > 0.0 else 1.0
        own = {
            s: p if p >= 1.0 else min(whole, curves.get((s, stage), _UNCHANGED)(share * p))
            for s, p in scenarios.items()
        }
        found.append((whole, own))
    return found


def _blind(verdict: Verdict) -> Verdict | None:
    """Who could not tell."""
    return next((part for part in verdict.parts or (verdict,) if part.unknown), None)


def _of_passage(
    policy: Policy, unsafe: float, scores: Mapping[Scenario, float]
) -> tuple[Action, Scenario | None]:
    """What a passage of the request asks for: by its leading scenario, tolerated or not, and by the
    leading ones of those that intervene and of those that refuse, over the harm that is theirs.
    """
    best: tuple[Action, Scenario | None] = (Action.ALLOW, None)
    for least in (Action.ALLOW, Action.PRIME, Action.REFUSE):
        harm, scenario = _led(policy, unsafe, scores, least)
        action = policy.action(scenario, Stage.INPUT)
        if harm >= policy.threshold(scenario, Stage.INPUT) and action.strength > best[0].strength:
            best = (action, scenario)
    return best


_LEADS = 1 / 3
"""Share of the harm from which a request's leading scenario speaks for it. Below it, the judge does
not know which harm it is, and the policy's `default` row speaks."""


def _led(
    policy: Policy, unsafe: float, scores: Mapping[Scenario, float], least: Action
) -> tuple[float, Scenario | None]:
    """The harm of a passage whose scenarios ask for `least` or more, and which of them speaks for
    it. The `default` row does so only where it asks for as much: that harm is spread over many that
    are stopped lets none of it pass.
    """
    enough = least.strength
    named = {s: p for s, p in scores.items() if policy.action(s, Stage.INPUT).strength >= enough}
    tolerated = sum(p for s, p in scores.items() if s not in named)
    harm = max(unsafe - tolerated, *named.values(), 0.0)  # rules may be certain of several
    leader = max(named, key=lambda s: named[s], default=None)
    guessed = leader is not None and named[leader] < _LEADS * harm
    if guessed and policy.action(None, Stage.INPUT).strength >= enough:
        return harm, None
    return harm, leader


def _of_unknown(policy: Policy, verdict: Verdict, stage: Stage) -> Decision:
    """What text asks for that a judge could not tell about, or had no time for."""
    overload = verdict.overloaded
    closed = policy.overload_is_closed if overload else policy.unknown_is_closed
    action = Action.REFUSE if closed(stage) else Action.FLAG
    return Decision(action, stage, None, "overload" if overload else "unknown")
