"""Fit the embedded judge's weights. Needs the `train` extra (scipy).

A row's logit is x.(W + W_stage) + r.(R_stage) + b_stage: what harm looks like is shared between the
stages as far as it helps.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from monitors.judges import linear
from monitors.judges.judge_file import JudgeFile
from monitors.judges.layout import SCENARIOS, STAGES
from monitors.judges.linear import HEADS, Floats, LinearModel
from monitors.normalise import normalise
from monitors.taxonomy import Stage
from monitors.training.corpus import Example, augmented

Vector = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(slots=True, frozen=True)
class Settings:
    """Chosen among a few by out-of-fold AUROC, on the rows that hold style still first of all."""

    folds: int = 5
    min_rows: int = 3
    gram_value: float = 0.2
    shared_penalty: float = 1.5
    stage_penalty: float = 3.0
    request_penalty: float = 8.0
    contrast: float = 3.0
    read: float = 2.0
    iterations: int = 60
    false_alarms: tuple[float, float, float] = (0.05, 0.02, 0.02)


# --- features ---


@dataclass(slots=True)
class _Rows:
    """One stage's windows: features, request features (by distinct request), labels, weights."""

    text: sparse.csr_matrix
    requests: sparse.csr_matrix
    request: NDArray[np.int64]
    unsafe: Flags
    weight: Vector
    fold: NDArray[np.int64]


class _Featuriser:
    """Hashed features of windows, as the judge computes them."""

    def __init__(self, gram_value: float) -> None:
        self._gram_value = gram_value
        self._words: dict[str, tuple[int, NDArray[np.int32]]] = {}

    def matrix(self, tokens: Sequence[Sequence[str]]) -> sparse.csr_matrix:
        """One row per window."""
        rows = [self._row(window) for window in tokens]
        starts = np.cumsum([0, *(len(ids) for ids, _ in rows)])
        ids = np.concatenate([ids for ids, _ in rows]) if rows else np.zeros(0, np.int32)
        values = np.repeat(np.array([value for _, value in rows], np.float32), np.diff(starts))
        grams = (ids >= linear.WORDS) & (ids < linear.WORDS + linear.GRAMS)
        values[grams] *= self._gram_value
        return sparse.csr_matrix((values, ids, starts), shape=(len(rows), linear.BUCKETS))

    def _row(self, tokens: Sequence[str]) -> tuple[NDArray[np.int32], float]:
        if not tokens:
            return np.zeros(0, np.int32), 0.0
        distinct = [self._word(word) for word in dict.fromkeys(tokens)]
        hashes = np.array([self._word(word)[0] for word in tokens], np.uint32)
        pairs = np.unique(linear.pair_ids(hashes[:-1], hashes[1:])).astype(np.int32)
        return np.concatenate([*(ids for _, ids in distinct), pairs]), len(distinct) ** -0.5

    def _word(self, word: str) -> tuple[int, NDArray[np.int32]]:
        if word not in self._words:
            ids = np.array(linear.word_ids(word), np.int32)
            self._words[word] = int(linear.word_hashes([word])[0]), ids
        return self._words[word]


def _windows(text: str) -> list[list[str]]:
    tokens = linear.words(text)
    return [tokens[start:end] for start, end in linear.windows(len(tokens))]


def fold_of(group: str, folds: int) -> int:
    """The fold of a group, the same for examples and traces."""
    return zlib.crc32(group.encode()) % folds


def _stage_rows(
    examples: Sequence[Example], weights: Vector, featuriser: _Featuriser, settings: Settings
) -> _Rows:
    requests = {
        text: at for at, text in enumerate(dict.fromkeys(e.passage.request for e in examples))
    }
    cut = [_windows(example.passage.text) for example in examples]
    owner = np.repeat(np.arange(len(examples)), [len(windows) for windows in cut])
    share = np.array([1 / len(windows) for windows in cut])
    return _Rows(
        text=featuriser.matrix([window for windows in cut for window in windows]),
        requests=featuriser.matrix([_windows(text)[0] for text in requests]),
        request=np.array([requests[e.passage.request] for e in examples], np.int64)[owner],
        unsafe=np.array([e.unsafe for e in examples])[owner],
        weight=(weights * share)[owner],
        fold=np.array([fold_of(e.group, settings.folds) for e in examples])[owner],
    )


def row_weights(examples: Sequence[Example], settings: Settings) -> Vector:
    """A source weighs the root of its size; in each language of a stage both labels weigh the same,
    or the language would tell the label.
    """
    sizes = Counter((e.source, e.passage.stage, e.unsafe) for e in examples)
    weights = np.array(
        [
            e.weight
            * sizes[e.source, e.passage.stage, e.unsafe] ** -0.5
            * (settings.contrast if e.contrast and not e.unsafe else 1.0)
            * (settings.read if e.source.endswith(":read") else 1.0)
            for e in examples
        ]
    )
    _cap_revoiced(examples, weights)
    _balance_languages(examples, weights)
    stages = np.array([STAGES.index(e.passage.stage) for e in examples])
    unsafe = np.array([e.unsafe for e in examples])
    for stage in range(len(STAGES)):
        for label in (False, True):
            chosen = (stages == stage) & (unsafe == label)
            if chosen.any():
                weights[chosen] *= (stages == stage).sum() / 2 / weights[chosen].sum()
    return weights


def _balance_languages(examples: Sequence[Example], weights: Vector) -> None:
    own: dict[tuple[Stage, str], dict[bool, list[int]]] = defaultdict(lambda: {True: [], False: []})
    for at, e in enumerate(examples):
        own[e.passage.stage, e.lang][e.unsafe].append(at)
    for labels in own.values():
        if all(labels.values()):
            whole = weights[labels[True] + labels[False]].sum()
            for rows in labels.values():
                weights[rows] *= whole / 2 / weights[rows].sum()


def _cap_revoiced(examples: Sequence[Example], weights: Vector) -> None:
    """Templates must not outweigh real thinking: at most half of the unsafe steps' weight."""
    unsafe_step = np.array([e.unsafe and e.passage.stage is Stage.REASONING for e in examples])
    revoiced = unsafe_step & np.array([e.source.endswith("+revoiced") for e in examples])
    real = weights[unsafe_step & ~revoiced].sum()
    if 0 < real < weights[revoiced].sum():
        weights[revoiced] *= real / weights[revoiced].sum()


# --- fitting ---


class Problem:
    """The featurised corpus; fits models on all of it, or on all folds but one."""

    def __init__(self, examples: Sequence[Example], settings: Settings) -> None:
        self.settings = settings
        rows = list(augmented(examples))
        weights = row_weights(rows, settings)
        featuriser = _Featuriser(settings.gram_value)
        self._stages = []
        for stage in STAGES:
            chosen = [at for at, e in enumerate(rows) if e.passage.stage is stage]
            self._stages.append(
                _stage_rows([rows[at] for at in chosen], weights[chosen], featuriser, settings)
            )
        self._columns = self._compact()
        self._topics = [e for e in examples if e.unsafe and e.scenario is not None]
        self._alphabet = _alphabet(examples)

    def _compact(self) -> NDArray[np.int64]:
        """Keep the buckets that enough windows have; the others' weights stay zero."""
        matrices = [m for rows in self._stages for m in (rows.text, rows.requests)]
        counts = sum(np.bincount(m.indices, minlength=linear.BUCKETS) for m in matrices)
        columns = np.flatnonzero(np.asarray(counts) >= self.settings.min_rows)
        position = np.full(linear.BUCKETS, -1, np.int32)
        position[columns] = np.arange(len(columns))
        for rows in self._stages:
            rows.text = _renumbered(rows.text, position, len(columns))
            rows.requests = _renumbered(rows.requests, position, len(columns))
        return columns

    def fit(self, held_out: int | None = None) -> JudgeFile:
        """Fit on every fold but `held_out`; uncalibrated."""
        parts = [_without(rows, held_out) for rows in self._stages]
        weights, bias = _fit_unsafe(parts, len(self._columns), self.settings)
        unsafe = np.zeros((linear.BUCKETS, len(HEADS)), np.float32)
        unsafe[self._columns] = weights.T
        unsafe[linear.WORDS : linear.WORDS + linear.GRAMS] *= self.settings.gram_value
        # Held-out scores are for the calibration of `unsafe`: they need no scenarios.
        scenario, scenario_bias = _fit_scenarios(self._topics if held_out is None else [])
        model = LinearModel(unsafe, bias.astype(np.float32), scenario, scenario_bias)
        return JudgeFile.of_linear(model, self._alphabet)


def _renumbered(
    matrix: sparse.csr_matrix, position: NDArray[np.int32], width: int
) -> sparse.csr_matrix:
    at = position[matrix.indices]
    keep = at >= 0
    kept = np.concatenate([[0], np.cumsum(keep)])
    return sparse.csr_matrix(
        (matrix.data[keep], at[keep], kept[matrix.indptr]), shape=(matrix.shape[0], width)
    )


def _without(rows: _Rows, held_out: int | None) -> _Rows:
    if held_out is None:
        return rows
    keep = rows.fold != held_out
    return replace(
        rows,
        text=rows.text[keep],
        request=rows.request[keep],
        unsafe=rows.unsafe[keep],
        weight=rows.weight[keep],
        fold=rows.fold[keep],
    )


def _fit_unsafe(parts: Sequence[_Rows], width: int, settings: Settings) -> tuple[Floats, Vector]:
    """Weighted logistic regression; returns the weights of each head and the bias of each stage."""
    stages = len(STAGES)
    penalty = np.array(
        [settings.shared_penalty]
        + [settings.stage_penalty] * stages
        + [settings.request_penalty] * 2
    )[:, None]

    def loss(flat: Vector) -> tuple[float, Vector]:
        weights = flat[:-stages].reshape(-1, width)
        gradient = penalty * weights
        total = float((gradient * weights).sum()) / 2
        bias_gradient = np.zeros(stages)
        for at, rows in enumerate(parts):
            part = (weights[0] + weights[1 + at]).astype(np.float32)
            logits = rows.text @ part + flat[-stages + at]
            if at:
                ask = weights[stages + at].astype(np.float32)
                logits = logits + (rows.requests @ ask)[rows.request]
            signed = np.where(rows.unsafe, logits, -logits)
            total += float((rows.weight * np.logaddexp(0, -signed)).sum())
            slack = rows.weight / (1 + np.exp(np.clip(signed, -30, 30)))
            residual = np.where(rows.unsafe, -slack, slack)
            bias_gradient[at] = residual.sum()
            pull = rows.text.T @ residual.astype(np.float32)
            gradient[0] += pull
            gradient[1 + at] += pull
            if at:
                asked = np.bincount(rows.request, residual, rows.requests.shape[0])
                gradient[stages + at] += rows.requests.T @ asked.astype(np.float32)
        return total, np.concatenate([gradient.ravel(), bias_gradient])

    found = _minimum(loss, (1 + stages + 2) * width + stages, settings.iterations)
    weights = found[:-stages].reshape(-1, width)
    heads = np.concatenate([weights[0] + weights[1 : 1 + stages], weights[1 + stages :]])
    return heads.astype(np.float32), found[-stages:]


def _fit_scenarios(examples: Sequence[Example]) -> tuple[Floats, Floats]:
    """A softmax over scenarios on the words of text and request, of unsafe rows."""
    classes = len(SCENARIOS)
    weights = np.zeros((linear.SCENARIO_WORDS, classes), np.float32)
    if not examples:
        return weights, np.zeros(classes, np.float32)
    matrix = _scenario_words([e.passage.text for e in examples])
    matrix = matrix + _scenario_words([e.passage.request for e in examples])
    label = np.array([SCENARIOS.index(e.scenario) for e in examples if e.scenario])
    sizes = np.bincount(label, minlength=classes)
    weight = sizes[label] ** -0.5
    weight *= len(label) / weight.sum()
    hot = np.eye(classes)[label]
    columns = np.unique(matrix.indices)
    matrix, width = matrix[:, columns], len(columns)

    def loss(flat: Vector) -> tuple[float, Vector]:
        kernel, bias = flat[:-classes].reshape(width, classes), flat[-classes:]
        logits = matrix @ kernel + bias
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        shares = odds / odds.sum(axis=1, keepdims=True)
        own = shares[np.arange(len(label)), label]
        residual = weight[:, None] * (shares - hot)
        gradient = matrix.T @ residual + kernel
        total = -(weight * np.log(own + 1e-30)).sum() + (kernel**2).sum() / 2
        return float(total), np.concatenate([gradient.ravel(), residual.sum(axis=0)])

    found = _minimum(loss, (width + 1) * classes, 40).astype(np.float32)
    bias = found[-classes:]
    bias[sizes == 0] = -10
    weights[columns] = found[:-classes].reshape(width, classes)
    return weights, bias


def _scenario_words(texts: Sequence[str]) -> sparse.csr_matrix:
    rows = []
    for text in texts:
        distinct = list(dict.fromkeys(_windows(text)[0]))
        rows.append(linear.word_hashes(distinct) % linear.SCENARIO_WORDS)
    starts = np.cumsum([0, *map(len, rows)])
    values = np.repeat([max(1, len(row)) ** -0.5 for row in rows], np.diff(starts))
    ids = np.concatenate(rows).astype(np.int32)
    return sparse.csr_matrix((values, ids, starts), shape=(len(rows), linear.SCENARIO_WORDS))


def _minimum(loss: Callable[[Vector], tuple[float, Vector]], size: int, iterations: int) -> Vector:
    """Where a loss, given with its gradient, is least; sought from zero."""
    options = {"maxiter": iterations, "maxcor": 6}
    found = optimize.minimize(loss, np.zeros(size), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x, np.float64)


def _alphabet(examples: Sequence[Example]) -> str:
    """The characters beyond ASCII that training has shown at least twice."""
    counts: Counter[str] = Counter()
    for example in examples:
        if not example.passage.text.isascii():
            counts.update(normalise(example.passage.text))
    return "".join(sorted(c for c, count in counts.items() if count > 1 and not c.isascii()))
