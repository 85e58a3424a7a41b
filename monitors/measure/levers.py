"""Which part of the training moves which figure: the encoder without it, or with more of it.

Every lever learns the thinking phase anew, most of them from one base phase, and is measured on the
one fold of groups that it did not see, by the encoder alone: what the first tier and the mix add is
not in it. Each figure stands beside that of the lever's reference, on the same rows. Needs the
`train` extra.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from monitors.errors import UserError
from monitors.judges.base import Passage
from monitors.judges.layout import STAGES
from monitors.measure import tables
from monitors.measure.card import MOVED
from monitors.measure.figures import Vector
from monitors.measure.measure import FORMAT, Placed, joined
from monitors.measure.stream import stream_table
from monitors.measure.traces import Trace, of_generation
from monitors.taxonomy import Stage
from monitors.training import network
from monitors.training.corpus import Build, Corpus, Example, digest, musings
from monitors.training.curriculum import draws
from monitors.training.fit import fold_of
from monitors.training.train import Kept, Plan, Report, is_held, measured, progress, read

FOLD = 0
"""The fold that is held out."""

_WHERE = f"fold {FOLD} (train)"
_VERSION = f"{zlib.crc32(Path(__file__).read_bytes()):08x}"
"""Of what is kept of a lever."""
_UNREAD = ("matsuo_judge", "p07_math", "phybench", "huatuo_o1", "barrel", "gsm8k")
_READ = ("khalaf_r1:read", "safekey:read", "matsuo_pairs:read")


@dataclass(slots=True, frozen=True)
class Lever:
    """One change. `kept`: which examples are learned from; `shown`: how a passage is shown; `more`:
    what is learned from beside the corpus; `start`: where the second phase starts, `own`: at a
    first phase of this lever's rows, with as many bags as its second.
    """

    says: str
    build: Build = "research"
    beside: str = "reference"  # the lever that it is compared with
    kept: Callable[[Example], bool] = lambda _: True
    shown: Callable[[Passage], Passage] = lambda passage: passage
    times: int = 1  # as many bags as the plan says
    start: Literal["base", "own", "pretrained"] = "base"
    layers: int = 6
    more: Callable[[], Iterable[Example]] = tuple


def _with_step_before(passage: Passage) -> Passage:
    if passage.stage is not Stage.REASONING or not passage.earlier:
        return passage
    *earlier, last = passage.earlier
    return replace(passage, text=f"{last} {passage.text}", earlier=tuple(earlier))


def _half(example: Example) -> bool:
    return example.source not in _READ or zlib.crc32(f"half {example.group}".encode()) % 2 == 0


def _without(*sources: str) -> Callable[[Example], bool]:
    return lambda e: e.source not in sources


def _voiced_once(example: Example) -> bool:
    return not example.source.endswith("+revoiced")


REFERENCE = "reference"
_RELEASE = "release: reference"
_SHORT = "release: short first phase"

LEVERS: Mapping[str, Lever] = {
    REFERENCE: Lever("everything"),
    "no khalaf_r1": Lever("its labelled thinking left out", kept=_without("khalaf_r1:read")),
    "no safekey": Lever("its labelled thinking left out", kept=_without("safekey:read")),
    "no matsuo_pairs": Lever("its labelled thinking left out", kept=_without("matsuo_pairs:read")),
    "no labelled thinking": Lever(
        "without the natural thinking that was labelled by reading", kept=_without(*_READ)
    ),
    "half of the labelled thinking": Lever("half of its groups", kept=_half),
    "no pairs": Lever("without pairs.jsonl", kept=_without("pairs:read")),
    "musings too": Lever("with musings.jsonl, of which no build learned yet", more=musings),
    "no request": Lever(
        "steps are judged without their request", shown=lambda p: replace(p, request="")
    ),
    "no earlier steps": Lever(
        "steps are judged without those before them", shown=lambda p: replace(p, earlier=())
    ),
    "two steps at once": Lever("a unit is a step and the one before it", shown=_with_step_before),
    "no base phase": Lever(
        "from the pretrained encoder, at the first phase's rate, without requests, answers and"
        " re-voiced steps first",
        start="pretrained",
    ),
    "no grid": Lever("without steps made from requests in the second phase", kept=_without("grid")),
    "twice as long": Lever("twice as many bags", times=2),
    "three layers": Lever("half of the encoder's layers, its base phase cut too", layers=3),
    _RELEASE: Lever("rows that may be published: no natural unsafe thinking", "release", _RELEASE),
    "release: no pairs": Lever(
        "without pairs.jsonl", "release", _RELEASE, kept=_without("pairs:read")
    ),
    "release: no grid": Lever(
        "without steps made from requests", "release", _RELEASE, kept=_without("grid")
    ),
    "release: no everyday requests": Lever(
        "without everyday.jsonl and the requests of our thinking",
        "release",
        _RELEASE,
        kept=_without("everyday"),
    ),
    "release: musings too": Lever("with musings.jsonl", "release", _RELEASE, more=musings),
    _SHORT: Lever("as many bags in the first phase as here", "release", _RELEASE, start="own"),
    "release: no re-voicing": Lever(
        "and no re-voiced steps in either phase", "release", _SHORT, kept=_voiced_once, start="own"
    ),
}
"""By name, the most telling first."""


def run(
    folder: Path,
    out: Path,
    *,
    work: Path,
    seed: int,
    only: Sequence[str],
    say: Callable[[str], None],
    plan: Plan | None = None,
) -> None:
    """Train and measure the levers, all or some, on the research build's rows; write `out`.

    Of some, what `out` has of the others stays, where it is of the same data, code, plan and seed.
    Raises UserError for a lever that there is not.
    """
    if missing := [name for name in only if name not in LEVERS]:
        raise UserError(f"no lever {missing[0]!r}; there are: {', '.join(LEVERS)}")
    plan = plan or Plan()
    names = _with_references(only or LEVERS)
    with progress(say) as report:
        report("reading the corpus", 0.0)
        kept = Kept.of(work, digest(folder), plan, seed, report)
        whole = read(folder, "research", plan, seed)
        builds: dict[Build, Corpus] = {
            "release": read(folder, "release", plan, seed),
            "research": whole,
        }
        base = kept.base(builds["release"], whole)
        traces = {name: _traces(name, kept, builds, base, report) for name in names}
    figures = {name: list(_cells(traces[name], seed)) for name in names}
    found: dict[str, Any] = {
        "format": FORMAT,
        "made from": f"{kept.folder.name} {_VERSION}",
        "data": digest(folder),
        "seed": seed,
        "plan": asdict(plan),
        "bags": plan.lever,
        "fold": _WHERE,
        "levers": {
            name: {
                "says": LEVERS[name].says,
                "beside": LEVERS[name].beside,
                "tables": joined(figures[name], figures[LEVERS[name].beside]),
            }
            for name in names
        },
    }
    found["levers"] |= _others(out, found)
    out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    say(f"{out}: {len(found['levers'])} levers")


def _with_references(chosen: Iterable[str]) -> list[str]:
    """These, and what they are compared with, in the order of LEVERS."""
    names = set(chosen)
    for _ in range(2):  # a reference may have one
        names |= {LEVERS[name].beside for name in names}
    return [name for name in LEVERS if name in names]


def _others(out: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """The levers of an earlier run that this one did not repeat."""
    if not out.exists():
        return {}
    before = json.loads(out.read_text("utf-8"))
    if before.get("made from") != found["made from"]:
        return {}
    return {name: of for name, of in before["levers"].items() if name not in found["levers"]}


def _traces(
    name: str,
    kept: Kept,
    builds: Mapping[Build, Corpus],
    base: network.Encoder,
    report: Report,
) -> list[Trace]:
    """The generations of the fold that is held out, scored by a lever's encoder."""
    lever = LEVERS[name]
    own = [
        g
        for g in measured(builds["research"].generations, kept.plan.sampled)
        if fold_of(g.group, kept.plan.linear.folds) == FOLD and g.source not in _UNREAD
    ]
    passages = list(dict.fromkeys(p for g in own for p in g.steps if p.text.strip()))

    def score() -> Vector:
        encoder = _encoder(name, kept, builds[lever.build], base, report)
        logits = network.logits_of(
            encoder, [lever.shown(p) for p in passages], lambda s: report(f"scoring: {name}", s)
        )
        return np.array([rows[:, STAGES.index(Stage.REASONING)].max() for rows in logits])

    odds = dict(zip(passages, kept.array(f"lever {name} {_VERSION}", score), strict=True))

    def of(steps: Iterable[Passage]) -> Vector:
        return np.array([odds[step] for step in steps], np.float64)

    return [of_generation(g, of) for g in own]


def _encoder(
    name: str, kept: Kept, corpus: Corpus, base: network.Encoder, report: Report
) -> network.Encoder:
    lever, plan = LEVERS[name], kept.plan
    encoder = network.new_encoder(kept.seed)
    if lever.start == "base":
        encoder.load_state_dict(base.state_dict())
    elif lever.start == "own":
        encoder.load_state_dict(_own_base(name, kept, corpus, report).state_dict())
    layers = encoder.bert.encoder.layer
    encoder.bert.encoder.layer = layers[: lever.layers]
    rows = [
        replace(e, passage=lever.shown(e.passage))
        for e in (*corpus.examples, *lever.more())
        if lever.kept(e) and not is_held(e) and fold_of(e.group, plan.linear.folds) != FOLD
    ]
    recipe = plan.base_recipe if lever.start == "pretrained" else plan.fold_recipe
    network.learn(
        encoder,
        draws(rows, "thinking", lever.times * plan.lever, kept.seed),
        recipe,
        seed=kept.seed,
        checkpoint=kept.folder / f"lever {name} {_VERSION}.checkpoint",
        step=lambda share: report(f"lever: {name}", share),
    )
    return encoder


def _own_base(name: str, kept: Kept, corpus: Corpus, report: Report) -> network.Encoder:
    """The encoder after a short first phase of a lever's own rows, the held-out fold's left out."""
    encoder = network.new_encoder(kept.seed)
    lever, plan = LEVERS[name], kept.plan
    rows = [
        e
        for e in corpus.examples
        if lever.kept(e) and not is_held(e) and fold_of(e.group, plan.linear.folds) != FOLD
    ]
    network.learn(
        encoder,
        draws(rows, "base", plan.lever, kept.seed),
        plan.base_recipe,
        seed=kept.seed,
        checkpoint=kept.folder / f"lever base {name} {_VERSION}.checkpoint",
        step=lambda share: report(f"first phase: {name}", share),
    )
    return encoder


def _cells(traces: Sequence[Trace], seed: int) -> Iterator[Placed]:
    for name, of_traces in (
        ("read", tables.read_table(traces, seed)),
        ("pairs", tables.pair_table("pairs", traces, seed)),
        ("stream", stream_table(traces, seed)),
    ):
        told = {(row, figure) for _, table, row, figure in MOVED if table == name}
        yield from ((name, _WHERE, c) for c in of_traces if (c.row, c.figure) in told)
