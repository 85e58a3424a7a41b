"""Synthetic generations: a judge that reads its score from the text, so that all is known."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from monitors.calibration.collect import Judged, Step
from monitors.calibration.rows import Generation
from monitors.judges.base import Passage, Verdict
from monitors.taxonomy import Scenario, Stage

_SCORE = re.compile(r"score (\d+)")


class Reader:
    """Scores "Some sentence of score 35." as 0.35."""

    name = "reader@1"

    def __init__(self) -> None:
        self.asked: list[Passage] = []

    def score(self, passages: Sequence[Passage]) -> list[Verdict]:
        self.asked += passages
        return [self._verdict(passage) for passage in passages]

    def _verdict(self, passage: Passage) -> Verdict:
        found = _SCORE.search(passage.text)
        if found is None:
            return Verdict.of_unknown(self.name, "unreadable")
        p = int(found[1]) / 100
        return Verdict(p, self.name, {Scenario.FRAUD: 0.6 * p})


def text(scores: Iterable[int]) -> str:
    return " ".join(f"This sentence is of score {score}." for score in scores)


def onset(scores: Sequence[int], at: int) -> int:
    """The first character of a sentence."""
    return len(text(scores[:at])) + (at > 0)


def judged(
    scores: Sequence[float], *, unsafe_from: int | None = None, id: str = "g", **fields: Any
) -> Judged:
    """A judged generation whose steps have 40 characters each."""
    generation = Generation(
        id=id,
        source=fields.pop("source", "s"),
        group=fields.pop("group", id),
        prompt="",
        reasoning="x" * 40 * len(scores),
        onset=None if unsafe_from is None else 40 * unsafe_from,
        **fields,
    )
    steps = [
        Step(Stage.REASONING, 40 * at, 40 * (at + 1), Verdict(score, "test"))
        for at, score in enumerate(scores)
    ]
    return Judged(generation, steps)


def draw(rng: random.Random, safe: int, unsafe: int) -> list[Judged]:
    """Safe generations that now and then look bad, and unsafe ones that turn in the middle."""

    def low() -> float:
        return 0.85 if rng.random() < 0.04 else rng.uniform(0.02, 0.45)

    def high() -> float:
        return rng.uniform(0.6, 0.97) if rng.random() < 0.8 else low()

    found = [judged([low() for _ in range(8)], id=f"s{at}") for at in range(safe)]
    for at in range(unsafe):
        scores = [low() for _ in range(3)] + [high() for _ in range(6)]
        found.append(judged(scores, unsafe_from=3, id=f"u{at}"))
    return found


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Trace rows for `Reader`: three quarters safe."""
    rng = random.Random(seed)
    found = []
    for at in range(count):
        odd = rng.random() < 0.1
        scores = [rng.randint(2, 45) for _ in range(12)]
        scores[2:4] = [rng.randint(75, 90) for _ in range(2)] if odd else scores[2:4]
        row: dict[str, Any] = {"id": f"r{at}", "prompt": "How?", "source": f"source{at % 3}"}
        if at % 4 == 3:
            scores[6:] = [rng.randint(70, 97) for _ in range(6)]
            row["onset_char"] = onset(scores, 6)
        row |= {"unsafe_reasoning": int(at % 4 == 3), "reasoning": text(scores)}
        found.append(row)
    return found


def write(path: Path, found: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path
