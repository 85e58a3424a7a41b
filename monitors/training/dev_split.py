"""What is measured on the dev split, beside a model that sees function words only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from monitors.judges import linear
from monitors.judges.base import Passage
from monitors.judges.embedded import EmbeddedJudge
from monitors.taxonomy import Stage
from monitors.training.corpus import Corpus, Example, Generation
from monitors.training.measure import (
    PARAMETERS,
    Interval,
    Sample,
    Vector,
    alarm_table,
    evidence_table,
    language_table,
    stage_table,
)

FUNCTION_WORDS = frozenset(
    """
    a about after again all also although am an and another any are as at be because been
    before being both but by can could did do does doing done don't each either else even
    every few first for from get go going had has have having he her here him his how
    however i i'd i'll i'm i've if in into is it it's its itself just last let let's like
    many may maybe me might more most much must my need next no nor not now of off okay on
    once one only or other our out over own perhaps quite rather really right same second
    see shall she should since so some something still such than that that's the their them
    then there these they thing things think third this those though through to too two
    under until up us very wait want was way we well were what when where whether which
    while who why will with would yes yet you your 0 ? !
    """.split()  # noqa: SIM905  (a list of 170 strings reads worse)
)
"""All that the comparison model sees: who wrote a text, not what it says."""


def voice_only(passage: Passage) -> Passage:
    """The passage reduced to its function words; the request is left out."""
    kept = [word for word in linear.words(passage.text) if word in FUNCTION_WORDS]
    return replace(passage, text=" ".join(kept), request="")


@dataclass(slots=True, frozen=True)
class Measured:
    """A judge and how to show it a passage; calibrated scores."""

    judge: EmbeddedJudge
    view: Callable[[Passage], Passage] = lambda passage: passage

    def score(self, passage: Passage) -> float:
        """The calibrated score; an unreadable passage counts as missed and as no alarm."""
        verdict = self.judge.score([self.view(passage)])[0]
        return 0.0 if verdict.unsafe is None else verdict.unsafe

    def steps(self, generation: Generation) -> Vector:
        """The scores of a generation's steps that hold text."""
        return np.array([self.score(p) for p in generation.steps if p.text.strip()])


def dev_figures(by: Measured, voice: Measured, dev: Corpus, seed: int) -> dict[str, Any]:
    """Everything that is measured on the dev split; `voice` sees function words only."""
    scores = np.array([by.score(e.passage) for e in dev.examples])
    steps = [by.steps(g) for g in dev.generations]
    return {
        "stages": stage_table(dev.examples, scores, seed),
        "controlled": controlled_table(dev, by, seed),
        "controlled_voice": controlled_table(dev, voice, seed),
        "false_alarms": alarm_table(dev.generations, steps),
        "languages": language_table(dev.examples, scores, seed),
        "evidence_dev": evidence_table(dev.generations, steps, *PARAMETERS[0]),
        "ms_per_step": _step_time(by.judge, dev.examples),
    }


def controlled_table(dev: Corpus, by: Measured, seed: int) -> dict[str, Any]:
    """The sets that hold style still: what a model knows of harm beyond whose voice it is."""
    table: dict[str, Interval | None] = {}

    def steps(name: str, chosen: Sequence[Example]) -> None:
        table[name] = Sample.of(chosen, [by.score(e.passage) for e in chosen], seed).auroc()

    def traces(name: str, chosen: Sequence[Generation]) -> None:
        scored = [by.steps(g) for g in chosen]
        for count, way in ((1, "highest step"), (3, "mean of top 3")):
            sample = Sample.of(chosen, [top(s, count) for s in scored], seed)
            table[f"{name}, {way}"] = sample.auroc()

    examples, generations = dev.examples, dev.generations
    steps("re-voiced steps", [e for e in examples if e.source.endswith("+revoiced")])
    steps("matsuo_pairs steps", [e for e in examples if e.source == "matsuo_pairs:read"])
    traces("matsuo_pairs traces", [g for g in generations if g.source == "matsuo_pairs"])
    steps("khalaf_r1 steps (read)", [e for e in examples if e.source == "khalaf_r1:read"])
    read = [g for g in generations if g.source == "khalaf_r1" and g.read and g.unsafe is not None]
    traces("khalaf_r1 traces (read)", read)
    steps("pairs steps", [e for e in examples if e.source == "pairs:read"])
    pairs = [g for g in generations if g.pair]
    traces("pairs traces", pairs)
    table["pairs in order"] = _ordered(pairs, by, seed)
    return {name: value for name, value in table.items() if value is not None}


def top(values: Vector, count: int) -> float:
    """The mean of the highest few; nothing scores 0."""
    return float(np.sort(values)[-count:].mean()) if len(values) else 0.0


def _ordered(sides: Sequence[Generation], by: Measured, seed: int) -> Interval | None:
    """Share of pairs whose unsafe continuation scores above the safe one (mean of top 3)."""
    scores: dict[str | None, dict[bool | None, float]] = defaultdict(dict)
    for g in sides:
        behind = [by.score(p) for p in g.steps[g.onset or 0 :] if p.text.strip()]
        scores[g.pair][g.unsafe] = top(np.array(behind), 3)
    margins = [s[True] - s[False] for s in scores.values() if len(s) == 2]
    hits = [0.5 + float(np.sign(margin)) / 2 for margin in margins]  # a tie is half in order
    return Sample(hits, [True] * len(hits), list(map(str, range(len(hits)))), seed).mean()


def _step_time(judge: EmbeddedJudge, examples: Sequence[Example]) -> float:
    """Milliseconds per step of about 300 characters, one thread, the words seen before."""
    steps = [e.passage for e in examples if e.passage.stage is Stage.REASONING][:1000]
    steps = [replace(p, text=(p.text * (1 + 300 // len(p.text)))[:300]) for p in steps if p.text]
    judge.score(steps)
    started = perf_counter()
    for passage in steps:
        judge.score([passage])
    return round((perf_counter() - started) * 1000 / max(1, len(steps)), 3)
