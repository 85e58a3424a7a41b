"""A judge's scores as log-odds, each passage scored once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from math import exp, log, nan
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from monitors.judges.base import Judge, Passage
from monitors.measure.figures import Vector

_CERTAIN = 20.0  # log-odds of a verdict of exactly 0 or 1
_TOP = 0.9998  # judges clamp their scores: from here on, many rows have the very same one


@runtime_checkable
class Ranking(Protocol):
    """A judge that ranks passages more finely than its clamped scores do."""

    def logit(self, passage: Passage) -> float:
        """The score before calibration."""


@runtime_checkable
class Calibrating(Protocol):
    """A judge that says what becomes of scores before calibration."""

    def calibrated(self, stage: int, logits: NDArray[Any]) -> NDArray[np.float64]:
        """The calibrated scores of a stage, by its number."""


@runtime_checkable
class Tiered(Protocol):
    """A judge with a cheap first tier, which clears the plainly benign."""

    def clears(self, passage: Passage) -> bool:
        """Whether the first tier alone calls the passage benign."""


def log_odds(unsafe: float, logit: Callable[[], float] | None = None) -> float:
    """Of a calibrated score: 0 at the operating point.

    Near the clamp, where scores tie, the score before calibration decides the order.
    """
    if unsafe <= 0.0 or unsafe >= 1.0:
        return _CERTAIN if unsafe >= 1.0 else -_CERTAIN
    odds = log(unsafe / (1 - unsafe))
    return odds if logit is None or unsafe < _TOP else odds + 1 / (1 + exp(-logit() / 10))


class Scorer:
    """One judge and how passages are shown to it. NaN: it could not tell."""

    def __init__(
        self,
        judge: Judge,
        view: Callable[[Passage], Passage] = lambda passage: passage,
        scored: Callable[[], None] = lambda: None,
    ) -> None:
        self.judge = judge
        self.reasons: Counter[str] = Counter()
        """Why it could not tell, and of how many passages."""
        self._view = view
        self._scored = scored
        self._odds: dict[Passage, float] = {}

    def prepare(self, passages: Iterable[Passage]) -> None:
        """Score whatever was not scored yet."""
        for passage in passages:
            self.odds(passage)
            self._scored()

    def odds(self, passage: Passage) -> float:
        """The passage's score."""
        shown = self._view(passage)
        if shown not in self._odds:
            self._odds[shown] = self._score(shown)
        return self._odds[shown]

    def all(self, passages: Iterable[Passage]) -> Vector:
        """The scores of several."""
        return np.array([self.odds(passage) for passage in passages], dtype=np.float64)

    def _score(self, passage: Passage) -> float:
        try:
            verdict = self.judge.score([passage])[0]
        except Exception as error:  # noqa: BLE001  (a judge's failure is an unknown, as in service)
            self.reasons[f"failed: {type(error).__name__}"] += 1
            return nan
        if verdict.unsafe is None:
            self.reasons[verdict.reason or "no reason given"] += 1
            return nan
        judge = self.judge
        logit = partial(judge.logit, passage) if isinstance(judge, Ranking) else None
        return log_odds(verdict.unsafe, logit)
