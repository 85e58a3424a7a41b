"""The judge that ships with the package: two tiers, no network, one thread.

A linear model clears what is plainly benign; what it does not clear, a small encoder reads together
with its request and the steps before it. What both find is mixed into one score. Text longer than a
window is judged in overlapping windows, and the worst one counts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from monitors.judges.base import Passage, Verdict
from monitors.judges.encoder import Encoder
from monitors.judges.judge_file import RELEASE_FILE, JudgeFile, unloadable
from monitors.judges.layout import SCENARIOS, STAGES, STANCES
from monitors.judges.linear import LinearScore, LinearScorer
from monitors.normalise import normalise
from monitors.taxonomy import Scenario

_MIN_SCENARIO = 0.01
_CLEARED = 4.0
"""Log-odds: what the first tier clears scores at most 0.018, less the plainer it is."""

_MIN_OPAQUE = 4  # a stray symbol does not make a passage unreadable
_SPAN = 200  # characters, spaces aside, of which most must be readable, wherever they stand
_NEUTRAL = frozenset("PZN") | {"Sm", "Sc", "Sk", "Cc"}
_DRAWN = frozenset(map(chr, range(0x2500, 0x2600)))  # what tables and trees are drawn with

_FULFILLING, _REFUSING = (
    len(STAGES) + len(SCENARIOS) + STANCES.index(stance) for stance in ("fulfilling", "refusing")
)

Floats = NDArray[np.float32]


class _Found(NamedTuple):
    """What the tiers say of a passage: the score before calibration, and scenario logits."""

    logit: float
    scenarios: Floats


class _Read(NamedTuple):
    """What the encoder says of a passage's worst piece."""

    unsafe: float
    stance: float
    scenarios: Floats


class EmbeddedJudge:
    """Scores passages with one judge file. Thread-safe."""

    def __init__(self, file: JudgeFile, version: str) -> None:
        """Raises ValueError for an encoder that does not fit."""
        if file.encoder is None and file.mix[:, [0, 2]].any():
            raise ValueError("it weighs an encoder that it does not hold")
        self.name = f"embedded@{version}"
        self.about: Mapping[str, Any] = file.about
        self._linear = LinearScorer(file.linear)
        self._encoder = None if file.encoder is None else Encoder(*file.encoder)
        self._file = replace(file, encoder=None)  # the encoder has its own copy of those bytes
        self._alphabet = frozenset(file.alphabet)

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Load a judge file, by default the one of this package. Raises JudgeFileError."""
        path = path or RELEASE_FILE
        file, version = JudgeFile.load(path)
        try:
            return cls(file, version)
        except ValueError as error:
            raise unloadable(path, str(error)) from error

    def score(self, passages: Sequence[Passage]) -> list[Verdict]:
        """One verdict per passage, in order."""
        started = perf_counter()
        return [self._verdict(passage, started) for passage in passages]

    def logit(self, passage: Passage) -> float:
        """The score before calibration, the worst piece's."""
        return self._find(passage).logit

    def features(self, passage: Passage) -> NDArray[np.float64]:
        """What `mix` weighs, less its 1: encoder unsafe, linear, stance; of the worst piece.

        The first tier clears nothing here; without an encoder its two are 0.
        """
        linear = self._linear.logit(passage)
        read = self._read(passage)
        if read is None:
            return np.array([0.0, linear, 0.0])
        return np.array([read.unsafe, linear, read.stance])

    def _verdict(self, passage: Passage, started: float) -> Verdict:
        if self._unreadable(passage):
            ms = (perf_counter() - started) * 1000
            return Verdict.of_unknown(self.name, "unreadable", ms)
        found = self._find(passage)
        stage = STAGES.index(passage.stage)
        unsafe = float(self._file.calibrated(stage, np.array(found.logit)))
        scenarios = _shares(unsafe, found.scenarios)
        ms = (perf_counter() - started) * 1000
        return Verdict(unsafe=unsafe, judge=self.name, scenarios=scenarios, ms=ms)

    def _unreadable(self, passage: Passage) -> bool:
        return _opaque(normalise(passage.text), self._alphabet)

    def _find(self, passage: Passage) -> _Found:
        linear = self._linear.score(passage)
        stage = STAGES.index(passage.stage)
        if linear.logit < self._file.clear[stage]:
            return self._cleared(stage, linear)
        read = self._read(passage)
        if read is None:
            return _Found(self._mixed(stage, 0.0, linear.logit, 0.0), linear.scenarios)
        return _Found(self._mixed(stage, read.unsafe, linear.logit, read.stance), read.scenarios)

    def _mixed(self, stage: int, *features: float) -> float:
        return float(np.dot(self._file.mix[stage].astype(np.float64), [*features, 1.0]))

    def _cleared(self, stage: int, linear: LinearScore) -> _Found:
        """In the other scores' scale: `calibrated` puts it where it belongs."""
        file = self._file
        below = _CLEARED / float(file.slope[stage]) + float(file.clear[stage]) - linear.logit
        return _Found(float(file.threshold[stage]) - below, linear.scenarios)

    def _read(self, passage: Passage) -> _Read | None:
        """None: there is no encoder."""
        if self._encoder is None:
            return None
        pieces = self._encoder.logits(passage)
        stage = STAGES.index(passage.stage)
        worst = pieces[pieces[:, stage].argmax()]
        return _Read(
            unsafe=float(worst[stage]),
            stance=float(worst[_FULFILLING] - worst[_REFUSING]),
            scenarios=worst[len(STAGES) : len(STAGES) + len(SCENARIOS)],
        )


def _shares(unsafe: float, logits: Floats) -> dict[Scenario, float]:
    """The score, shared among the scenarios; those with next to nothing left out."""
    powers = np.exp(logits - logits.max())
    shares = unsafe * powers / powers.sum()
    return {
        scenario: float(share)
        for scenario, share in zip(SCENARIOS, shares, strict=True)
        if share >= _MIN_SCENARIO
    }


def _opaque(text: str, alphabet: frozenset[str]) -> bool:
    """Whether a text, or most of a span of it, is in characters that training never showed: what
    stands there cannot be read, whatever stands around it.

    Numbers, punctuation and formulae are plain to everyone and never opaque.
    """
    if text.isascii():
        return False
    unseen = [char for char in text if char not in alphabet and not char.isascii()]
    if len(unseen) < _MIN_OPAQUE:
        return False
    strange = {
        char
        for char in set(unseen)
        if not ({category := unicodedata.category(char), category[0]} & _NEUTRAL)
        and char not in _DRAWN
    }
    counts = list(accumulate((char in strange for char in text if char != " "), initial=0))
    span = min(_SPAN, len(counts) - 1)
    most = max(after - before for before, after in zip(counts, counts[span:], strict=False))
    return most >= _MIN_OPAQUE and 2 * most > span


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum(), dtype=np.float32)
