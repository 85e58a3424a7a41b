"""What the encoder is shown, in which proportions and in what order.

Two phases. `base`: requests, answers, re-voiced and other steps, so that the encoder learns what
harm is. `thinking`: the steps of whole traces, cut by the gateway's segmenter and shown with their
context, with some of the base phase against forgetting. Rows are drawn, not walked through: a
source weighs the root of its size, and both labels of a stage, and of a source that has both, weigh
the same, so that a voice does not tell the label. Other languages than English are drawn apart, as
often unsafe as safe, so that a language does not tell it either; of other scripts than Latin the
encoder's vocabulary has letters at best, so it is shown none.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from monitors.judges.base import Passage
from monitors.judges.language import other_script
from monitors.taxonomy import Scenario, Stage
from monitors.training.corpus import IN_DOCUMENTS, IN_EVERYDAY, STATEMENTS, Example, Stance, cut
from monitors.window import EARLIER_STEPS

Phase = Literal["base", "thinking"]


@dataclass(slots=True, frozen=True)
class Bag:
    """Passages with one label: of an unsafe bag some are unsafe, of a safe one none is."""

    passages: tuple[Passage, ...]
    stage: Stage
    unsafe: bool
    scenario: Scenario | None = None
    stance: Stance | None = None


_THINKING: Mapping[str, float] = {
    "khalaf_r1:read": 0.26,
    "pairs:read": 0.30,
    "musings:read": 0.30,
    "safekey:read": 0.07,
    "matsuo_pairs:read": 0.07,
    "star1:cut": 0.05,
    "matsuo_safecot:cut": 0.05,
    "grid": 0.07,
    IN_EVERYDAY: 0.14,
}
"""Shares of the sources of the second phase; what is left is drawn as in the first."""

_REPLAY = 0.16
_OTHER_LANGUAGES = 0.25  # of the rows of a stage
_STAGES = {Stage.INPUT: 0.42, Stage.ANSWER: 0.3, Stage.REASONING: 0.28}
_UNSAFE = 0.45  # share of unsafe rows in a source that has both
_CONTRAST = 3.0
_STATEMENT = 0.4  # social-media statements and chit-chat teach little about requests and answers
_DOCUMENT = 10.0  # few, but every prompt may hold one
_LONG_ANSWER = 600
_BAG = 5  # steps


def draws(examples: Sequence[Example], phase: Phase, count: int, seed: int) -> list[Bag]:
    """The bags of a phase, in the order in which they are shown."""
    draw = random.Random(f"{phase} {seed}")
    pools = _pools(examples)
    thinking = {name: share for name, share in _THINKING.items() if (name, True) in pools.both}
    drawn: list[Bag] = []
    if phase == "thinking":
        scale = (1 - _REPLAY) * count / sum(thinking.values())
        for name, share in thinking.items():
            drawn += _of_source(pools, name, round(share * scale), draw)
        count = round(_REPLAY * count)
    for stage, share in _STAGES.items():
        drawn += _of_stage(pools, stage, round(share * count), draw)
    draw.shuffle(drawn)
    return drawn


@dataclass(slots=True)
class _Pools:
    both: dict[tuple[str, bool], list[Example]]
    """Rows of the second phase, by source and label; an empty list where a source has none."""
    base: dict[tuple[Stage, bool], dict[tuple[str, bool], list[Example]]]
    """The others, by stage and label, then by source and whether they only look unsafe."""
    languages: dict[tuple[Stage, str], dict[bool, list[Example]]]
    """Those that are not in English, by stage and language, then by label."""


def _pools(examples: Iterable[Example]) -> _Pools:
    both: dict[tuple[str, bool], list[Example]] = {}
    base: dict[tuple[Stage, bool], dict[tuple[str, bool], list[Example]]] = defaultdict(
        lambda: defaultdict(list)
    )
    languages: dict[tuple[Stage, str], dict[bool, list[Example]]] = defaultdict(
        lambda: {True: [], False: []}
    )
    for e in examples:
        if other_script(e.passage.text):
            continue
        if e.source in _THINKING:
            for label in (False, True):
                both.setdefault((e.source, label), [])
            both[e.source, e.unsafe].append(e)
        if e.lang != "en":
            languages[e.passage.stage, e.lang][e.unsafe].append(e)
        elif e.source not in _THINKING or e.source == "grid":
            base[e.passage.stage, e.unsafe][e.source, e.contrast].append(e)
    return _Pools(both, base, languages)


def _of_source(pools: _Pools, name: str, count: int, draw: random.Random) -> Iterator[Bag]:
    unsafe, safe = pools.both[name, True], pools.both[name, False]
    for _ in range(count):
        rows = unsafe if unsafe and (not safe or draw.random() < _UNSAFE) else safe
        yield _bag(draw.choice(rows), draw)


def _of_stage(pools: _Pools, stage: Stage, count: int, draw: random.Random) -> Iterator[Bag]:
    languages = [
        own for (at, _), own in pools.languages.items() if at is stage and all(own.values())
    ]
    if languages:
        others = round(_OTHER_LANGUAGES * count)
        for number in range(others):
            rows = draw.choice(languages)[number % 2 == 0]
            yield _bag(draw.choice(rows), draw)
        count -= others
    for label in (False, True):
        own = pools.base.get((stage, label), {})
        if not own:
            continue
        weights = [
            len(rows) ** 0.5
            * (_CONTRAST if contrast and not label else 1.0)
            * (_STATEMENT if source in STATEMENTS else 1.0)
            * (_DOCUMENT if source == IN_DOCUMENTS else 1.0)
            for (source, contrast), rows in own.items()
        ]
        for rows in draw.choices(list(own.values()), weights, k=count // 2):
            yield _bag(draw.choice(rows), draw)


def _bag(example: Example, draw: random.Random) -> Bag:
    """A long answer comes, half of the time, as steps, as it does in a stream."""
    passage = example.passage
    passages: tuple[Passage, ...] = (passage,)
    if passage.stage is Stage.ANSWER and len(passage.text) > _LONG_ANSWER and draw.random() < 0.5:
        passages = _some_steps(passage, draw)
    return Bag(passages, passage.stage, example.unsafe, example.scenario, example.stance)


def _some_steps(passage: Passage, draw: random.Random) -> tuple[Passage, ...]:
    steps = [step for step in cut(passage.text) if step.strip()]
    start = draw.randrange(max(1, len(steps) - _BAG + 1))
    return tuple(
        replace(passage, text=steps[at], earlier=tuple(steps[max(0, at - EARLIER_STEPS) : at]))
        for at in range(start, min(len(steps), start + _BAG))
    )
