"""Whole generations as measuring sees them: a score per step, and where the steps end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from monitors.errors import TraceError
from monitors.judges.base import Judge, Passage
from monitors.measure.figures import Vector, pessimistic
from monitors.measure.scoring import Calibrating, log_odds
from monitors.taxonomy import Stage
from monitors.trace import read_rows
from monitors.training.corpus import Generation

_DENSE = ("ja", "zh")  # scripts that say more in fewer characters
_CHARACTERS, _DENSE_CHARACTERS = 4.0, 1.5  # per token
_MAX_UNSAFE_STEPS = 6  # from the onset on; later ones may well be harmless again


@dataclass(slots=True, frozen=True)
class Trace:
    """One generation with the scores of its steps (NaN: unknown).

    `turn`: the first step of an unsafe trace that is unsafe; in a safe side of a pair, the first
    one that the other side does not share. `ends`: where each step ends, in tokens.
    """

    id: str
    source: str
    group: str
    lang: str
    voice: str
    unsafe: bool | None
    turn: int | None
    odds: Vector
    ends: Vector
    read: bool = False
    left_out: bool = False

    @property
    def labels(self) -> list[tuple[float, bool]]:
        """The steps whose label is known, with their scores: the first ones from the onset on are
        unsafe, those before it, and all of a safe trace, are not."""
        if self.unsafe is None or (self.unsafe and self.turn is None):
            return []
        if not self.unsafe:
            return [(odds, False) for odds in self.odds]
        first = self.turn or 0
        shown = self.odds[: first + _MAX_UNSAFE_STEPS]
        return [(odds, at >= first) for at, odds in enumerate(shown)]

    def top(self, count: int, *, behind_turn: bool = False) -> float:
        """The mean of its highest scores, as measured against its label."""
        odds = self.odds[self.turn or 0 :] if behind_turn else self.odds
        if not len(odds):
            return float("nan")
        known = pessimistic(odds, np.full(len(odds), bool(self.unsafe)))
        return float(np.sort(known)[-count:].mean())


def of_generation(generation: Generation, odds_of: Callable[[Iterable[Passage]], Vector]) -> Trace:
    """A generation's trace; steps without text do not count."""
    kept = [at for at, step in enumerate(generation.steps) if step.text.strip()]
    ends = list(accumulate(len(step.text) for step in generation.steps))
    onset = generation.onset
    return Trace(
        id=generation.id,
        source=generation.source,
        group=generation.group,
        lang=generation.lang,
        voice=getattr(generation, "voice", ""),
        unsafe=generation.unsafe,
        turn=None if onset is None else sum(at < onset for at in kept),
        odds=odds_of(generation.steps[at] for at in kept),
        ends=_tokens([ends[at] for at in kept], generation.lang),
        read=generation.read,
    )


class _Row(BaseModel):
    """One line of a file of out-of-fold scores."""

    model_config = ConfigDict(extra="ignore", strict=False)

    id: str
    source: str
    group: str
    lang: str = "en"
    voice: str = ""
    unsafe: bool | None
    onset: int | None = Field(ge=0)
    steps: list[float | None]
    chars: list[int]
    left_out: bool | str | None = None

    @model_validator(mode="after")
    def _aligned(self) -> _Row:
        if len(self.steps) != len(self.chars):
            raise ValueError(f"{len(self.steps)} steps, but {len(self.chars)} ends in `chars`")
        return self


def out_of_fold(path: Path, judge: Judge, read: frozenset[str]) -> Iterator[Trace]:
    """The traces of a file of out-of-fold scores, which are scores before calibration."""
    for number, found in read_rows(path):
        if isinstance(found, TraceError):
            raise found
        try:
            row = _Row.model_validate(found)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or None
            raise TraceError(str(path), number, field, first["msg"]) from error
        logits = np.array(row.steps, dtype=np.float64)
        yield Trace(
            id=row.id,
            source=row.source,
            group=row.group,
            lang=row.lang,
            voice=row.voice,
            unsafe=row.unsafe,
            turn=row.onset,
            odds=_calibrated(judge, logits),
            ends=_tokens(row.chars, row.lang),
            read=row.id in read or row.source == "pairs",
            left_out=bool(row.left_out),
        )


def _calibrated(judge: Judge, logits: Vector) -> Vector:
    if not isinstance(judge, Calibrating):
        return logits
    scores = judge.calibrated(list(Stage).index(Stage.REASONING), logits)
    pairs = zip(scores, logits, strict=True)
    return np.array([log_odds(float(score), logit.item) for score, logit in pairs])


def _tokens(characters: list[int], lang: str) -> Vector:
    per_token = _DENSE_CHARACTERS if lang in _DENSE else _CHARACTERS
    return np.array(characters, dtype=np.float64) / per_token
