"""Train, calibrate and measure the embedded judge. Needs the `train` extra (scipy).

A row's logit is x.(W + W_stage) + r.(R_stage) + b_stage: what harm looks like is shared between the
stages as far as it helps. Calibration and thresholds come from out-of-fold scores, folds by group;
the dev split is only measured on, once, at the end.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from scipy import optimize, sparse

from monitors.corpus import LICENCES, Build, Corpus, Example, Generation, augmented, digest, load
from monitors.errors import UserError
from monitors.judges import embedded
from monitors.judges.base import Passage
from monitors.judges.embedded import HEADS, SCENARIOS, STAGES, EmbeddedJudge, Floats, Model
from monitors.normalise import normalise
from monitors.taxonomy import Stage

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
        grams = (ids >= embedded.WORDS) & (ids < embedded.WORDS + embedded.GRAMS)
        values[grams] *= self._gram_value
        return sparse.csr_matrix((values, ids, starts), shape=(len(rows), embedded.BUCKETS))

    def _row(self, tokens: Sequence[str]) -> tuple[NDArray[np.int32], float]:
        if not tokens:
            return np.zeros(0, np.int32), 0.0
        distinct = [self._word(word) for word in dict.fromkeys(tokens)]
        hashes = np.array([self._word(word)[0] for word in tokens], np.uint32)
        pairs = np.unique(embedded.pair_ids(hashes[:-1], hashes[1:])).astype(np.int32)
        return np.concatenate([*(ids for _, ids in distinct), pairs]), len(distinct) ** -0.5

    def _word(self, word: str) -> tuple[int, NDArray[np.int32]]:
        if word not in self._words:
            ids = np.array(embedded.word_ids(word), np.int32)
            self._words[word] = int(embedded.word_hashes([word])[0]), ids
        return self._words[word]


def _windows(text: str) -> list[list[str]]:
    tokens = embedded.words(text)
    return [tokens[start:end] for start, end in embedded.windows(len(tokens))]


def fold_of(group: str, folds: int) -> int:
    """The fold of a group, the same for examples and traces."""
    return zlib.crc32(group.encode()) % folds


def _stage_rows(
    examples: Sequence[Example], weights: Vector, featuriser: _Featuriser, folds: int
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
        fold=np.array([fold_of(e.group, folds) for e in examples])[owner],
    )


def row_weights(examples: Sequence[Example], settings: Settings) -> Vector:
    """A source weighs the root of its size; in each stage both labels weigh the same."""
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
    stages = np.array([STAGES.index(e.passage.stage) for e in examples])
    unsafe = np.array([e.unsafe for e in examples])
    for stage in range(len(STAGES)):
        for label in (False, True):
            chosen = (stages == stage) & (unsafe == label)
            if chosen.any():
                weights[chosen] *= (stages == stage).sum() / 2 / weights[chosen].sum()
    return weights


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
        self._featuriser = _Featuriser(settings.gram_value)
        self._stages = []
        for stage in STAGES:
            chosen = [at for at, e in enumerate(rows) if e.passage.stage is stage]
            self._stages.append(
                _stage_rows(
                    [rows[at] for at in chosen], weights[chosen], self._featuriser, settings.folds
                )
            )
        self._columns = self._compact(settings.min_rows)
        self._topics = [e for e in examples if e.unsafe and e.scenario is not None]
        self._alphabet = _alphabet(examples)

    def _compact(self, min_rows: int) -> NDArray[np.int64]:
        """Keep the buckets that enough windows have; the others' weights stay zero."""
        matrices = [m for rows in self._stages for m in (rows.text, rows.requests)]
        counts = sum(np.bincount(m.indices, minlength=embedded.BUCKETS) for m in matrices)
        columns = np.flatnonzero(np.asarray(counts) >= min_rows)
        position = np.full(embedded.BUCKETS, -1, np.int32)
        position[columns] = np.arange(len(columns))
        for rows in self._stages:
            rows.text = _renumbered(rows.text, position, len(columns))
            rows.requests = _renumbered(rows.requests, position, len(columns))
        return columns

    def fit(self, held_out: int | None = None) -> Model:
        """Fit on every fold but `held_out`; uncalibrated."""
        parts = [_without(rows, held_out) for rows in self._stages]
        weights, bias = _fit_unsafe(parts, len(self._columns), self.settings)
        unsafe = np.zeros((embedded.BUCKETS, len(HEADS)), np.float32)
        unsafe[self._columns] = weights.T
        unsafe[embedded.WORDS : embedded.WORDS + embedded.GRAMS] *= self.settings.gram_value
        # Held-out scores are for the calibration of `unsafe`: they need no scenarios.
        scenario, scenario_bias = _fit_scenarios(self._topics if held_out is None else [])
        return Model(
            unsafe=unsafe,
            bias=bias.astype(np.float32),
            threshold=np.zeros(len(STAGES), np.float32),
            slope=np.ones(len(STAGES), np.float32),
            rise=np.ones(len(STAGES), np.float32),
            scenario=scenario,
            scenario_bias=scenario_bias,
            alphabet=self._alphabet,
            about={},
        )


def _renumbered(matrix: sparse.csr_matrix, position: Any, width: int) -> sparse.csr_matrix:
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

    start = np.zeros((1 + stages + 2) * width + stages)
    found = optimize.minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": settings.iterations, "maxcor": 6},
    ).x
    weights = found[:-stages].reshape(-1, width)
    heads = np.concatenate([weights[0] + weights[1 : 1 + stages], weights[1 + stages :]])
    return heads.astype(np.float32), found[-stages:]


def _fit_scenarios(examples: Sequence[Example]) -> tuple[Floats, Floats]:
    """A softmax over scenarios on the words of text and request, of unsafe rows."""
    classes = len(SCENARIOS)
    if not examples:
        return np.zeros((embedded.SCENARIO_WORDS, classes), np.float32), np.zeros(
            classes, np.float32
        )
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
        weights, bias = flat[:-classes].reshape(width, classes), flat[-classes:]
        logits = matrix @ weights + bias
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        shares = odds / odds.sum(axis=1, keepdims=True)
        own = shares[np.arange(len(label)), label]
        residual = weight[:, None] * (shares - hot)
        gradient = matrix.T @ residual + weights
        total = -(weight * np.log(own + 1e-30)).sum() + (weights**2).sum() / 2
        return float(total), np.concatenate([gradient.ravel(), residual.sum(axis=0)])

    start = np.zeros((width + 1) * classes)
    found = optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 40, "maxcor": 6}
    ).x.astype(np.float32)
    bias = found[-classes:]
    bias[sizes == 0] = -10
    weights = np.zeros((embedded.SCENARIO_WORDS, classes), np.float32)
    weights[columns] = found[:-classes].reshape(width, classes)
    return weights, bias


def _scenario_words(texts: Sequence[str]) -> sparse.csr_matrix:
    rows = []
    for text in texts:
        distinct = list(dict.fromkeys(_windows(text)[0]))
        rows.append(embedded.word_hashes(distinct) % embedded.SCENARIO_WORDS)
    starts = np.cumsum([0, *map(len, rows)])
    values = np.repeat([max(1, len(row)) ** -0.5 for row in rows], np.diff(starts))
    ids = np.concatenate(rows).astype(np.int32)
    return sparse.csr_matrix((values, ids, starts), shape=(len(rows), embedded.SCENARIO_WORDS))


def _alphabet(examples: Sequence[Example]) -> str:
    """The characters beyond ASCII that training has shown at least twice."""
    counts: Counter[str] = Counter()
    for example in examples:
        if not example.passage.text.isascii():
            counts.update(normalise(example.passage.text))
    return "".join(sorted(c for c, count in counts.items() if count > 1 and not c.isascii()))


# --- out-of-fold scores and calibration ---


@dataclass(slots=True)
class OutOfFold:
    """What models that did not see a row's group give it, before calibration."""

    examples: list[Example]
    logits: Vector
    generations: list[Generation]
    steps: list[Vector]


def out_of_fold(
    problem: Problem,
    examples: Sequence[Example],
    generations: Sequence[Generation],
    step: Callable[[str], None],
) -> OutOfFold:
    """Fit once per fold, score what the fold holds out."""
    found = OutOfFold([], np.zeros(0), [], [])
    logits: list[float] = []
    folds = problem.settings.folds
    for fold in range(folds):
        step(f"fold {fold + 1} of {folds}")
        judge = EmbeddedJudge(problem.fit(fold), "fold")
        own = [e for e in examples if fold_of(e.group, folds) == fold]
        found.examples += own
        logits += [judge.logit(e.passage) for e in own]
        held = [g for g in generations if fold_of(g.group, folds) == fold]
        found.generations += held
        found.steps += [_step_logits(judge, g) for g in held]
    found.logits = np.array(logits)
    return found


def _step_logits(judge: EmbeddedJudge, generation: Generation) -> Vector:
    return np.array([judge.logit(p) for p in generation.steps if p.text.strip()])


def calibrate(model: Model, found: OutOfFold, settings: Settings) -> Model:
    """The model with 0.5, in each stage, where the chosen share of benign rows alarms.

    Re-voiced rows are templates, not thinking: they do not count as benign rows here.
    """
    thresholds, slopes, rises = model.threshold.copy(), model.slope.copy(), model.rise.copy()
    weights = row_weights(found.examples, settings)
    for at, stage in enumerate(STAGES):
        own = np.array([e.passage.stage is stage for e in found.examples])
        if not own.any():
            continue
        logits = found.logits[own]
        unsafe = np.array([e.unsafe for e in found.examples])[own]
        real = np.array([not e.source.endswith("+revoiced") for e in found.examples])[own]
        benign = logits[~unsafe & real]
        thresholds[at] = np.quantile(benign, 1 - settings.false_alarms[at])
        slopes[at] = rises[at] = _platt_slope(logits, unsafe, weights[own])
        if stage is not Stage.INPUT:
            rises[at] = _evidence_slope(benign, settings.false_alarms[at], float(slopes[at]))
    return replace(model, threshold=thresholds, slope=slopes, rise=rises)


def _evidence_slope(benign: Vector, false_alarms: float, platt: float) -> float:
    """Steps feed evidence, which clips them: a quarter of the false alarms shall reach the clip.

    Platt's slope, flattened by weak labels, would leave most alarms too faint to outlast the drift.
    """
    alarm, strong = np.quantile(benign, [1 - false_alarms, 1 - false_alarms / 4])
    return float(np.clip(PARAMETERS[0][1] / max(strong - alarm, 1e-6), platt, 8 * platt))


def _platt_slope(logits: Vector, unsafe: Flags, weight: Vector) -> float:
    sign = np.where(unsafe, 1.0, -1.0)

    def loss(at: Vector) -> float:
        return float((weight * np.logaddexp(0, -sign * (at[0] * logits + at[1]))).sum())

    return max(
        0.05, float(optimize.minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead").x[0])
    )


# --- measuring ---

Interval = list[float]
"""A value and its 95 % interval: [value, low, high], in percent."""


class Sample:
    """Scores with labels and groups; every figure with a 95 % interval, resampling whole groups."""

    def __init__(
        self,
        scores: Sequence[float] | Vector,
        unsafe: Sequence[bool],
        groups: Sequence[str],
        seed: int,
    ) -> None:
        self.scores = np.asarray(scores, dtype=np.float64)
        self.unsafe = np.asarray(unsafe, dtype=bool)
        _, self._group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        self._seed = seed
        order = np.argsort(self.scores, kind="stable")
        self._order = order
        ranked = self.scores[order]
        self._tie = np.concatenate([[0], np.cumsum(np.diff(ranked) > 0)]) if len(ranked) else order

    @property
    def both(self) -> bool:
        """Whether there are rows of both labels."""
        return bool(self.unsafe.any() and not self.unsafe.all())

    def auroc(self) -> Interval | None:
        """Chance that an unsafe row scores above a benign one."""
        return self._interval(self._auroc) if self.both else None

    def recall(self, false_alarms: float) -> Interval | None:
        """Share of unsafe rows found where this share of benign rows alarms."""
        return self._interval(lambda w: self._recall(w, false_alarms)) if self.both else None

    def alarms(self, *, unsafe: bool) -> Interval | None:
        """Share of the unsafe or the benign rows that score 0.5 or more."""
        of = self.unsafe if unsafe else ~self.unsafe
        hit = (self.scores >= 0.5) & of

        def share(weight: Vector) -> float:
            return float(weight[hit].sum() / max(weight[of].sum(), 1e-9))

        return self._interval(share) if of.any() else None

    def mean(self) -> Interval:
        """The mean score."""
        return self._interval(lambda w: float((w * self.scores).sum() / w.sum()))

    def _interval(self, metric: Callable[[Vector], float], rounds: int = 300) -> Interval:
        rng = np.random.default_rng(self._seed)
        groups = int(self._group.max()) + 1
        values = []
        for _ in range(rounds):
            drawn = np.bincount(rng.integers(groups, size=groups), minlength=groups)
            values.append(metric(drawn[self._group].astype(np.float64)))
        low, high = np.nanquantile(values, [0.025, 0.975])
        value = metric(np.ones(len(self.scores)))
        return [round(100 * float(v), 1) for v in (value, low, high)]

    def _auroc(self, weight: Vector) -> float:
        unsafe, weight = self.unsafe[self._order], weight[self._order]
        good = np.bincount(self._tie, weight * ~unsafe)
        bad = np.bincount(self._tie, weight * unsafe)
        below = np.cumsum(good) - good
        total = good.sum() * bad.sum()
        return float((bad * (below + good / 2)).sum() / total) if total else float("nan")

    def _recall(self, weight: Vector, false_alarms: float) -> float:
        unsafe, weight = self.unsafe[self._order], weight[self._order]
        scores = self.scores[self._order]
        benign = np.cumsum((weight * ~unsafe)[::-1])[::-1]
        over = benign > false_alarms * benign[0]
        threshold = scores[over].max() if over.any() else -np.inf
        hit = unsafe & (scores > threshold)
        return float(weight[hit].sum() / max((weight * unsafe).sum(), 1e-9))


def evidence_peak(unsafe: Vector, drift: float, clip: float) -> float:
    """The highest evidence of a generation, from its steps' calibrated scores."""
    gains = np.clip(np.log(unsafe / (1 - unsafe)), -clip, clip) - drift
    level = peak = 0.0
    for gain in gains:
        level = max(0.0, level + gain)
        peak = max(peak, level)
    return peak


THRESHOLDS = (1.0, 1.6, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)
PARAMETERS = ((0.5, 2.0), (0.25, 2.0), (1.0, 2.0), (0.5, 1.0), (0.5, 3.0), (1.0, 3.0))
"""Drift and clip: the default, then what it was compared with."""


def evidence_table(
    generations: Sequence[Generation], scores: Sequence[Vector], drift: float, clip: float
) -> dict[str, Any]:
    """How high evidence gets: quantiles of benign peaks, shares that cross each threshold."""
    peaks: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for generation, unsafe in zip(generations, scores, strict=True):
        if generation.unsafe is not None and len(unsafe):
            peak = evidence_peak(unsafe, drift, clip)
            peaks[generation.source, generation.unsafe].append(peak)
    benign = {source: np.array(found) for (source, bad), found in peaks.items() if not bad}
    harmful = {source: np.array(found) for (source, bad), found in peaks.items() if bad}
    return {
        "drift": drift,
        "clip": clip,
        "quantiles": {
            source: [
                len(found),
                *(round(float(q), 2) for q in np.quantile(found, (0.95, 0.98, 0.99))),
            ]
            for source, found in {**benign, "all": _all(benign)}.items()
            if len(found)
        },
        "benign": {s: _crossing(f) for s, f in {**benign, "all": _all(benign)}.items() if len(f)},
        "detected": {
            s: _crossing(f) for s, f in {**harmful, "all": _all(harmful)}.items() if len(f)
        },
    }


def _all(parts: Mapping[str, Vector]) -> Vector:
    return np.concatenate([np.zeros(0), *parts.values()])


def _crossing(peaks: Vector) -> list[float]:
    return [len(peaks), *(round(100 * float((peaks >= t).mean()), 1) for t in THRESHOLDS)]


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
    kept = [word for word in embedded.words(passage.text) if word in FUNCTION_WORDS]
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


def stage_table(examples: Sequence[Example], scores: Vector, seed: int) -> dict[str, Any]:
    """The figures of each stage, over all dev rows as they are mixed there."""
    table = {}
    for stage in STAGES:
        own = [at for at, e in enumerate(examples) if e.passage.stage is stage]
        if not own:
            continue
        rows = [examples[at] for at in own]
        sample = Sample(scores[own], [e.unsafe for e in rows], [e.group for e in rows], seed)
        table[str(stage)] = {
            "rows": [int(sample.unsafe.sum()), int((~sample.unsafe).sum())],
            "AUROC": sample.auroc(),
            "recall at 1 % false alarms": sample.recall(0.01),
            "recall at 5 % false alarms": sample.recall(0.05),
            "recall at 0.5": sample.alarms(unsafe=True),
            "false alarms at 0.5": sample.alarms(unsafe=False),
        }
    return table


def language_table(examples: Sequence[Example], scores: Vector, seed: int) -> dict[str, Any]:
    """AUROC by language and stage, where at least five rows of either label exist."""
    table = {}
    rows: dict[str, list[int]] = defaultdict(list)
    for at, e in enumerate(examples):
        rows[f"{e.lang}, {e.passage.stage}"].append(at)
    for name, own in sorted(rows.items()):
        unsafe = [examples[at].unsafe for at in own]
        if min(sum(unsafe), len(unsafe) - sum(unsafe)) >= 5:
            sample = Sample(scores[own], unsafe, [examples[at].group for at in own], seed)
            table[name] = {
                "rows": [sum(unsafe), len(unsafe) - sum(unsafe)],
                "AUROC": sample.auroc(),
            }
    return table


def top(values: Vector, count: int) -> float:
    """The mean of the highest few; nothing scores 0."""
    return float(np.sort(values)[-count:].mean()) if len(values) else 0.0


def controlled_table(
    examples: Sequence[Example], generations: Sequence[Generation], by: Measured, seed: int
) -> dict[str, Any]:
    """The sets that hold style still: what a model knows of harm beyond whose voice it is."""
    table: dict[str, Any] = {}

    def steps(name: str, chosen: Sequence[Example]) -> None:
        scores = [by.score(e.passage) for e in chosen]
        table[name] = Sample(
            scores, [e.unsafe for e in chosen], [e.group for e in chosen], seed
        ).auroc()

    def traces(name: str, chosen: Sequence[Generation]) -> None:
        scored = [by.steps(g) for g in chosen]
        unsafe, groups = [bool(g.unsafe) for g in chosen], [g.group for g in chosen]
        for count, way in ((1, "highest step"), (3, "mean of top 3")):
            sample = Sample([top(s, count) for s in scored], unsafe, groups, seed)
            table[f"{name}, {way}"] = sample.auroc()

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


def _ordered(sides: Sequence[Generation], by: Measured, seed: int) -> Interval | None:
    """Share of pairs whose unsafe continuation scores above the safe one (mean of top 3)."""
    scores: dict[str, dict[bool, float]] = defaultdict(dict)
    for g in sides:
        behind = [by.score(p) for p in g.steps[g.onset or 0 :] if p.text.strip()]
        scores[str(g.pair)][bool(g.unsafe)] = top(np.array(behind), 3)
    margins = [s[True] - s[False] for s in scores.values() if len(s) == 2]
    hits = [0.5 + float(np.sign(margin)) / 2 for margin in margins]  # a tie is half in order
    sample = Sample(hits, [True] * len(hits), list(map(str, range(len(hits)))), seed)
    return sample.mean() if hits else None


def alarm_table(generations: Sequence[Generation], scores: Sequence[Vector]) -> dict[str, Any]:
    """False alarms of whole benign generations, by source, the worst source first."""
    alarms: dict[str, list[Flags]] = defaultdict(list)
    for g, own in zip(generations, scores, strict=True):
        if g.unsafe is False and len(own):
            alarms[g.source].append(own >= 0.5)
    table = {
        source: {
            "generations": len(found),
            "steps": int(sum(map(len, found))),
            "alarming steps, %": round(100 * float(np.concatenate(found).mean()), 2),
            "alarms per generation": round(float(np.mean([f.sum() for f in found])), 2),
            "generations with an alarm, %": round(
                100 * float(np.mean([f.any() for f in found])), 1
            ),
        }
        for source, found in alarms.items()
    }
    return dict(sorted(table.items(), key=lambda item: -item[1]["alarming steps, %"]))


# --- the command ---


def run(folder: Path, build: Build, out: Path, *, seed: int, say: Callable[[str], None]) -> None:
    """Train one build: weights to `out`, figures beside it, the card of all builds found there."""
    started = perf_counter()
    settings = Settings()
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder; create it or choose another --out")
    with _progress(settings.folds + 4) as step:
        step("reading the corpus")
        corpus = load(folder, "train", build)
        # Generations of every licence serve to measure false alarms; none goes into the model.
        everything = corpus if build == "research" else load(folder, "train", "research")
        dev = load(folder, "dev", "research")
        step("features")
        problem = Problem(corpus.examples, settings)
        found = out_of_fold(problem, corpus.examples, everything.generations, step)
        step("final fit")
        model = calibrate(problem.fit(), found, settings)
        about = {"build": build, "seed": seed, "settings": asdict(settings), "data": digest(folder)}
        replace(model, about=about).save(out)
        step("measuring")
        judge = EmbeddedJudge.load(out)
        voice = EmbeddedJudge(_voice_model(corpus.examples, settings), "voice")
        scores = {
            **about,
            "judge": judge.name,
            "bytes": out.stat().st_size,
            "rows": _row_counts(corpus),
            "left_out": dict(sorted(corpus.left_out.items())),
            "evidence": _evidence(found, model),
            **measure(Measured(judge), Measured(voice, voice_only), dev, seed),
        }
    scores["seconds"] = round(perf_counter() - started)
    out.with_suffix(".scores.json").write_text(json.dumps(scores, indent=1) + "\n", "utf-8")
    card = out.parent / "CARD.md"
    card.write_text(render_card(out.parent), "utf-8")
    say(f"{out} ({judge.name}), its scores, and {card}; {scores['seconds']} s")


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[str], None]]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=steps)
        begun = 0

        def step(text: str) -> None:
            nonlocal begun
            progress.update(task, completed=begun, description=text)
            begun += 1

        yield step


def _voice_model(examples: Sequence[Example], settings: Settings) -> Model:
    return Problem([replace(e, passage=voice_only(e.passage)) for e in examples], settings).fit()


def _row_counts(corpus: Corpus) -> dict[str, list[Any]]:
    """By source and stage: licence, unsafe rows, safe rows."""
    counts: dict[str, list[Any]] = {}
    for e in corpus.examples:
        row = counts.setdefault(f"{e.source}, {e.passage.stage}", [e.licence, 0, 0])
        row[1 if e.unsafe else 2] += 1
    return dict(sorted(counts.items()))


def _evidence(found: OutOfFold, model: Model) -> list[dict[str, Any]]:
    at = STAGES.index(Stage.REASONING)
    scores = [model.calibrated(at, steps) for steps in found.steps]
    return [evidence_table(found.generations, scores, *pair) for pair in PARAMETERS]


def measure(by: Measured, voice: Measured, dev: Corpus, seed: int) -> dict[str, Any]:
    """Everything that is measured on the dev split."""
    scores = np.array([by.score(e.passage) for e in dev.examples])
    steps = [by.steps(g) for g in dev.generations]
    return {
        "stages": stage_table(dev.examples, scores, seed),
        "controlled": controlled_table(dev.examples, dev.generations, by, seed),
        "controlled_voice": controlled_table(dev.examples, dev.generations, voice, seed),
        "false_alarms": alarm_table(dev.generations, steps),
        "languages": language_table(dev.examples, scores, seed),
        "evidence_dev": evidence_table(dev.generations, steps, *PARAMETERS[0]),
        "ms_per_step": _step_time(by.judge, dev.examples),
    }


def _step_time(judge: EmbeddedJudge, examples: Sequence[Example]) -> float:
    """Milliseconds per step of about 300 characters, one thread, the words seen before."""
    steps = [e.passage for e in examples if e.passage.stage is Stage.REASONING][:1000]
    steps = [replace(p, text=(p.text * (1 + 300 // len(p.text)))[:300]) for p in steps if p.text]
    judge.score(steps)
    started = perf_counter()
    for passage in steps:
        judge.score([passage])
    return round((perf_counter() - started) * 1000 / max(1, len(steps)), 3)


# --- the card ---

_CARD = """\
# Model card: the embedded judge

Written by `mlrm-guard judge train`; do not edit. A linear model on hashed n-grams that scores a
user's request, a step of reasoning, or an answer: how likely unsafe, and in which scenario.
`release` ships with the package (Apache-2.0) and has learned only from rows whose licence allows
that; `research` uses everything and must not be published. Figures are percent with 95 %
intervals (bootstrap by group), on a dev split that no fit and no threshold has used. It was looked
at more than once, though: the shape of the calibration (which benign rows set the operating point,
a steeper slope above it) was changed twice after a first look, so take the rates at 0.5 and the
evidence on dev as slightly flattered, and the out-of-fold figures as the sounder ones.

## What it cannot do

- **It is a first tier, not a guard for serious risk.** It adds up words and word pairs and
  follows no argument: candid intent is found, careful or coded wording is missed. See the
  recall at 1 % below.
- **Style flatters.** Safe and unsafe thinking come from different models, so the figures by stage
  are too good. Believe the style-controlled table, beside the score of a model that sees function
  words only.
- English above all; other languages are a few hundred rows. A script it has never seen is
  `unknown`.
- It does not see images; it judges the text read from them.
- It was trained on no prompt injections, and on few agentic or long-context texts.
- Encoded text (base64, ciphers in plain letters) is read as words it does not know, not as
  `unknown`.
- Unsafe thinking in the release build is re-voiced answers and our own pairs: no natural unsafe
  thinking.

## Builds

"""


def render_card(folder: Path) -> str:
    """The card, from the score files of all builds in a folder."""
    files = sorted(folder.glob("*.scores.json"))
    found = [json.loads(file.read_text("utf-8")) for file in files]
    builds = {s["build"]: s for s in sorted(found, key=lambda s: str(s["build"]))}
    parts = [
        _CARD + _grid("", builds, _facts),
        "## By stage (dev, all sources)\n\n" + _grid("stage: figure", builds, _stage_cells),
        "## Style held still (dev)\n\nIn brackets: function words only.\n\n"
        + _grid("AUROC of", builds, _controlled_cells),
        "## False alarms on whole benign generations (dev)\n\nSteps at 0.5 or more, % / alarms per"
        " generation / generations with any alarm, %.\n\n"
        + _grid("source (generations)", builds, _alarm_cells),
        "## Languages (dev, where both labels have five rows)\n\n"
        + _grid("language, stage (unsafe / safe)", builds, _language_cells),
        _evidence_text(builds),
        "## Data\n\n" + _grid("licence", builds, _licence_cells) + "\n" + _licence_text(),
        "Rows in training, unsafe / safe; `:read` are steps labelled by reading.\n\n"
        + _grid("source, stage (licence)", builds, _row_cells),
    ]
    return "\n".join(parts)


Cells = dict[str, str]


def _grid(head: str, builds: Mapping[str, Any], cells: Callable[[Any], Cells]) -> str:
    """A table with a column per build; a row that a build lacks shows a dash."""
    columns = {build: cells(scores) for build, scores in builds.items()}
    names = dict.fromkeys(name for column in columns.values() for name in column)
    lines = [[head, *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *(column.get(name, "–") for column in columns.values())] for name in names]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _span(value: Interval | None) -> str:
    return "–" if value is None else f"{value[0]} ({value[1]}–{value[2]})"


def _facts(scores: Any) -> Cells:
    option = f"--build {scores['build']} --seed {scores['seed']}"
    return {
        "judge": scores["judge"],
        "command": f"`mlrm-guard judge train --data DIR {option}`",
        "data files (SHA-256, first digits)": ", ".join(
            f"{name} {value[:8]}" for name, value in scores["data"].items()
        ),
        "size": f"{scores['bytes'] / 1e6:.1f} MB",
        "training and measuring": f"{scores['seconds']} s on one CPU core",
        "per step of 300 characters": f"{scores['ms_per_step']} ms on one CPU core",
    }


def _stage_cells(scores: Any) -> Cells:
    return {
        f"{stage}: {name}": " / ".join(map(str, value)) if name == "rows" else _span(value)
        for stage, table in scores["stages"].items()
        for name, value in table.items()
    }


def _controlled_cells(scores: Any) -> Cells:
    voice = scores["controlled_voice"]
    return {
        name: f"{_span(value)} [{voice[name][0]}]" for name, value in scores["controlled"].items()
    }


def _alarm_cells(scores: Any) -> Cells:
    return {
        f"{source} ({row['generations']})": f"{row['alarming steps, %']} / "
        f"{row['alarms per generation']} / {row['generations with an alarm, %']}"
        for source, row in scores["false_alarms"].items()
    }


def _language_cells(scores: Any) -> Cells:
    return {
        f"{name} ({row['rows'][0]} / {row['rows'][1]})": _span(row["AUROC"])
        for name, row in scores["languages"].items()
    }


def _licence_cells(scores: Any) -> Cells:
    counts: Counter[str] = Counter()
    for licence, unsafe, safe in scores["rows"].values():
        counts[licence] += unsafe + safe
    return {licence: str(count) for licence, count in sorted(counts.items())}


def _licence_text() -> str:
    lines = "".join(
        f"- `{licence}`: {'in' if taken else 'out'} — {why}\n"
        for licence, (taken, why) in LICENCES.items()
    )
    return "What the release build may use; a licence not listed is out:\n\n" + lines


def _row_cells(scores: Any) -> Cells:
    return {
        f"{name} ({row[0].split(' (')[0]})": f"{row[1]} / {row[2]}"
        for name, row in scores["rows"].items()
    }


def _evidence_text(builds: Mapping[str, Any]) -> str:
    parts = [
        "## Evidence over whole generations\n\nEvidence after each reasoning step is max(0,"
        " evidence + clipped logit - drift). Out-of-fold on training generations, then on dev; a"
        " source that a build did not learn from is wholly unseen.\n"
    ]
    heads = " | ".join(f"{t:g}" for t in THRESHOLDS)
    for build, scores in builds.items():
        tables = [("out of fold", table) for table in scores["evidence"]]
        for where, table in [*tables[:1], ("dev", scores["evidence_dev"])]:
            parts.append(
                f"\n{build}, {where}, drift {table['drift']}, clip {table['clip']}: share (%) that"
                f" crosses a threshold; 95 / 98 / 99 % quantiles of benign peaks\n\n"
                f"| generations | n | {heads} | quantiles |\n|{' --- |' * (3 + len(THRESHOLDS))}\n"
            )
            parts += [
                _evidence_row(f"benign {s}", r, table["quantiles"][s])
                for s, r in table["benign"].items()
            ]
            parts += [_evidence_row(f"unsafe {s}", r, ()) for s, r in table["detected"].items()]
    return "".join(parts)


def _evidence_row(name: str, row: Sequence[float], quantiles: Sequence[float]) -> str:
    cells = [name, *map(str, row), " / ".join(map(str, quantiles[1:]))]
    return "| " + " | ".join(cells) + " |\n"
