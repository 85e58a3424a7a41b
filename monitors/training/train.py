"""Train the embedded judge: both tiers, folds, mix, calibration, export. Needs the `train` extra.

Everything that a later step needs is kept in a work folder, under a name that says what it was made
from, so that an interrupted run goes on where it stopped and two builds share their first phase:
that one learns only from rows which a release may use. Nothing here looks at the dev split.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from scipy import optimize

from monitors.errors import UserError
from monitors.judges.base import Passage
from monitors.judges.judge_file import EncoderParts, JudgeFile
from monitors.judges.language import other_script
from monitors.judges.layout import SCENARIOS, STAGES, STANCES
from monitors.judges.linear import LinearScorer
from monitors.taxonomy import Stage
from monitors.training import network
from monitors.training.corpus import (
    IN_EVERYDAY,
    Build,
    Corpus,
    Example,
    Generation,
    counts,
    digest,
    load,
)
from monitors.training.curriculum import Phase, draws
from monitors.training.documents import documents
from monitors.training.export import onnx_of, tokenizer_bytes
from monitors.training.fit import Flags, Problem, Settings, Vector, fold_of
from monitors.training.grid import grid
from monitors.training.voice import voice_only


@dataclass(slots=True, frozen=True)
class Plan:
    """Everything that decides what is learned, beside data and seed."""

    base: int = 30_000  # bags shown in the first phase
    # In the second, and of each model that scores a fold.
    thinking: Mapping[str, int] = field(
        default_factory=lambda: {"release": 16_000, "research": 16_000}
    )
    fold: Mapping[str, int] = field(default_factory=lambda: {"release": 10_000, "research": 10_000})
    base_recipe: network.Recipe = field(default_factory=lambda: network.Recipe(rate=1e-4))
    thinking_recipe: network.Recipe = field(default_factory=lambda: network.Recipe(rate=6e-5))
    fold_recipe: network.Recipe = field(default_factory=lambda: network.Recipe(rate=6e-5, frozen=2))
    lever: int = 8_000  # and of each lever (`mlrm-guard judge levers`)
    grid: int = 6_000  # steps made from requests
    linear: Settings = field(default_factory=lambda: Settings(folds=3))
    sampled: int = 0  # generations of each source that are scored out of fold; 0: see _SAMPLED


_FALSE_ALARMS = (0.10, 0.12, 0.09)
"""By stage, the share of benign rows at 0.5 or more: of requests and answers that were held out,
contrast among them, and of the steps of labelled thinking, nearly all of which are about harmful
requests. Of thinking and answers one such step is evidence, not an alarm: with a higher point safe
thinking never gathers any, and no threshold lies between one false alarm in fifty and none. What
interrupts a generation is for `mlrm-guard calibrate` to bound."""

_CLEARED = 0.01
"""The share of unsafe rows that the first tier may clear, by stage."""


Report = Callable[[str, float], None]
"""Hears what is being done, and how much of it is."""


def run(
    folder: Path,
    build: Build,
    out: Path,
    *,
    work: Path,
    seed: int,
    control: bool,
    say: Callable[[str], None],
    plan: Plan | None = None,
) -> None:
    """Train one build: the judge file to `out`, its scores out of fold beside it.

    `control`: everything but function words and punctuation is masked: what such a judge can tell,
    style alone tells.
    """
    started = perf_counter()
    plan = plan or Plan()
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder; create it or choose another --out")
    with progress(say) as report:
        report("reading the corpus", 0.0)
        data = digest(folder)
        kept = Kept.of(work, data, plan, seed, report, control=control)
        of_build = cache(lambda build: read(folder, build, plan, seed, control=control))
        corpus = of_build(build)
        whole = of_build("research")
        base = kept.base(of_build("release"), whole)
        problem = cache(lambda: Problem(corpus.examples, plan.linear))
        # Generations of every licence serve to measure; what may not be learned is not.
        generations = measured(whole.generations, plan.sampled)
        shown = voice_only if control else None
        found = out_of_fold(
            kept, build, base, problem, corpus.examples, generations=generations, shown=shown
        )
        encoder = kept.phase(f"{build}-final", "thinking", base, corpus.examples)
        linear = kept.linear(build, problem, None)
        held = held_out(kept, encoder, build, problem, corpus.examples)
        report("mixing and calibrating", 0.0)
        rows, licences = counts(corpus.examples)
        about = {
            "build": build,
            "control": control,
            "seed": seed,
            "plan": asdict(plan),
            "data": data,
            "command": _command(build, seed, control=control),
            "rows": rows,
            "licences": licences,
            "left_out": dict(sorted(corpus.left_out.items())),
            "seconds": kept.seconds(build, perf_counter() - started),
            "hardware": network.hardware(),
        }
        first_tier = replace(linear, languages=_languages(corpus), about=about)
        judge = _calibrated(first_tier, encoder, [*held, *found.rows])
        judge = replace(judge, alone=_alone(judge, kept, build, problem, corpus.examples))
        judge.save(out)
        _write_out_of_fold(out.with_suffix(".oof.jsonl.gz"), found, judge)
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB after {perf_counter() - started:.0f} s")


def _command(build: Build, seed: int, *, control: bool) -> str:
    of_style = " --control" if control else ""
    return f"mlrm-guard judge train --data DIR --build {build} --seed {seed}{of_style}"


_TIMES = "seconds.json"  # of each part, in the work folder

_DECIDING = ("corpus", "curriculum", "documents", "grid", "network", "fit", "voice")
_SEGMENTER = Path(__file__).parents[1] / "steps.py"


def _key(made_from: list[Any]) -> str:
    """A name for what comes of these and of the code that decides what is learned, licences too."""
    found = hashlib.sha256(json.dumps(made_from).encode())
    own = [Path(__file__).with_name(f"{module}.py") for module in _DECIDING]
    for module in (*own, _SEGMENTER):
        found.update(module.read_bytes())
    return found.hexdigest()[:10]


@contextmanager
def progress(say: Callable[[str], None]) -> Iterator[Report]:
    """A bar on a terminal, else a line whenever something new begins or a fifth of it is done."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=1.0)
        shown = ""

        def report(text: str, share: float) -> None:
            nonlocal shown
            progress.update(task, completed=share, description=text)
            line = f"{text}: {int(share * 5) * 20} %" if share else text
            if not console.is_terminal and line != shown:
                say(line)
            shown = line

        yield report


def read(folder: Path, build: Build, plan: Plan, seed: int, *, control: bool = False) -> Corpus:
    """What a build learns from, the steps made from its requests with it."""
    corpus = load(folder, "train", build)
    learned = [e for e in corpus.examples if not is_held(e) and e.source != IN_EVERYDAY]
    corpus.examples += grid(learned, plan.grid, seed)
    corpus.examples += documents(learned, "train", seed)
    if control:
        corpus.examples = [replace(e, passage=voice_only(e.passage)) for e in corpus.examples]
    return corpus


def is_held(example: Example) -> bool:
    """Whether a request or answer is kept from learning, to fit mix and thresholds on."""
    held = zlib.crc32(f"held {example.group}".encode()) % 20 == 0
    return held and example.passage.stage is not Stage.REASONING


# --- what is kept in the work folder ---


@dataclass(slots=True)
class Kept:
    """Trained parts: read where an earlier run made them, else made and kept."""

    folder: Path
    plan: Plan
    seed: int
    report: Report
    spent: float = 0.0  # seconds of this run, on what is kept

    @classmethod
    def of(
        cls,
        work: Path,
        data: Mapping[str, str],
        plan: Plan,
        seed: int,
        report: Report,
        *,
        control: bool = False,
    ) -> Self:
        """In a folder named after everything that decides what is learned."""
        key = _key([data, asdict(plan), seed, control])
        return cls(work / f"{'control-' if control else ''}{key}", plan, seed, report)

    def base(self, corpus: Corpus, measured: Corpus) -> network.Encoder:
        """The encoder after the first phase, which both builds share and no fold repeats: groups of
        thinking that was labelled by reading are left out, to measure on.
        """
        groups = {g.group for g in measured.generations if g.read}
        rows = [e for e in corpus.examples if e.group not in groups]
        return self.phase("base", "base", None, rows)

    def phase(
        self,
        name: str,
        phase: Phase,
        start: network.Encoder | None,
        examples: Sequence[Example],
        fold: int | None = None,
    ) -> network.Encoder:
        """The encoder after a phase, learned from `start` (None: pretrained)."""
        encoder = network.new_encoder(self.seed)
        path = self.folder / f"{name}.pt"
        if path.exists():
            encoder.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            encoder.eval()
            return encoder
        self.folder.mkdir(parents=True, exist_ok=True)
        if start is not None:
            encoder.load_state_dict(start.state_dict())
        recipe, count = self._recipe(name.partition("-")[0], phase, fold)
        rows = [e for e in examples if not is_held(e)]
        if fold is not None:
            rows = [e for e in rows if fold_of(e.group, self.plan.linear.folds) != fold]
        with self._timed(name):
            network.learn(
                encoder,
                draws(rows, phase, count, self.seed),
                recipe,
                seed=self.seed,
                checkpoint=self.folder / f"{name}.checkpoint",
                step=lambda share: self.report(f"encoder, {name}", share),
            )
        part = path.with_suffix(".part")
        torch.save(encoder.state_dict(), part)
        part.replace(path)
        return encoder

    def _recipe(self, build: str, phase: Phase, fold: int | None) -> tuple[network.Recipe, int]:
        plan = self.plan
        if phase == "base":
            return plan.base_recipe, plan.base
        if fold is not None:
            return plan.fold_recipe, plan.fold[build]
        return plan.thinking_recipe, plan.thinking[build]

    def linear(self, build: Build, problem: Callable[[], Problem], fold: int | None) -> JudgeFile:
        """The first tier alone, of all folds but one."""
        path = self.folder / f"{build}-linear-{'all' if fold is None else fold}.npz"
        if not path.exists():
            self.report(f"first tier, {path.stem}", 0.0)
            part = path.with_suffix(".part")
            with self._timed(path.stem):
                problem().fit(fold).save(part)
            part.replace(path)
        return JudgeFile.load(path)[0]

    def array(self, name: str, make: Callable[[], Vector]) -> Vector:
        """Numbers that take long to compute."""
        path = self.folder / f"{name}.npy"
        if not path.exists():
            part = path.with_suffix(".part")
            with self._timed(name):
                found = make()  # which may keep checkpoints, in a part of the same name
                with part.open("wb") as file:
                    np.save(file, found)
            part.replace(path)
        return np.asarray(np.load(path), np.float64)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Keep how long a part took, over all runs that worked on it."""
        started, before = perf_counter(), self.spent
        try:
            yield
        finally:
            own = perf_counter() - started - (self.spent - before)  # parts may need other parts
            self.spent += own
            times = self._times()
            times[name] = round(times.get(name, 0.0) + own, 1)
            (self.folder / _TIMES).write_text(json.dumps(times, indent=1), "utf-8")

    def _times(self) -> dict[str, float]:
        path = self.folder / _TIMES
        return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}

    def seconds(self, build: Build, this_run: float) -> int:
        """What a build cost: the parts that it needs, whichever run made them, and what of this
        run (seconds) went into no part.
        """
        needed = ("base", f"{build}-")
        parts = sum(took for name, took in self._times().items() if name.startswith(needed))
        return round(parts + this_run - self.spent)


# --- scores of what a model has not seen ---


@dataclass(slots=True, frozen=True)
class Row:
    """A passage's features (encoder, linear, stance, 1), by models that did not learn from it."""

    example: Example
    features: Vector


@dataclass(slots=True, frozen=True)
class OutOfFold:
    """What models give a row whose group their second phase did not see, before mixing.

    The first phase, shared by all folds, saw no row of a group whose thinking is labelled.
    """

    rows: list[Row]
    generations: list[Generation]
    steps: list[Vector]
    """By generation: a row of features per step that holds text."""


_SAMPLED = {
    "star1": 260,
    "matsuo_safecot": 200,
    "matsuo_judge": 100,
    "p07_math": 8,
    "phybench": 12,
    "huatuo_o1": 50,
    "gsm8k": 0,
}
"""What there is plenty of: so many generations of these are scored. Those of gsm8k are short
solutions that people wrote."""


def measured(generations: Sequence[Generation], most: int) -> list[Generation]:
    """Those that are scored out of fold."""
    found: dict[str, list[Generation]] = defaultdict(list)
    for g in sorted(generations, key=lambda g: zlib.crc32(g.id.encode())):
        if len(found[g.source]) < (most or _SAMPLED.get(g.source, len(generations))):
            found[g.source].append(g)
    return [g for own in found.values() for g in own]


def out_of_fold(
    kept: Kept,
    build: Build,
    base: network.Encoder,
    problem: Callable[[], Problem],
    examples: Sequence[Example],
    *,
    generations: Sequence[Generation],
    shown: Callable[[Passage], Passage] | None = None,
) -> OutOfFold:
    """Fit once per fold, score the generations that the fold holds out, their steps as `shown`."""
    folds = kept.plan.linear.folds
    labelled = {id_of(e.passage): e for e in examples if e.passage.stage is Stage.REASONING}
    rows: list[Row] = []
    whole: list[Generation] = []
    steps: list[Vector] = []
    for fold in range(folds):
        own = [g for g in generations if fold_of(g.group, folds) == fold]
        passages = [p for g in own for p in g.steps if p.text.strip()]
        if shown is not None:
            passages = [shown(p) for p in passages]

        def score(fold: int = fold, passages: Sequence[Passage] = passages) -> Vector:
            encoder = kept.phase(f"{build}-fold{fold}", "thinking", base, examples, fold)
            linear = LinearScorer(kept.linear(build, problem, fold).linear)
            return features(
                encoder, linear, passages, lambda s: kept.report(f"scoring fold {fold}", s)
            )

        found = kept.array(f"{build}-steps{fold}", score)
        for passage, row in zip(passages, found, strict=True):
            if (example := labelled.get(id_of(passage))) is not None:
                rows.append(Row(example, row))
        at = 0
        for g in own:
            count = sum(bool(p.text.strip()) for p in g.steps)
            steps.append(found[at : at + count])
            at += count
        whole += own
    return OutOfFold(rows, whole, steps)


def id_of(passage: Passage) -> tuple[str, str, tuple[str, ...]]:
    """What makes a step that step."""
    return passage.text, passage.request, passage.earlier


def held_out(
    kept: Kept,
    encoder: network.Encoder,
    build: Build,
    problem: Callable[[], Problem],
    examples: Sequence[Example],
) -> list[Row]:
    """The held-out requests and answers, scored, but those that training saw in other words: as the
    request or the thinking of a row of their group.
    """
    taught = {e.group for e in examples if not is_held(e)}
    own = [e for e in examples if is_held(e) and e.group not in taught]
    scorers = [
        LinearScorer(kept.linear(build, problem, fold).linear)
        for fold in range(kept.plan.linear.folds)
    ]

    def score() -> Vector:
        found = features(
            encoder,
            scorers[0],
            [e.passage for e in own],
            lambda s: kept.report("scoring what was held out", s),
        )
        for row, e in zip(found, own, strict=True):
            row[1] = scorers[fold_of(e.group, len(scorers))].logit(e.passage)
        return found

    found = kept.array(f"{build}-held", score)
    return [Row(e, row) for e, row in zip(own, found, strict=True)]


def features(
    encoder: network.Encoder,
    linear: LinearScorer,
    passages: Sequence[Passage],
    step: Callable[[float], None],
) -> Vector:
    """(passages, 4): encoder, linear, stance, 1; of the piece that the encoder finds worst."""
    rows = []
    logits = network.logits_of(encoder, passages, step)
    stances = len(STAGES) + len(SCENARIOS)
    for passage, pieces in zip(passages, logits, strict=True):
        worst = pieces[pieces[:, STAGES.index(passage.stage)].argmax()]
        stance = dict(zip(STANCES, worst[stances:], strict=True))
        rows.append(
            (
                worst[STAGES.index(passage.stage)],
                linear.logit(passage),
                stance["fulfilling"] - stance["refusing"],
                1.0,
            )
        )
    return np.array(rows, np.float64).reshape(-1, 4)


# --- mix and calibration ---


def _calibrated(linear: JudgeFile, encoder: network.Encoder, rows: Sequence[Row]) -> JudgeFile:
    """Both tiers, mixed; 0.5 is, in each stage, where the chosen share of benign rows alarms."""
    mix = np.zeros((len(STAGES), 4), np.float32)
    mix[:, 0] = 1.0
    threshold, clear = np.zeros(len(STAGES), np.float32), np.full(len(STAGES), -np.inf, np.float32)
    slope, rise = np.ones(len(STAGES), np.float32), np.ones(len(STAGES), np.float32)
    for at, stage in enumerate(STAGES):
        own = [row for row in rows if row.example.passage.stage is stage]
        unsafe = np.array([row.example.unsafe for row in own], bool)
        if not unsafe.any() or unsafe.all():
            continue
        found = np.array([row.features for row in own])
        weight = _weights([row.example for row in own])
        mix[at] = _mix(found, unsafe, weight)
        logits = found @ mix[at]
        # Re-voiced rows and the grid are templates, not thinking.
        real = np.array([not _made(row.example) for row in own])
        benign = logits[~unsafe & real]
        threshold[at] = np.quantile(benign, 1 - _FALSE_ALARMS[at])
        if stage is not Stage.INPUT:
            rise[at] = _evidence_slope(benign, _FALSE_ALARMS[at], float(slope[at]))
        clear[at] = np.quantile(found[unsafe & real, 1], _CLEARED)
    return replace(
        linear,
        encoder=EncoderParts(onnx_of(encoder), tokenizer_bytes()),
        mix=mix,
        threshold=threshold,
        slope=slope,
        rise=rise,
        clear=clear,
    )


def _made(example: Example) -> bool:
    return example.source.endswith("+revoiced") or example.source == "grid"


def _weights(examples: Sequence[Example]) -> Vector:
    """A source weighs the root of its size, contrast three times; both labels the same."""
    sizes = Counter((e.source, e.unsafe) for e in examples)
    weight = np.array(
        [sizes[e.source, e.unsafe] ** -0.5 * (3 if e.contrast else 1) for e in examples]
    )
    unsafe = np.array([e.unsafe for e in examples])
    for label in (False, True):
        weight[unsafe == label] *= len(examples) / 2 / weight[unsafe == label].sum()
    return np.asarray(weight, np.float64)


def _mix(found: Vector, unsafe: Flags, weight: Vector) -> NDArray[np.float32]:
    """Logistic regression on the features; none may count against harm."""
    sign = np.where(unsafe, 1.0, -1.0)

    def loss(at: Vector) -> tuple[float, Vector]:
        signed = sign * (found @ at)
        slack = weight * sign / (1 + np.exp(np.clip(signed, -30, 30)))
        total = float((weight * np.logaddexp(0, -signed)).sum()) + float((at**2).sum()) / 2
        return total, at - found.T @ slack

    bounds = [(0, None), (0, None), (0, None), (None, None)]
    start = np.array([1.0, 0.2, 0.0, 0.0])
    found_mix = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found_mix.x, np.float32)


def _alone(
    judge: JudgeFile,
    kept: Kept,
    build: Build,
    problem: Callable[[], Problem],
    examples: Sequence[Example],
) -> NDArray[np.float32]:
    """(stages, 2): slope and offset of the linear logit where the encoder cannot read.

    Fitted out of fold, where both labels were seen in such scripts; 0.5 as in `_calibrated`.
    """
    folds = kept.plan.linear.folds
    scorers = [LinearScorer(kept.linear(build, problem, at).linear) for at in range(folds)]
    alone = np.zeros((len(STAGES), 2), np.float32)
    for at, stage in enumerate(STAGES):
        own = [e for e in examples if e.passage.stage is stage]
        foreign = [e for e in own if other_script(e.passage.text)]
        if len({e.unsafe for e in foreign}) < 2:
            foreign = own
        unsafe = np.array([e.unsafe for e in foreign])
        logits = np.array([scorers[fold_of(e.group, folds)].logit(e.passage) for e in foreign])
        found = np.stack([np.zeros_like(logits), logits, np.zeros_like(logits), logits * 0 + 1], 1)
        slope = float(_mix(found, unsafe, _weights(foreign))[1])
        top = float(np.quantile(logits[~unsafe], 1 - _FALSE_ALARMS[at]))
        alone[at] = slope, float(judge.threshold[at]) - slope * top
    return alone


_CLIP = 2.0  # of the default policy's evidence, in nats


def _evidence_slope(benign: Vector, false_alarms: float, slope: float) -> float:
    """Steps feed evidence, which clips them: a quarter of the false alarms shall reach the clip."""
    alarm, strong = np.quantile(benign, [1 - false_alarms, 1 - false_alarms / 4])
    return float(np.clip(_CLIP / max(strong - alarm, 1e-6), slope, 8 * slope))


_ENOUGH = 20  # unsafe and safe rows of a language


def _languages(corpus: Corpus) -> tuple[str, ...]:
    """Languages that both labels taught."""
    counts = Counter((e.lang, e.unsafe) for e in corpus.examples)
    found = {lang for lang, _ in counts}
    both = {lang for lang in found if min(counts[lang, True], counts[lang, False]) >= _ENOUGH}
    return tuple(sorted(both))


def _write_out_of_fold(path: Path, found: OutOfFold, judge: JudgeFile) -> None:
    mix = judge.mix[STAGES.index(Stage.REASONING)].astype(np.float64)
    folds = judge.about["plan"]["linear"]["folds"]
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for g, steps in zip(found.generations, found.steps, strict=True):
            ends = np.cumsum([len(p.text) for p in g.steps])
            texts = [at for at, p in enumerate(g.steps) if p.text.strip()]
            onset = None if g.onset is None else sum(at < g.onset for at in texts)
            row = {
                "id": g.id,
                "source": g.source,
                "group": g.group,
                "lang": g.lang,
                "voice": g.voice,
                "pair": g.pair,
                "read": g.read,
                "unsafe": g.unsafe,
                "onset": onset,
                "steps": [round(float(value), 3) for value in steps @ mix],
                "features": [[round(float(v), 3) for v in row[:3]] for row in steps],
                "chars": [int(ends[at]) for at in texts],
                "fold": fold_of(g.group, folds),
            }
            file.write(json.dumps(row) + "\n")
