"""Train the embedded judge: fit, calibrate, export, measure. Needs the `train` extra (scipy).

Calibration and thresholds come from out-of-fold scores, folds by group; a run only measures on the
dev split, once, at its end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from scipy import optimize

from monitors.errors import UserError
from monitors.judges.embedded import EmbeddedJudge
from monitors.judges.judge_file import JudgeFile
from monitors.judges.layout import STAGES
from monitors.taxonomy import Stage
from monitors.training.card import render_card
from monitors.training.corpus import Build, Corpus, Example, Generation, digest, load
from monitors.training.dev_split import Measured, dev_figures, voice_only
from monitors.training.fit import Flags, Problem, Settings, Vector, fold_of, row_weights
from monitors.training.measure import PARAMETERS, evidence_table


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
            **dev_figures(Measured(judge), Measured(voice, voice_only), dev, seed),
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


def _voice_model(examples: Sequence[Example], settings: Settings) -> JudgeFile:
    return Problem([replace(e, passage=voice_only(e.passage)) for e in examples], settings).fit()


def _row_counts(corpus: Corpus) -> dict[str, list[Any]]:
    """By source and stage: licence, unsafe rows, safe rows."""
    counts: dict[str, list[Any]] = {}
    for e in corpus.examples:
        row = counts.setdefault(f"{e.source}, {e.passage.stage}", [e.licence, 0, 0])
        row[1 if e.unsafe else 2] += 1
    return dict(sorted(counts.items()))


def _evidence(found: OutOfFold, model: JudgeFile) -> list[dict[str, Any]]:
    at = STAGES.index(Stage.REASONING)
    scores = [model.calibrated(at, steps) for steps in found.steps]
    return [evidence_table(found.generations, scores, *pair) for pair in PARAMETERS]


# --- out-of-fold scores and calibration ---


@dataclass(slots=True, frozen=True)
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
    rows: list[Example] = []
    logits: list[float] = []
    whole: list[Generation] = []
    steps: list[Vector] = []
    folds = problem.settings.folds
    for fold in range(folds):
        step(f"fold {fold + 1} of {folds}")
        judge = EmbeddedJudge(problem.fit(fold), "fold")
        own = [e for e in examples if fold_of(e.group, folds) == fold]
        rows += own
        logits += [judge.logit(e.passage) for e in own]
        held = [g for g in generations if fold_of(g.group, folds) == fold]
        whole += held
        steps += [np.array([judge.logit(p) for p in g.steps if p.text.strip()]) for g in held]
    return OutOfFold(rows, np.array(logits), whole, steps)


def calibrate(model: JudgeFile, found: OutOfFold, settings: Settings) -> JudgeFile:
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

    found = optimize.minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead")
    return max(0.05, float(found.x[0]))
