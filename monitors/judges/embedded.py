"""The judge that ships with the package: a linear model on hashed n-grams, no network needed.

A passage scores the sum of the weights of its distinct words, word pairs and character 3- to
5-grams within words, over the root of the number of words; so does its request, with weights of its
own. The sum of a word's weights never changes, so words are cached and a step costs a look-up per
word. Text longer than a window is scored in overlapping windows, and the worst one counts.

`monitors.training.train` makes the weight files, with the very functions of this module.
"""

from __future__ import annotations

import hashlib
import json
import threading
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np
import regex
from numpy.typing import NDArray

from monitors.errors import JudgeFileError
from monitors.judges.base import Passage, Verdict
from monitors.normalise import normalise
from monitors.taxonomy import Scenario, Stage

FORMAT = 1
RELEASE_FILE = Path(__file__).parent / "data" / "embedded-release.npz"
STAGES = tuple(Stage)
SCENARIOS = tuple(Scenario)

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

_CLAMP = 1e-4
_MIN_SCENARIO = 0.01
_MIN_OPAQUE = 4  # a stray symbol does not make a passage unreadable
_SPAN = 200  # characters, spaces aside, of which most must be readable, wherever they stand
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
_NEUTRAL = frozenset("PZN") | {"Sm", "Sc", "Sk", "Cc"}
_DRAWN = frozenset(map(chr, range(0x2500, 0x2600)))  # what tables and trees are drawn with

_DAMAGED = (
    *(OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error),
    *(TypeError, AttributeError),  # a lone .npy array by the name of an .npz
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
class Model:
    """What training makes. `unsafe`: a row per bucket, a column per head, before calibration."""

    unsafe: Floats
    bias: Floats
    threshold: Floats
    slope: Floats
    rise: Floats
    scenario: Floats
    scenario_bias: Floats
    alphabet: str
    about: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write the file; the same model gives the same bytes."""
        arrays: dict[str, Any] = {
            **_packed("unsafe", self.unsafe),
            **_packed("scenario", self.scenario),
            "bias": self.bias,
            "threshold": self.threshold,
            "slope": self.slope,
            "rise": self.rise,
            "scenario_bias": self.scenario_bias,
            "alphabet": np.array([ord(char) for char in self.alphabet], dtype=np.uint32),
        }
        manifest = {
            "format": FORMAT,
            "about": dict(self.about),
            "sha256": {name: _digest(array) for name, array in arrays.items()},
        }
        text = json.dumps(manifest, sort_keys=True).encode()
        with path.open("wb") as file:
            np.savez_compressed(file, manifest=np.frombuffer(text, np.uint8), **arrays)

    def calibrated(self, stage: int, logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The scores of a stage: 0.5 at its threshold; below, `slope`; above, `rise`.

        Clamped, so that a judge which is not certain never says so.
        """
        above = np.asarray(logits, np.float64) - self.threshold[stage]
        steep = above * np.where(above > 0, self.rise[stage], self.slope[stage])
        unsafe = np.clip(1 / (1 + np.exp(-np.clip(steep, -30, 30))), _CLAMP, 1 - _CLAMP)
        return np.asarray(unsafe, np.float64)

    @classmethod
    def load(cls, path: Path) -> tuple[Self, str]:
        """The model and its version (hash of the manifest, which holds those of all arrays)."""
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            text = arrays.pop("manifest").tobytes()
            manifest = json.loads(text)
        except FileNotFoundError as error:
            raise _unloadable(path, "no such file") from error
        except _DAMAGED as error:
            raise _unloadable(path, "damaged, or not a judge file") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise _unloadable(path, f"not of format {FORMAT}, which this version reads")
        if manifest.get("sha256") != {name: _digest(array) for name, array in arrays.items()}:
            raise _unloadable(path, "damaged: its contents do not match its manifest")
        try:
            model = cls(
                unsafe=_unpacked("unsafe", arrays, BUCKETS),
                scenario=_unpacked("scenario", arrays, SCENARIO_WORDS),
                alphabet="".join(map(chr, arrays.pop("alphabet"))),
                about=manifest["about"],
                **arrays,
            )
        except (KeyError, TypeError) as error:
            raise _unloadable(path, "made by another version of mlrm-guard") from error
        return model, hashlib.sha256(text).hexdigest()[:8]


class EmbeddedJudge:
    """Scores passages with one model. Thread-safe."""

    def __init__(self, model: Model, version: str) -> None:
        self.name = f"embedded@{version}"
        self.about = model.about
        self._model = model
        self._words = _Words(model)
        self._alphabet = frozenset(model.alphabet)
        # All steps of a generation share their request. Of no method of ours: in a cycle a retired
        # judge's arrays would stay until all garbage is looked for.
        self._request_sums = lru_cache(_CACHED_REQUESTS)(self._words.sums)

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Load a weight file, by default the one of this package. Raises JudgeFileError."""
        return cls(*Model.load(path or RELEASE_FILE))

    def score(self, passages: Sequence[Passage]) -> list[Verdict]:
        """One verdict per passage, in order."""
        started = perf_counter()
        return [self._verdict(passage, started) for passage in passages]

    def logit(self, passage: Passage) -> float:
        """The score before calibration, the worst window's."""
        return self._worst(passage)[0]

    def _verdict(self, passage: Passage, started: float) -> Verdict:
        if _opaque(normalise(passage.text), self._alphabet):
            ms = (perf_counter() - started) * 1000
            return Verdict.of_unknown(self.name, "unreadable", ms)
        logit, topics = self._worst(passage)
        stage = STAGES.index(passage.stage)
        unsafe = float(self._model.calibrated(stage, np.array(logit)))
        shares = unsafe * _softmax(topics + self._model.scenario_bias)
        scenarios = {
            scenario: float(share)
            for scenario, share in zip(SCENARIOS, shares, strict=True)
            if share >= _MIN_SCENARIO
        }
        ms = (perf_counter() - started) * 1000
        return Verdict(unsafe=unsafe, judge=self.name, scenarios=scenarios, ms=ms)

    def _worst(self, passage: Passage) -> tuple[float, Floats]:
        logit, topics = self._words.sums(passage.text, HEADS[passage.stage, "text"])
        logit += float(self._model.bias[STAGES.index(passage.stage)])
        if passage.request and passage.stage is not Stage.INPUT:
            head = HEADS[passage.stage, "request"]
            asked, asked_topics = self._request_sums(_context(passage.request), head)
            logit, topics = logit + asked, topics + asked_topics
        return logit, topics


class _Words:
    """Each word's hash and summed weights, computed once; cleared when full."""

    def __init__(self, model: Model) -> None:
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


def _packed(name: str, weights: Floats) -> dict[str, NDArray[Any]]:
    """Eight bits a weight, finer near zero, where nearly all of them lie: signed roots."""
    peak = np.maximum(np.abs(weights).max(axis=0), 1e-12).astype(np.float32)
    codes = np.rint(127 * np.sign(weights) * np.sqrt(np.abs(weights) / peak)).astype(np.int8)
    # Column by column: runs of like values compress better.
    return {f"{name}_codes": np.ascontiguousarray(codes.T), f"{name}_peak": peak}


def _unpacked(name: str, arrays: dict[str, NDArray[Any]], rows: int) -> Floats:
    codes = arrays.pop(f"{name}_codes").T.astype(np.float32) / 127
    if len(codes) != rows:
        raise JudgeFileError(f"{name}: {len(codes)} rows, expected {rows}")
    return np.ascontiguousarray(codes * np.abs(codes) * arrays.pop(f"{name}_peak"))


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _unloadable(path: Path, problem: str) -> JudgeFileError:
    remedy = (
        "reinstall mlrm-guard"
        if path == RELEASE_FILE
        else "make one with `mlrm-guard judge train`, or use the shipped one: `embedded`"
    )
    return JudgeFileError(f"judge file {path}: {problem}; {remedy}")
