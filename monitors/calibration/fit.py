"""From judged generations to thresholds.

One half of the groups chooses what has many values (curves, drift, clip: the most unsafe
generations detected), the other sets what has one: a factor for all of the policy's thresholds, the
lowest at which the false alarms show the wanted rate (`monitors.calibration.bound`). Thresholds
move no statistic, so one run gives a generation's pressure at every factor. The halves then change
places, so that every generation is measured once by what was not chosen on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from math import inf, log, nextafter
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from monitors.calibration.bound import allowed, needed, upper
from monitors.calibration.collect import Judged, Step
from monitors.calibration.rows import CHARS_PER_TOKEN
from monitors.errors import UserError
from monitors.evidence import Evidence
from monitors.judges.base import Verdict
from monitors.policy import Bound, Curve, EvidenceParameters, Key, Policy
from monitors.taxonomy import Scenario, Stage

WITHIN_TOKENS = 128
"""An unsafe generation is detected by an alarm at most so many tokens after its onset."""

DRIFTS = (0.25, 0.5, 1.0, 2.0)
CLIPS = (1.0, 2.0, 3.0, 5.0)

_LABELLED = 6  # steps from the onset on that count as unsafe when curves are fitted
_MIN_GROUPS = 20  # of either label, for a curve
_RIDGE = 1e-3
_FAR = 9.2  # nats: what a judge's clamp of 1e-4 leaves
_STAGES: Final[tuple[Literal["reasoning", "answer"], ...]] = ("reasoning", "answer")

Floats = NDArray[np.float64]


@dataclass(slots=True, frozen=True)
class Target:
    """False alarms per generation: at most `rate`, with so much confidence."""

    rate: float
    confidence: float


@dataclass(slots=True, frozen=True, eq=False)
class Course:
    """One generation under some statistic.

    `peaks`: the highest value so far, after each step; at a threshold of k it alarms where that
    reaches k. `held`: whether text waits after the step. `blind`: the step at which it ends because
    a judge could not tell, whatever the threshold.
    """

    peaks: Floats
    held: NDArray[np.bool_]
    blind: int | None = None

    def alarm(self, threshold: float) -> int | None:
        """The step at which it alarms."""
        at = int(np.searchsorted(self.peaks, threshold, side="left"))
        return at if at < len(self.peaks) else None


Statistic = Callable[[Judged], Course]
Appeal = Callable[[Judged, int, int], Verdict]
"""The stronger judge's verdict on the steps of an excursion at its cap, from the first to the last.
"""


def safe_steps(judged: Judged) -> int:
    """How many steps lie wholly before the onset: all of a safe generation."""
    onset = judged.generation.onset
    if onset is None:
        return len(judged.steps)
    return sum(step.end <= onset for step in judged.steps)


# --- statistics ----------------------------------------------------------------------------------


def evidence_of(policy: Policy, appeal: Appeal | None = None) -> Statistic:
    """The policy's own evidence, caps and unknowns included: 1 is its thresholds.

    `appeal`: asked where the policy escalates at a cap; without one the worse counts, an alarm.
    """

    def course(judged: Judged) -> Course:
        if all(_sinks(policy, step) for step in judged.steps):  # most of what is ordinary
            return Course(np.zeros(len(judged.steps)), np.zeros(len(judged.steps), dtype=bool))
        evidence, caps = Evidence(policy), policy.caps
        highest, peaks, held, blind = 0.0, [], [], None
        steps = chars = 0  # of the excursion
        for at, step in enumerate(judged.steps):
            decision = evidence.weigh(step.verdict, step.stage)
            steps, chars = steps + 1, chars + step.end - step.start
            if decision.reason != "threshold" and decision.action.intervenes:
                blind = at
                highest = inf
            highest = max(highest, evidence.pressure(step.stage))
            waits = not evidence.at_floor(step.stage)
            if not waits:
                steps = chars = 0
            elif steps >= caps.excursion_steps or chars >= caps.excursion_chars:
                if caps.on_cap == "escalate" and appeal is not None:
                    verdict = appeal(judged, at - steps + 1, at)
                    heard = evidence.last_word(verdict, step.stage)
                    released = not heard.action.intervenes
                else:
                    released = caps.on_cap == "release"
                if not released:
                    highest = inf
                else:
                    evidence.reset()
                    steps = chars = 0
            peaks.append(highest)
            held.append(waits)
            if highest == inf:
                break
        return Course(np.array(peaks), np.array(held, dtype=bool), blind)

    return course


def _sinks(policy: Policy, step: Step) -> bool:
    """Whether a step's verdict surely leaves evidence at its floor."""
    unsafe = step.verdict.unsafe
    if unsafe is None or unsafe >= 1.0 or any(p > unsafe for p in step.verdict.scenarios.values()):
        return False
    if any(part.unknown for part in step.verdict.parts):
        return False
    curve = policy.curves.get((None, step.stage))
    # A scenario may rise by a curve of its own, but no further than the whole.
    return _logit(unsafe if curve is None else curve(unsafe)) <= policy.evidence.drift


def _harms(policy: Policy, judged: Judged) -> tuple[Floats, int | None]:
    """The logits of the harm that `any` takes in, step by step; and the step that is blind."""
    evidence = Evidence(policy)
    logits: list[float] = []
    for at, step in enumerate(judged.steps):
        decision = evidence.weigh(step.verdict, step.stage)
        if decision.reason != "threshold" and decision.action.intervenes:
            return np.array(logits), at
        harm = evidence.harm(step.verdict, step.stage)
        logits.append(inf if harm >= 1.0 else _logit(harm))
    return np.array(logits), None


def _series(
    harms: Mapping[str, tuple[Floats, int | None]], clip: float, shape: Callable[[Floats], Floats]
) -> Statistic:
    """A statistic of those logits, clipped; the generation's id finds them."""

    def course(judged: Judged) -> Course:
        logits, blind = harms[judged.generation.id]
        certain = logits == inf
        values = np.where(certain, inf, shape(np.clip(logits, -clip, clip)))
        peaks = np.maximum.accumulate(values) if len(values) else values
        if blind is not None:
            peaks = np.append(peaks, inf)
        return Course(peaks, np.zeros(len(peaks), dtype=bool), blind)

    return course


def _sum(drift: float) -> Callable[[Floats], Floats]:
    def shape(values: Floats) -> Floats:
        level, levels = 0.0, np.empty_like(values)
        for at, value in enumerate(values):
            level = levels[at] = max(0.0, level + value - drift)
        return levels

    return shape


def _window(width: int) -> Callable[[Floats], Floats]:
    """Mean of the last steps; what is missing at the beginning is neutral, 0."""

    def shape(values: Floats) -> Floats:
        if not len(values):
            return values
        padded = np.concatenate([np.zeros(width - 1), values])
        windows = np.lib.stride_tricks.sliding_window_view(padded, width)
        return np.asarray(windows.mean(axis=1), np.float64)

    return shape


def _running(values: Floats) -> Floats:
    """Mean of all steps so far, of three at least (as `_window`)."""
    return np.asarray(np.cumsum(values) / np.maximum(np.arange(1, len(values) + 1), 3))


RIVALS: dict[str, Callable[[], list[tuple[float, Callable[[Floats], Floats]]]]] = {
    "cumulative sum, `any` alone": lambda: [
        (clip, _sum(drift)) for clip in CLIPS for drift in DRIFTS if drift < clip
    ],
    "single step": lambda: [(_FAR, np.asarray)],
    "mean of 3 steps": lambda: [(clip, _window(3)) for clip in (*CLIPS, _FAR)],
    "mean of 5 steps": lambda: [(clip, _window(5)) for clip in (*CLIPS, _FAR)],
    "running average": lambda: [(clip, _running) for clip in (*CLIPS, _FAR)],
}
"""What evidence is compared with: the clips and shapes that each may choose from."""


# --- curves --------------------------------------------------------------------------------------


def fit_curves(
    sample: Sequence[Judged], *, hard: bool
) -> tuple[dict[tuple[Key, Stage], Curve], list[str]]:
    """The curves of each stage, and of each scenario there, that the sample has data for; and what
    it has none for.

    Logistic regression (Platt 1999), both labels of equal weight, so that a logit becomes the
    log-likelihood ratio; each generation weighs the same. Unsafe are the first steps from the onset
    on, safe those before it and those of safe generations: of the hard ones, if `hard`.
    """
    curves: dict[tuple[Key, Stage], Curve] = {}
    notes: list[str] = []
    for stage in (Stage.REASONING, Stage.ANSWER):
        rows = [row for judged in sample for row in _labelled(judged, stage, hard=hard)]
        found = _curve([(_score(step), unsafe, g) for step, unsafe, g in rows])
        if isinstance(found, str):
            notes.append(f"{stage}: probabilities stay as they are: {found}")
            continue
        curves[None, stage] = found
        few = []
        for scenario in Scenario:
            own = [
                (_score(step, scenario, found), unsafe, judged)
                for step, unsafe, judged in rows
                if not unsafe or judged.generation.scenario is scenario
            ]
            if isinstance(curve := _curve(own), str):
                few.append(scenario.value)
            else:
                curves[scenario, stage] = curve
        if few:
            notes.append(f"{stage}: too little data for curves of their own: {', '.join(few)}")
    return curves, notes


def _labelled(judged: Judged, stage: Stage, *, hard: bool) -> Iterable[tuple[Step, bool, Judged]]:
    before = safe_steps(judged)
    if judged.generation.unsafe or judged.generation.hard or not hard:
        yield from ((s, False, judged) for s in judged.steps[:before] if s.stage is stage)
    unsafe = judged.steps[before : before + _LABELLED]
    yield from ((s, True, judged) for s in unsafe if s.stage is stage)


def _score(step: Step, scenario: Scenario | None = None, whole: Curve | None = None) -> float:
    """The logit that a curve is fitted to; NaN where there is none."""
    unsafe = step.verdict.unsafe
    if unsafe is None or unsafe >= 1.0:
        return float("nan")
    if scenario is None or whole is None:
        return _logit(unsafe)
    share = step.verdict.scenarios.get(scenario, 0.0) / max(unsafe, 1e-12)
    return _logit(whole(unsafe) * min(1.0, share))


def _curve(rows: Sequence[tuple[float, bool, Judged]]) -> Curve | str:
    rows = [row for row in rows if row[0] == row[0]]  # no NaN
    groups = [
        {judged.generation.group for _, unsafe, judged in rows if unsafe is label}
        for label in (True, False)
    ]
    if min(map(len, groups)) < _MIN_GROUPS:
        counts = f"{len(groups[0])} unsafe and {len(groups[1])} safe groups"
        return f"{counts}, {_MIN_GROUPS} of each are needed"
    x = np.array([logit for logit, _, _ in rows])
    y = np.array([unsafe for _, unsafe, _ in rows], dtype=np.float64)
    _, own = np.unique([f"{u} {j.generation.id}" for _, u, j in rows], return_inverse=True)
    weight = 1.0 / np.bincount(own)[own]
    for label in (0.0, 1.0):
        weight[y == label] /= weight[y == label].sum()
    slope, offset = _logistic(x, y, weight)
    if slope < 0.05:
        return "higher scores are no sign of harm here"
    return Curve(round(slope, 4), round(max(-20.0, min(20.0, offset)), 4))


def _logistic(x: Floats, y: Floats, weight: Floats) -> tuple[float, float]:
    """Slope and offset by Newton's method, with a little ridge."""
    design = np.stack([x, np.ones_like(x)], axis=1)
    beta = np.array([1.0, 0.0])
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (weight * (p - y)) + _RIDGE * (beta - np.array([1.0, 0.0]))
        curvature = (design * (weight * p * (1 - p))[:, None]).T @ design + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        norm = float(np.abs(step).max())
        beta = beta - step / max(1.0, norm)  # a bounded step: far starts do not overshoot
        if norm < 1e-9:
            break
    return min(100.0, float(beta[0])), float(beta[1])


def _logit(probability: float) -> float:
    if probability <= 0.0:
        return -_FAR
    if probability >= 1.0:
        return inf
    return min(_FAR, max(-_FAR, log(probability / (1.0 - probability))))


# --- thresholds ----------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Run:
    """A generation and its course."""

    judged: Judged
    course: Course

    @property
    def safe_peak(self) -> float | None:
        """The highest value of its safe part; None where it has none."""
        before = safe_steps(self.judged)
        if not len(self.course.peaks) or not before:
            return None
        return float(self.course.peaks[min(before, len(self.course.peaks)) - 1])


def group_peaks(runs: Iterable[Run], *, hard: bool = False) -> dict[str, float]:
    """The highest value that is no sign of harm, of each group."""
    peaks: dict[str, float] = {}
    for run in runs:
        peak = run.safe_peak
        if peak is not None and (run.judged.generation.hard or not hard):
            group = run.judged.generation.group
            peaks[group] = max(peak, peaks.get(group, -inf))
    return peaks


def threshold(peaks: Iterable[float], alarms: int) -> float:
    """The lowest threshold with at most so many alarms."""
    ordered = sorted(peaks, reverse=True)
    return nextafter(ordered[alarms], inf) if alarms < len(ordered) else -inf


def bounded(runs: Sequence[Run], target: Target, *, hard: bool) -> float:
    """The lowest threshold that shows the target on all groups and, if `hard`, on those by
    themselves. Raises UserError where the data cannot show it.
    """
    found = -inf
    for only_hard in (False, True) if hard else (False,):
        peaks = group_peaks(runs, hard=only_hard)
        found = max(found, threshold(peaks.values(), _allowed(peaks, target, hard=only_hard)))
        if found == inf:
            stuck = [run for run in runs if run.safe_peak == inf]
            blind = sum(run.course.blind is not None for run in stuck)
            worst = max(run.judged.generation.source for run in stuck)
            raise UserError(
                f"{sum(peak == inf for peak in peaks.values())} of {len(peaks)} groups (e.g. of "
                f"{worst}) alarm at any threshold, too many for the rate: in {blind} generations a "
                f"judge could not tell, in {len(stuck) - blind} a cap was reached or a rule was "
                "certain; see on_unknown and caps in the policy, or raise --false-alarm-rate"
            )
    return found


def _allowed(peaks: Mapping[str, float], target: Target, *, hard: bool) -> int:
    most = allowed(len(peaks), target.rate, target.confidence)
    if most is None:
        kind = "hard safe" if hard else "safe"
        least = needed(0, target.rate, target.confidence)
        raise UserError(
            f"{len(peaks)} groups of {kind} generations cannot show a false-alarm rate of at most "
            f"{target.rate:g} with confidence {target.confidence:g}, not even without an alarm: "
            f"{least} are needed for the threshold alone; bring more, raise --false-alarm-rate, or "
            "use all data for the threshold (--thresholds-only)"
        )
    return most


def shown(runs: Sequence[Run], at: float, target: Target, *, hard: bool = False) -> Bound | None:
    """What the safe parts show of false alarms at a threshold; None where there are none.

    It names the stages of which as many groups have a safe step as a bound needs by itself.
    """
    peaks = group_peaks(runs, hard=hard)
    if not peaks:
        return None
    alarms = sum(peak >= at for peak in peaks.values())
    rate = upper(alarms, len(peaks), target.confidence)
    least = needed(0, target.rate, target.confidence)
    groups = safe_groups(run.judged for run in runs if run.judged.generation.hard or not hard)
    stages = tuple(name for name in _STAGES if groups[Stage(name)] >= least)
    return Bound(len(peaks), alarms, round(rate, 6), stages)


def safe_groups(sample: Iterable[Judged]) -> dict[Stage, int]:
    """How many groups have a safe step of reasoning, and of the answer."""
    groups: dict[Stage, set[str]] = {Stage.REASONING: set(), Stage.ANSWER: set()}
    for judged in sample:
        for step in judged.steps[: safe_steps(judged)]:
            groups[step.stage].add(judged.generation.group)
    return {stage: len(found) for stage, found in groups.items()}


# --- outcomes ------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Outcome:
    """What a threshold does to one generation.

    `false_alarm`: it alarms in its safe part (None: it has none). `detected`: an unsafe one alarms
    from its onset on, so many steps and tokens later; `in_time`: within `WITHIN_TOKENS`.
    """

    judged: Judged
    false_alarm: bool | None
    detected: bool
    in_time: bool
    delay_steps: int | None
    delay_tokens: float | None
    safe_tokens: float
    safe_steps: int
    held_steps: int


def outcome(run: Run, at: float) -> Outcome:
    """What happens to a generation at this threshold."""
    judged, course = run.judged, run.course
    before, alarm, onset = safe_steps(judged), course.alarm(at), judged.generation.onset
    false = alarm is not None and alarm < before
    found = alarm is not None and not false and onset is not None and alarm != course.blind
    read = before if alarm is None else min(before, alarm + 1)
    steps = tokens = None
    if found and alarm is not None and onset is not None:
        steps = alarm - before
        tokens = max(0.0, (judged.steps[alarm].end - onset) / CHARS_PER_TOKEN)
    return Outcome(
        judged,
        false if before else None,
        found,
        found and tokens is not None and tokens <= WITHIN_TOKENS,
        steps,
        tokens,
        judged.steps[read - 1].end / CHARS_PER_TOKEN if read else 0.0,
        read,
        int(course.held[:read].sum()),
    )


# --- the fit -------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Side:
    """What one half chose and the other bounded. `policy`: with drift, clip and curves, its
    thresholds not yet times `factor`.
    """

    policy: Policy
    factor: float
    runs: list[Run]
    """Of the half that bounds."""
    notes: list[str]


@dataclass(slots=True, frozen=True)
class Fit:
    """The sides (the first is what is written) and how rivals did on the same data."""

    sides: list[Side]
    rivals: dict[str, list[Outcome]]

    @property
    def outcomes(self) -> list[Outcome]:
        """Of every generation, by what was not chosen on it."""
        return self.at(1.0)

    def at(self, multiple: float) -> list[Outcome]:
        """The same, with all thresholds so many times as high."""
        return [outcome(run, side.factor * multiple) for side in self.sides for run in side.runs]


def halves(sample: Sequence[Judged], seed: int) -> tuple[list[Judged], list[Judged]]:
    """Two halves of the groups, with about half of the groups of each source in either."""
    first: dict[str, Judged] = {}
    for judged in sample:
        first.setdefault(judged.generation.group, judged)
    kinds: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for group, judged in first.items():
        kinds[judged.generation.source, judged.generation.unsafe].append(group)
    side: dict[str, int] = {}
    for found in kinds.values():
        found.sort(key=lambda group: sha256(f"{seed} {group}".encode()).digest())
        already = len(side)
        side.update((group, (at + already) % 2) for at, group in enumerate(found))
    parts = ([j for j in sample if side[j.generation.group] == part] for part in (0, 1))
    return next(parts), next(parts)


def fit(
    policy: Policy,
    sample: Sequence[Judged],
    target: Target,
    *,
    search: bool,
    seed: int = 0,
    appeal: Appeal | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Fit:
    """Calibrate a policy. Raises UserError where the data cannot show the target.

    `search`: choose curves, drift and clip too; else they stay, and all data set the threshold.
    `appeal`: who decides at caps that escalate. Where drift and clip are chosen it is not asked,
    since each pair holds back other text, and such a cap counts as an alarm there.
    """
    hard = any(judged.generation.hard for judged in sample)
    if not any(safe_steps(judged) for judged in sample):
        raise UserError("no safe thinking in the data: there is nothing to raise false alarms on")
    if search and not any(judged.generation.unsafe for judged in sample):
        text = "no unsafe generation with an onset in the data: nothing to choose curves, drift and"
        raise UserError(f"{text} clip by; bring some, or set thresholds alone (--thresholds-only)")
    if not search:
        statistic = evidence_of(policy, appeal)
        runs = [Run(judged, statistic(judged)) for judged in sample]
        return Fit([Side(policy, _factor(runs, target, hard=hard), runs, [])], {})
    one, two = halves(sample, seed)
    kept = partial(_side, policy, target=target, hard=hard, appeal=appeal)
    first, rivals = kept(one, two, say=lambda s: say(f"1 of 2: {s}"))
    try:  # only to measure the other half, too
        second, more = kept(two, one, say=lambda s: say(f"2 of 2: {s}"))
    except UserError as error:
        first.notes.append(f"one half of the data is not measured: {error}")
        return Fit([first], rivals)
    return Fit([first, second], {name: found + more[name] for name, found in rivals.items()})


def _side(
    policy: Policy,
    chooses: Sequence[Judged],
    bounds: Sequence[Judged],
    *,
    target: Target,
    hard: bool,
    appeal: Appeal | None,
    say: Callable[[str], None],
) -> tuple[Side, dict[str, list[Outcome]]]:
    """What one half chooses and the other bounds; and so for the rivals."""
    say("curves, drift and clip")
    curves, notes = fit_curves(chooses, hard=hard)
    curved = replace(policy, curves=curves)
    pairs = [(drift, clip) for drift in DRIFTS for clip in CLIPS if drift < clip]
    candidates = [curved, *(_with(curved, *pair) for pair in pairs)]  # the policy's own first
    statistics = [(candidate, evidence_of(candidate)) for candidate in candidates]
    chosen, _ = best(statistics, chooses, target, hard)
    statistic = evidence_of(chosen, appeal)
    runs = [Run(judged, statistic(judged)) for judged in bounds]
    side = Side(chosen, _factor(runs, target, hard=hard), runs, notes)
    harms = {judged.generation.id: _harms(curved, judged) for judged in (*chooses, *bounds)}
    rivals: dict[str, list[Outcome]] = {}
    for name, variants in RIVALS.items():
        say(name)
        shapes = [(None, _series(harms, clip, shape)) for clip, shape in variants()]
        _, rival = best(shapes, chooses, target, hard)
        own = [Run(judged, rival(judged)) for judged in bounds]
        at = bounded(own, target, hard=hard)
        rivals[name] = [outcome(run, at) for run in own]
    return side, rivals


def best(
    candidates: Sequence[tuple[Any, Statistic]],
    sample: Sequence[Judged],
    target: Target,
    hard: bool,
) -> tuple[Any, Statistic]:
    """The candidate that detects most in time at the target rate of this sample; of equals the one
    that holds less text.
    """
    if len(candidates) == 1:
        return candidates[0]
    scores = []
    for _, statistic in candidates:
        runs = [Run(judged, statistic(judged)) for judged in sample]
        at = -inf
        for only_hard in (False, True) if hard else (False,):
            peaks = group_peaks(runs, hard=only_hard)
            few = allowed(len(peaks), target.rate, target.confidence) or 0
            at = max(at, threshold(peaks.values(), few))
        found = [outcome(run, at) for run in runs]
        held = sum(one.held_steps for one in found)
        scores.append((sum(one.in_time for one in found), -held))
    return candidates[max(range(len(scores)), key=scores.__getitem__)]


def _with(policy: Policy, drift: float, clip: float) -> Policy:
    evidence = EvidenceParameters(drift, clip, policy.evidence.restart)
    return replace(policy, evidence=evidence)


def _factor(runs: Sequence[Run], target: Target, *, hard: bool) -> float:
    return max(bounded(runs, target, hard=hard), nextafter(0.0, 1.0))
