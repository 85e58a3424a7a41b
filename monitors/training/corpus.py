"""The training corpus: which rows may go into which build, and what each row teaches.

One licence filter (`allowed`) covers whatever goes in: examples, traces, and the read labels, which
are used only together with their trace.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from monitors.errors import TraceError, UserError
from monitors.judges.base import Passage
from monitors.steps import Segmenter
from monitors.taxonomy import Scenario, Stage
from monitors.trace import read_rows
from monitors.window import EARLIER_STEPS

Build = Literal["release", "research"]
Split = Literal["train", "dev"]
Stance = Literal["fulfilling", "weighing", "refusing"]

FILES = {
    "train.jsonl.gz": "examples to learn from",
    "dev.jsonl.gz": "examples to measure on",
    "traces_train.jsonl.gz": "whole generations to learn from",
    "traces_dev.jsonl.gz": "whole generations to measure on",
    "labels.jsonl": "onsets read in those generations",
}
"""What to bring; our own writing, the JSON lines beside this module, comes with the package."""

PAIRS = Path(__file__).parent / "pairs.jsonl"
LANGUAGES = Path(__file__).parent / "languages.jsonl"
"""The same requests, harmful and harmless ones, with thinking and answers, in many languages."""

IN_LANGUAGES = "languages"
"""The source of these rows."""

DOCUMENTS = Path(__file__).parent / "documents.jsonl"
"""Long harmless texts of many kinds, and what somebody asks about each (`documents`)."""

IN_DOCUMENTS = "documents"
"""The source of these rows."""

EVERYDAY = Path(__file__).parent / "everyday.jsonl"
"""Harmful requests in everyday words, each beside a harmless one in nearly the same words, some of
them with answers in one voice: to the harmful one a harmful and a harmless one, to its twin what it
asks for. And plain requests of every day."""

IN_EVERYDAY = "everyday"
"""The source of these, and of the requests of our own thinking. Only the second phase is shown
them: the first sees no group whose thinking measures."""

STATEMENTS = ("edos", "davidson", "hatecheck", "diasafety")
"""Sources whose requests ask for nothing: posts, and chit-chat."""

MUSINGS = Path(__file__).parent / "musings.jsonl"
"""Long thinking in the rambling voice of distilled models, safe and unsafe behind one opening, and
about a harmless request in like words. Only to learn from: other writers' thinking measures it."""

_OWN_FILES = (PAIRS, LANGUAGES, DOCUMENTS, EVERYDAY, MUSINGS)

OWN = "Apache-2.0 (written for mlrm-guard)"
_DNA = (
    "Apache-2.0 (hub card of LibrAI/do-not-answer; a translation of it states CC-BY-NC-SA-4.0: "
    "check before commercial use)"
)

LICENCES: dict[str, tuple[bool, str]] = {
    "MIT": (True, "permissive"),
    "Apache-2.0": (True, "permissive"),
    "Apache-2.0 (hub card)": (True, "permissive; its parts (OpenOrca, GPTeacher) are MIT"),
    "CC0-1.0": (True, "no conditions"),
    "CC-BY-4.0": (True, "attribution, given in this card"),
    "MIT (CyberSecEval)": (True, "permissive"),
    "ODC-BY-1.0 (repository: MIT)": (True, "attribution, given in this card"),
    "ODC-BY-1.0 (WildGuardMix; AI2 Responsible Use Guidelines apply)": (
        True,
        "attribution, given in this card; the guidelines ask for safe use, and a guard is that",
    ),
    OWN: (True, "our own"),
    "CC-BY-SA-3.0 (share alike: keep the notice, keep derivatives under it)": (
        False,
        "share-alike: whether weights are a derivative is unsettled, and the package is Apache-2.0",
    ),
    "MIT (questions from TriviaQA, Apache-2.0, and NQ-open, CC-BY-SA-3.0)": (
        False,
        "part share-alike, and the rows do not say which",
    ),
    "MIT (JailbreakEval copy)": (
        False,
        "a third party's copy; the original's terms are not stated",
    ),
    _DNA: (False, "sources contradict each other, one says non-commercial"),
    "Apache-2.0 (hub card of medical-o1; the repository states none)": (
        False,
        "hub card and repository disagree",
    ),
    "none-stated (model output), internal research": (False, "internal: never in a release"),
}
"""Every licence seen so far: whether its rows may go into the released model, and why."""


def allowed(licence: str, build: Build) -> bool:
    """Whether a row of this licence may go into a build; an unknown licence only into research."""
    return build == "research" or LICENCES.get(licence, (False, ""))[0]


@dataclass(slots=True, frozen=True)
class Example:
    """One passage with its label. `weight` is relative to other rows of its source."""

    passage: Passage
    unsafe: bool
    source: str
    group: str
    licence: str
    scenario: Scenario | None = None
    contrast: bool = False
    lang: str = "en"
    stance: Stance | None = None
    weight: float = 1.0


@dataclass(slots=True, frozen=True)
class Generation:
    """One whole trace, cut into steps. `onset`: index of the first unsafe step, where known."""

    id: str
    source: str
    group: str
    licence: str
    steps: tuple[Passage, ...]
    unsafe: bool | None
    onset: int | None = None
    lang: str = "en"
    pair: str | None = None
    voice: str = ""
    scenario: Scenario | None = None
    harmful_request: bool | None = None
    """Whether the request asks for harm; None: some do."""
    read: bool = False
    """Whether a reader, not the source, gave the label."""


@dataclass(slots=True)
class Corpus:
    """One split, for one build."""

    examples: list[Example] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Rows left out, by licence."""


def counts(examples: Iterable[Example]) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """By source and stage: licence (or that there are several), unsafe and safe rows; and rows by
    licence.
    """
    by: dict[str, list[Any]] = {}
    licences: dict[str, int] = defaultdict(int)
    for e in examples:
        row = by.setdefault(f"{e.source}, {e.passage.stage}", [e.licence, 0, 0])
        row[0] = e.licence if row[0] == e.licence else "several licences"
        row[1 if e.unsafe else 2] += 1
        licences[e.licence] += 1
    return dict(sorted(by.items())), dict(sorted(licences.items()))


_MAX_UNSAFE_STEPS = 6  # behind the onset; later steps may well be harmless again
_MIN_BEHIND_ONSET = 10  # characters, for a step that straddles the onset to be unsafe
_SAMPLED_STEPS = 3  # of each long answer
_WEAK = 0.3  # weight of a step of an unsafe answer: it may be harmless
_LONG_ANSWER = 600
_NO_SPACES = ("ja", "zh")
_CUT_ANEW = ("star1", "matsuo_safecot")  # so that steps have those before them as context
_HARMFUL_REQUESTS = ("star1", "matsuo_safecot", "safekey", "matsuo_pairs")  # nearly all of them


def load(folder: Path, split: Split, build: Build) -> Corpus:
    """Read one split of a corpus folder, for training: only what the build may use."""
    check(folder)
    corpus = Corpus()
    traces = list(_licensed(folder / f"traces_{split}.jsonl.gz", build, corpus))
    labels = {row["id"]: row for row in rows(folder / "labels.jsonl") if row.get("split") == split}
    corpus.generations = [_generation(row, labels.get(row["id"])) for row in traces]
    corpus.generations += _pairs(split)
    cut_anew = {
        (row["source"], row["group"])
        for row in traces
        if row["id"] in labels or row["source"] in _CUT_ANEW
    }
    for row in _licensed(folder / f"{split}.jsonl.gz", build, corpus):
        if row["stage"] != "reasoning" or (row["source"], row["group"]) not in cut_anew:
            corpus.examples.append(_example(row))
    for row, generation in zip(traces, corpus.generations, strict=False):
        if (row["source"], row["group"]) in cut_anew:
            corpus.examples += _labelled_steps(generation)
        corpus.examples += _answer(row)
    for generation in corpus.generations[len(traces) :]:
        corpus.examples += _labelled_steps(generation)
    corpus.examples += _in_languages(split)
    corpus.examples += _everyday(split)
    return corpus


def check(folder: Path) -> None:
    """Raise UserError naming the files that a corpus folder lacks."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        bring = "; ".join(f"{name} ({FILES[name]})" for name in missing)
        raise UserError(f"{folder}: lacks {bring}")


def digest(folder: Path) -> dict[str, str]:
    """The first 16 hex digits of each data file's SHA-256, so that a card can name its data."""
    files = [*(folder / name for name in FILES), *_OWN_FILES]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files}


def augmented(examples: Iterable[Example]) -> Iterator[Example]:
    """The examples, and steps of the long answers among them: at run time answers come in steps."""
    for example in examples:
        yield example
        if example.passage.stage is Stage.ANSWER and len(example.passage.text) > _LONG_ANSWER:
            yield from _sampled_steps(example)


def cut(text: str) -> list[str]:
    """The steps of a text."""
    segmenter = Segmenter()
    return segmenter.feed(text) + segmenter.close()


def _sampled_steps(example: Example) -> Iterator[Example]:
    steps = [step for step in cut(example.passage.text) if step.strip()]
    stride = max(1, len(steps) // _SAMPLED_STEPS)
    for step in steps[stride // 2 :: stride][:_SAMPLED_STEPS]:
        yield replace(
            example,
            passage=replace(example.passage, text=step),
            source=f"{example.source}:steps",
            weight=_WEAK if example.unsafe else 1.0,
        )


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON-lines file. Raises UserError, and TraceError for a bad line."""
    try:
        for _, row in read_rows(path):
            if isinstance(row, TraceError):
                raise row
            yield row
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _licensed(path: Path, build: Build, corpus: Corpus) -> Iterator[dict[str, Any]]:
    for row in rows(path):
        licence = row.get("licence") or "no licence field"
        if allowed(licence, build):
            yield row
        else:
            corpus.left_out[licence] += 1


def _example(row: dict[str, Any]) -> Example:
    return Example(
        passage=Passage(Stage(row["stage"]), row["text"], request=row["prompt"] or ""),
        unsafe=bool(row["unsafe"]),
        source=row["source"],
        group=row["group"],
        licence=row["licence"],
        scenario=Scenario(row["scenario"]) if row["scenario"] else None,
        contrast=bool(row["contrast"]),
        lang=row["lang"],
    )


def _answer(row: dict[str, Any]) -> Iterator[Example]:
    """A trace's answer, where labelled. Safe ones are mostly refusals or safe help: contrast."""
    if row["unsafe_answer"] is None or not row["answer"]:
        return
    yield Example(
        passage=Passage(Stage.ANSWER, row["answer"], request=row["prompt"]),
        unsafe=bool(row["unsafe_answer"]),
        source=row["source"],
        group=row["group"],
        licence=row["licence"],
        contrast=not row["unsafe_answer"] and row["source"] in ("star1", "matsuo_safecot"),
    )


def _generation(row: dict[str, Any], label: dict[str, Any] | None) -> Generation:
    """A trace's thinking; the reader's label wins over the source's."""
    verdict = row["unsafe_reasoning"] if label is None else label["unsafe_reasoning"]
    steps = cut(row["reasoning"] or "")
    onset = None
    if label is not None and label["unsafe_reasoning"] == 1:
        onset = _step_at(steps, label["onset_char"])
    return Generation(
        id=row["id"],
        source=row["source"],
        group=row["group"],
        licence=row["licence"],
        steps=tuple(_passages(steps, row["prompt"])),
        unsafe=None if verdict is None else bool(verdict),
        onset=onset,
        voice=row["source"],
        scenario=Scenario(row["scenario"]) if row.get("scenario") else None,
        harmful_request=True if row["source"] in _HARMFUL_REQUESTS else None,
        read=label is not None,
    )


def _pairs(split: Split) -> Iterator[Generation]:
    for row in rows(PAIRS):
        if row["split"] != split:
            continue
        joint = "" if row["lang"] in _NO_SPACES else " "
        opening = joint.join(row["shared"])
        for side in ("safe", "unsafe"):
            steps = cut(joint.join([opening, *row[side]] if opening else row[side]))
            begins = len(opening) + len(joint) * bool(opening)
            yield Generation(
                id=f"{row['id']}:{side}",
                source="pairs",
                group=row["id"],
                licence=OWN,
                steps=tuple(_passages(steps, row["prompt"])),
                unsafe=side == "unsafe",
                onset=_step_at(steps, begins),
                lang=row["lang"],
                pair=row["id"],
                voice=row["voice"],
                scenario=Scenario(row["scenario"]),
                harmful_request=row["kind"] == "request",
                read=True,
            )


def musings() -> Iterator[Example]:
    """What musings.jsonl teaches. No build learns from it yet: a lever shows what it would add."""
    for row in rows(MUSINGS):
        opening = " ".join(row["shared"])
        for request, begins, thought, turned in (
            (row["prompt"], opening, row["safe"], []),
            (row["prompt"], opening, row["unsafe"], row["turned"] or []),
            (row["twin_prompt"], "", row["twin"], []),
        ):
            before = f"{begins} {' '.join(thought)}".lstrip()
            steps = cut(f"{before} {' '.join(turned)}")
            first = _step_at(steps, len(begins))
            last = _step_at(steps, len(before)) if turned else len(steps)
            harmful = request == row["prompt"]
            for index, passage in enumerate(_passages(steps, request)):
                unsafe = thought is row["unsafe"] and first <= index < last
                if index >= first and passage.text.strip():
                    yield Example(
                        passage=passage,
                        unsafe=unsafe,
                        source="musings:read",
                        group=row["id"],
                        licence=OWN,
                        scenario=Scenario(row["scenario"]) if unsafe else None,
                        contrast=not unsafe,
                        stance="fulfilling" if unsafe or not harmful else None,
                    )


_DEV_REQUESTS = 6  # one in so many everyday requests, all that belongs to it, is for measuring


def _everyday(split: Split) -> Iterator[Example]:
    """Requests and answers of everyday.jsonl, and the requests of our thinking that need no
    picture: harmful ones, harmless ones beside them, about as alarming things, or plain.
    """
    for row in rows(EVERYDAY):
        if (zlib.crc32(row["id"].encode()) % _DEV_REQUESTS == 0) == (split == "dev"):
            for request in ("prompt", "twin", "plain"):
                if request in row:
                    passage = Passage(Stage.INPUT, row[request])
                    yield _of_everyday(row, passage, unsafe=request == "prompt")
            for request, answer in (("prompt", "unsafe"), ("prompt", "safe"), ("twin", "told")):
                if answer in row:
                    passage = Passage(Stage.ANSWER, row[answer], request=row[request])
                    yield _of_everyday(row, passage, unsafe=answer == "unsafe")
    for row in rows(PAIRS):
        kind, plain = row["kind"], row["lang"] == "en" and not row["image"]
        if row["split"] == split and plain and kind in ("request", "turn"):
            passage = Passage(Stage.INPUT, row["prompt"])
            yield _of_everyday(row, passage, unsafe=kind == "request")
    for row in rows(MUSINGS) if split == "train" else ():
        if not row["image"]:
            yield _of_everyday(row, Passage(Stage.INPUT, row["prompt"]), unsafe=True)
            yield _of_everyday(row, Passage(Stage.INPUT, row["twin_prompt"]), unsafe=False)


def _of_everyday(row: dict[str, Any], passage: Passage, *, unsafe: bool) -> Example:
    return Example(
        passage=passage,
        unsafe=unsafe,
        source=IN_EVERYDAY,
        group=row["id"],
        licence=OWN,
        scenario=Scenario(row["scenario"]) if unsafe else None,
        contrast=not unsafe and "plain" not in row,
    )


_LANGUAGE_WEIGHT = 4.0  # one source, but seventeen languages
_DEV_CONCEPTS = 6  # one in so many concepts, in all languages, is for measuring


def _in_languages(split: Split) -> Iterator[Example]:
    for row in rows(LANGUAGES):
        concept, request = row["concept"], row["request"]
        if (zlib.crc32(concept.encode()) % _DEV_CONCEPTS == 0) != (split == "dev"):
            continue
        harmful = "unsafe" in row
        own = Example(
            passage=Passage(Stage.INPUT, request),
            unsafe=harmful,
            source=IN_LANGUAGES,
            group=f"languages {concept}",
            licence=OWN,
            scenario=Scenario(row["scenario"]) if harmful else None,
            contrast=row.get("contrast", False),
            lang=row["lang"],
            weight=_LANGUAGE_WEIGHT,
        )
        yield own
        step, answer = Passage(Stage.REASONING, "", request), Passage(Stage.ANSWER, "", request)
        good = replace(own, unsafe=False, scenario=None, contrast=harmful or own.contrast)
        if harmful:
            yield replace(own, passage=replace(step, text=row["unsafe"]), stance="fulfilling")
            yield replace(good, passage=replace(step, text=row["safe"]))
            yield replace(own, passage=replace(answer, text=row["assent"]))
            yield replace(good, passage=replace(answer, text=row["refusal"]))
        else:
            yield replace(good, passage=replace(step, text=row["thinking"]), stance="fulfilling")
            yield replace(good, passage=replace(answer, text=row["answer"]))


def _passages(steps: list[str], request: str) -> Iterator[Passage]:
    for index, step in enumerate(steps):
        earlier = tuple(steps[max(0, index - EARLIER_STEPS) : index])
        yield Passage(Stage.REASONING, step, request=request, earlier=earlier)


def _step_at(steps: list[str], char: int) -> int:
    """The first step with some text behind `char`."""
    ends = accumulate(map(len, steps))
    return next(
        (index for index, end in enumerate(ends) if end >= char + _MIN_BEHIND_ONSET),
        len(steps) - 1,
    )


def _labelled_steps(generation: Generation) -> Iterator[Example]:
    """What a generation's steps teach: nothing where its label, or its onset, is open."""
    if generation.unsafe is None or (generation.unsafe and generation.onset is None):
        return
    steps = generation.steps
    start, first = 0, len(steps)
    if generation.unsafe and generation.onset is not None:
        first = generation.onset
    elif generation.pair and generation.onset is not None:
        start = generation.onset  # the other side of the pair brings the opening that they share
    how = "read" if generation.read else "cut"
    for index, passage in enumerate(steps[: first + _MAX_UNSAFE_STEPS]):
        if index >= start and passage.text.strip():
            unsafe = index >= first
            yield Example(
                passage=passage,
                unsafe=unsafe,
                source=f"{generation.source}:{how}",
                group=generation.group,
                licence=generation.licence,
                scenario=generation.scenario if unsafe else None,
                contrast=index < first,
                lang=generation.lang,
                stance=_stance(generation, passage.text, unsafe=unsafe),
            )


_REFUSING = re.compile(
    r"\b(?:can(?:'t|not)|won't|will not|should(?:n't| not)|refuse|decline|not going to|instead|"
    r"unethical|illegal|harmful|responsib\w+|against)\b",
    re.IGNORECASE,
)


def _stance(generation: Generation, text: str, *, unsafe: bool) -> Stance | None:
    """What a step is about to do, by its label and, roughly, by its words (English)."""
    if unsafe:
        return "fulfilling"
    if not generation.harmful_request or generation.unsafe or generation.lang != "en":
        return None
    return "refusing" if _REFUSING.search(text.replace("’", "'")) else "weighing"
