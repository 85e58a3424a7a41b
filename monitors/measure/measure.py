"""Measure a judge on the dev split, beside a control, and write its score file and the card."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from monitors.errors import TraceError, UserError
from monitors.judges.base import Judge, Passage
from monitors.judges.build import make_judge
from monitors.measure import cost, tables
from monitors.measure.card import render_card
from monitors.measure.figures import Vector
from monitors.measure.scoring import Calibrating, Scorer
from monitors.measure.stream import Cell, stream_table
from monitors.measure.traces import Trace, of_generation, out_of_fold
from monitors.progress import Steps
from monitors.trace import read_rows
from monitors.training.corpus import (
    IN_EVERYDAY,
    IN_LANGUAGES,
    Corpus,
    Example,
    Generation,
    counts,
    digest,
    load,
)
from monitors.training.documents import documents
from monitors.training.voice import voice_only

FORMAT = 2
"""Of score files."""

LEVERS = "levers.json"
"""What `mlrm-guard judge levers` writes."""

LEFT_OUT = ".loso-"
"""In a score file's name, before the source that its judge did not learn from."""

_THINNED = {"p07_math": 4}  # one generation in so many: half of all steps are its
_DEV, _FOLDS, _UNSEEN = "dev", "group folds (train)", "source left out (train)"


@dataclass(slots=True, frozen=True)
class Order:
    """What to measure, as the command line gives it."""

    data: Path
    judge: str
    out: Path
    control: str | None = None
    oof: Path | None = None
    control_oof: Path | None = None
    first_tier: bool = False
    notes: tuple[str, ...] = ()
    seed: int = 0


def run(order: Order, say: Callable[[str], None]) -> None:
    """Write the score file, and beside it the card of all score files there."""
    if not order.out.name.endswith(".scores.json"):
        raise UserError(f"{order.out}: a score file's name ends in .scores.json")
    if not order.out.parent.is_dir():
        raise UserError(f"{order.out.parent}: no such folder; create it or choose another --out")
    judge = make_judge(order.judge)
    control = None if order.control is None else make_judge(order.control)
    started = perf_counter()
    dev = load(order.data, "dev", "research")
    scores = scored(order, judge, control, dev)
    scores["cost"] = {
        **cost.load_cost(order.judge),
        "step, ms": cost.step_cost(judge, dev.generations),
        "encoder, ms": cost.encoder_cost(judge, dev.generations),
        "mix": cost.throughput(judge, dev.generations),
    }
    scores["seconds"] = round(perf_counter() - started)
    order.out.write_text(json.dumps(scores, indent=1) + "\n", "utf-8")
    card = order.out.parent / "CARD.md"
    write_card(sorted(order.out.parent.glob("*.scores.json")), card)
    say(f"{order.out} ({judge.name}) and {card}; {scores['seconds']} s")


def write_card(files: Sequence[Path], out: Path) -> None:
    """The card of these score files, and of the levers beside the first of them: levers.json, and
    those of earlier runs, levers-NAME.json.
    """
    if not files:
        raise UserError("no score files: make them with `mlrm-guard judge measure`")
    own, *earlier = files[0].with_name(LEVERS), *sorted(files[0].parent.glob("levers-*.json"))
    levers = [_read(file) for file in (own, *earlier) if file.exists()]
    out.write_text(render_card([_read(file) for file in files], levers), "utf-8")


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{file}: not a score file of format {FORMAT}; measure the judge again")
    return found


def scored(order: Order, judge: Judge, control: Judge | None, dev: Corpus) -> dict[str, Any]:
    """Everything but cost, as the score file has it."""
    of_corpus = [e for e in dev.examples if e.source != IN_EVERYDAY]
    pasted = list(documents(of_corpus, "dev", order.seed))
    thinned = list(_thinned(dev.generations))
    measured = _Measured(dev, thinned, tables.swapped(of_corpus), pasted)
    passages = list(dict.fromkeys(measured.passages()))
    with Steps("scoring the dev split", len(passages) * (1 if control is None else 2)) as steps:
        scorer = Scorer(judge, scored=steps.step)
        scorer.prepare(passages)
        masked = None if control is None else Scorer(control, voice_only, steps.step)
        if masked is not None:
            masked.prepare(passages)
    read = frozenset(row["id"] for row in _labels(order.data))
    of_folds = _folds(order.oof, judge, read)
    found = list(_cells(scorer, measured, of_folds, order.seed))
    if order.first_tier:
        odds = scorer.all(e.passage for e in dev.examples)
        cells = cost.tier_table(judge, dev.examples, odds, order.seed)
        found += [("first tier", _DEV, cell) for cell in cells]
    beside: list[Placed] = []
    if control is not None and masked is not None:
        control_folds = _folds(order.control_oof, control, read)
        beside = list(_cells(masked, measured, control_folds, order.seed))
    about = dict(getattr(judge, "about", {}))
    trained_on, licences = _trained_on(order.data, judge)
    return {
        "format": FORMAT,
        "judge": judge.name,
        "build": str(about.pop("build", judge.name)),
        "left out": order.out.name.partition(LEFT_OUT)[2].removesuffix(".scores.json") or None,
        "control": None if control is None else control.name,
        "command": _command(order),
        "seed": order.seed,
        "notes": list(order.notes),
        "data": digest(order.data),
        "passages": len(passages),
        "thinned": _THINNED,
        "group folds": _scale(order.oof, judge),
        "about": about,
        "trained on": trained_on,
        "licences": licences,
        "sources": sorted({e.source for e in dev.examples} | {g.source for g in dev.generations}),
        "unknown": tables.unknown_table(dev.examples, scorer.all(e.passage for e in dev.examples)),
        "reasons": dict(sorted(scorer.reasons.items())),
        "tables": joined(found, beside),
    }


@dataclass(slots=True, frozen=True)
class _Measured:
    """What is scored: the dev split, its generations thinned, steps under other requests, and long
    documents.
    """

    dev: Corpus
    generations: list[Generation]
    swapped: list[tables.Swapped]
    documents: list[Example]

    def passages(self) -> Iterator[Passage]:
        for example in self.dev.examples:
            yield example.passage
        for generation in self.generations:
            yield from (step for step in generation.steps if step.text.strip())
        for example in self.documents:
            yield example.passage
        for step in self.swapped:
            yield from (step.harmless, step.harmful)


def _thinned(generations: Iterable[Generation]) -> Iterator[Generation]:
    """The generations, of some sources a fixed part of them."""
    for generation in generations:
        if zlib.crc32(generation.id.encode()) % _THINNED.get(generation.source, 1) == 0:
            yield generation


def _labels(folder: Path) -> Iterator[dict[str, Any]]:
    for _, row in read_rows(folder / "labels.jsonl"):
        if isinstance(row, TraceError):
            raise row
        yield row


def _folds(path: Path | None, judge: Judge, read: frozenset[str]) -> list[Trace]:
    return [] if path is None else list(out_of_fold(path, judge, read))


def _scale(path: Path | None, judge: Judge) -> str:
    """How the figures of group folds came to be."""
    if path is None:
        return "not measured"
    if isinstance(judge, Calibrating):
        return f"{path.name}, calibrated as the judge is"
    return f"{path.name}, taken as log-odds: the judge does not say how it calibrates"


Placed = tuple[str, str, Cell]
"""A table, where its rows are from, and a cell of it."""


def _cells(
    scorer: Scorer, measured: _Measured, of_folds: Sequence[Trace], seed: int
) -> Iterator[Placed]:
    for name, table in _OF_EXAMPLES.items():
        examples = [e for e in measured.dev.examples if e.source == name or e.source not in _APART]
        odds = scorer.all(e.passage for e in examples)
        yield from ((name, _DEV, cell) for cell in table(examples, odds, seed))
    odds = scorer.all(e.passage for e in measured.documents)
    of_documents = tables.document_table(measured.documents, odds, seed)
    yield from (("documents", _DEV, cell) for cell in of_documents)
    swaps = tables.swap_table(measured.swapped, scorer, seed)
    yield from (("swapped", _DEV, cell) for cell in swaps)
    for where, traces in (
        (_DEV, [of_generation(g, scorer.all) for g in measured.generations]),
        (_FOLDS, [trace for trace in of_folds if not trace.left_out]),
        (_UNSEEN, [trace for trace in of_folds if trace.left_out]),
    ):
        for name, of_traces in _OF_TRACES.items():
            yield from ((name, where, cell) for cell in of_traces(traces, seed))


_APART = (IN_LANGUAGES, IN_EVERYDAY)
"""Our own rows, each in a table of its name and in no other."""

_OF_EXAMPLES: dict[str, Callable[[Sequence[Example], Vector, int], Iterator[Cell]]] = {
    "stages": tables.stage_table,
    "scenarios": tables.scenario_table,
    "sources": tables.source_table,
    "contrast": tables.contrast_table,
    "languages": tables.language_table,
    "everyday": tables.everyday_table,
    "re-voiced": tables.revoiced_table,
}

_OF_TRACES: dict[str, Callable[[Sequence[Trace], int], Iterator[Cell]]] = {
    "matsuo_pairs": partial(tables.pair_table, "matsuo_pairs"),
    "pairs": partial(tables.pair_table, "pairs"),
    "read": tables.read_table,
    "read as safe": tables.cleared_of_harm_table,
    "benign": tables.benign_table,
    "stream": stream_table,
}


def joined(judge: Iterable[Placed], control: Iterable[Placed]) -> dict[str, list[Any]]:
    """Each figure beside another judge's of the same rows, and how far it leads."""
    beside = {(name, where, cell.row, cell.figure): cell for name, where, cell in control}
    found: dict[str, list[Any]] = {}
    for name, where, cell in judge:
        if cell.estimate is None:
            continue
        other = beside.get((name, where, cell.row, cell.figure))
        rival = None if other is None else other.estimate
        row = {
            "where": where,
            "row": cell.row,
            "rows": cell.rows,
            "figure": cell.figure,
            "unit": cell.unit,
            "judge": cell.estimate.interval,
            "control": None if rival is None else rival.interval,
            "lead": None if rival is None else cell.estimate.lead(rival),
        }
        found.setdefault(name, []).append(row)
    return found


def _trained_on(folder: Path, judge: Judge) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """By source and stage: licence, unsafe rows, safe rows; and rows by licence; as the judge says,
    or its build has.
    """
    about = getattr(judge, "about", {})
    if "rows" in about and "licences" in about:
        return dict(about["rows"]), dict(about["licences"])
    build = about.get("build")
    if build not in ("release", "research"):
        return {}, {}
    return counts(load(folder, "train", build).examples)


def _command(order: Order) -> str:
    words = ["mlrm-guard judge measure --data DIR --judge", Path(order.judge).name]
    for option, file in (
        ("--control", order.control),
        ("--oof", order.oof),
        ("--control-oof", order.control_oof),
        ("--out", order.out),
    ):
        words += [] if file is None else [option, Path(file).name]
    return " ".join(
        [*words, *(["--first-tier"] if order.first_tier else []), f"--seed {order.seed}"]
    )
