"""The embedded judge's first tier: a linear model on hashed n-grams.

A passage scores the sum of the weights of its distinct words, word pairs and character 3- to
5-grams within words, over the root of the number of words; so does its request, with weights of its
own. The sum of a word's weights never changes, so words are cached and a step costs a look-up per
word. Text longer than a window is scored in overlapping windows, and the worst one counts.

`monitors.training.fit` makes the weights, with the very functions of this module.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import regex
from numpy.typing import NDArray

from monitors.judges.base import Passage
from monitors.judges.layout import SCENARIOS, STAGES
from monitors.normalise import normalise
from monitors.taxonomy import Stage

# Hash buckets: [0, WORDS) words, then character grams, then word pairs.
WORDS, GRAMS, PAIRS = 1 << 18, 1 << 18, 1 << 19
BUCKETS = WORDS + GRAMS + PAIRS
SCENARIO_WORDS = 1 << 15

WINDOW, STRIDE = 256, 192
"""In words; about 1500 characters of English."""

HEADS = {
    (Stage.INPUT, "text"): 0,
    (Stage.REASONING, "text"): 1,
    (Stage.ANSWER, "text"): 2,
    (Stage.REASONING, "request"): 3,
    (Stage.ANSWER, "request"): 4,
}
"""The column of the weight table for a stage's passages and for the requests they belong to."""

_CONTEXT = 4000, 2000  # characters of a request's start and end that count as context
_CACHED_REQUESTS = 256
_CACHED_WORDS = 1 << 15
_BLOCK = 8192  # words looked up at once: well under the cache, so that a block always fits

_WORD = regex.compile(
    # Scripts that write no spaces: each character is a word.
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|[\p{L}\p{M}]{1,24}(?:'\p{L}{1,3}(?![\p{L}']))?"  # bounded: text without spaces is read too
    r"|\p{N}+|[?!]"
)

Floats = NDArray[np.float32]
Ids = NDArray[np.uint32]


def words(text: str) -> list[str]:
    """The words of a text, normalised; every number is the word "0"."""
    found = _WORD.findall(normalise(text).replace("’", "'"))
    return ["0" if word[0].isdigit() else word for word in found]


def windows(count: int) -> Iterator[tuple[int, int]]:
    """The overlapping windows that cover so many words; at least one."""
    start = 0
    while start + WINDOW < count:
        yield start, start + WINDOW
        start += STRIDE
    yield start, count


def word_ids(word: str) -> list[int]:
    """The bucket of the word, then those of its character grams."""
    ids = [_hash(word) % WORDS]
    if len(word) > 1:
        framed = f"<{word}>"
        ids += [
            WORDS + _hash(framed[at : at + size]) % GRAMS
            for size in (3, 4, 5)
            for at in range(len(framed) - size + 1)
        ]
    return ids


def pair_ids(first: Ids, second: Ids) -> Ids:
    """The buckets of word pairs, from the words' hashes."""
    mixed = first * np.uint32(0x9E3779B1) + second * np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(15)
    return np.uint32(WORDS + GRAMS) + mixed % np.uint32(PAIRS)


def word_hashes(tokens: Sequence[str]) -> Ids:
    """The words' hashes, as `pair_ids` wants them."""
    return np.array([_hash(token) for token in tokens], dtype=np.uint32)


def _hash(text: str) -> int:
    return zlib.crc32(text.encode())


@dataclass(slots=True, frozen=True)
class LinearModel:
    """What training makes. `unsafe`: a row per bucket, a column per head; `bias`: per stage."""

    unsafe: Floats
    bias: Floats
    scenario: Floats
    scenario_bias: Floats


class LinearScore(NamedTuple):
    """What the model says of a passage: logits, `scenarios` in the order of SCENARIOS."""

    logit: float
    scenarios: Floats


class LinearScorer:
    """Scores passages with one model. Thread-safe."""

    def __init__(self, model: LinearModel) -> None:
        self._bias, self._scenario_bias = model.bias, model.scenario_bias
        self._words = _Words(model)
        # All steps of a generation share their request. Of no method of ours: in a cycle a retired
        # judge's arrays would stay until all garbage is looked for.
        self._request_sums = lru_cache(_CACHED_REQUESTS)(self._words.sums)

    def score(self, passage: Passage) -> LinearScore:
        """The passage's worst window, with its request."""
        logit, topics = self._words.sums(passage.text, HEADS[passage.stage, "text"])
        logit += float(self._bias[STAGES.index(passage.stage)])
        topics = topics + self._scenario_bias
        if passage.request and passage.stage is not Stage.INPUT:
            head = HEADS[passage.stage, "request"]
            asked, asked_topics = self._request_sums(_context(passage.request), head)
            logit, topics = logit + asked, topics + asked_topics
        return LinearScore(logit, topics)

    def logit(self, passage: Passage) -> float:
        """How unsafe the passage is, before calibration."""
        return self.score(passage).logit


class _Words:
    """Each word's hash and summed weights, computed once; cleared when full."""

    def __init__(self, model: LinearModel) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        # New arrays, so that a thread that still reads the old ones is not disturbed.
        width = self._model.unsafe.shape[1] + self._model.scenario.shape[1]
        self._rows: dict[str, int] = {}
        self._vectors = np.zeros((_CACHED_WORDS, width), np.float32)
        self._hashes = np.zeros(_CACHED_WORDS, np.uint32)

    def sums(self, text: str, head: int) -> tuple[float, Floats]:
        """The text's worst window: its logit and its scenario logits."""
        tokens = words(text)
        found = [
            self._find(tokens[start : start + _BLOCK])
            for start in range(0, max(1, len(tokens)), _BLOCK - WINDOW)
        ]
        scored = (
            (_window(ids[start:end], vectors, hashes, self._model.unsafe, head))
            for ids, vectors, hashes in found
            for start, end in windows(len(ids))
        )
        return max(scored, key=lambda window: window[0])

    def _find(self, tokens: Sequence[str]) -> tuple[NDArray[np.intp], Floats, Ids]:
        """The row of each word, and the arrays that these rows index: weights and hashes."""
        with self._lock:
            new = [token for token in dict.fromkeys(tokens) if token not in self._rows]
            if new:
                if len(self._rows) + len(new) > _CACHED_WORDS:
                    self._clear()
                    new = list(dict.fromkeys(tokens))
                self._add(new)
            rows = np.array([self._rows[token] for token in tokens], dtype=np.intp)
            return rows, self._vectors, self._hashes

    def _add(self, new: list[str]) -> None:
        ids = [word_ids(word) for word in new]
        starts = np.cumsum([0, *map(len, ids[:-1])])
        first = len(self._rows)
        rows = slice(first, first + len(new))
        flat = np.array([bucket for own in ids for bucket in own], dtype=np.intp)
        heads = self._model.unsafe.shape[1]
        hashes = word_hashes(new)
        self._vectors[rows, :heads] = np.add.reduceat(self._model.unsafe[flat], starts)
        self._vectors[rows, heads:] = self._model.scenario[hashes % SCENARIO_WORDS]
        self._hashes[rows] = hashes
        self._rows.update(zip(new, range(first, first + len(new)), strict=True))


def _window(
    rows: NDArray[np.intp], vectors: Floats, hashes: Ids, unsafe: Floats, head: int
) -> tuple[float, Floats]:
    """One window's logit (without bias) and scenario logits."""
    if not len(rows):
        return 0.0, np.zeros(len(SCENARIOS), np.float32)
    distinct = np.unique(rows)
    pairs = np.unique(pair_ids(hashes[rows[:-1]], hashes[rows[1:]]))
    scale = np.float32(1 / np.sqrt(len(distinct)))
    logit = (vectors[distinct, head].sum() + unsafe[pairs, head].sum()) * scale
    return float(logit), vectors[distinct, unsafe.shape[1] :].sum(axis=0) * scale


def _context(request: str) -> str:
    """What of a request the steps of its reply are judged with; it is judged in full by itself."""
    first, last = _CONTEXT
    if len(request) <= first + last:
        return request
    return f"{request[:first]} {request[-last:]}"
