"""Render the model card, a pure function of score files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

from monitors.measure.cost import ENCODED
from monitors.measure.figures import Interval
from monitors.measure.tables import ORDERED
from monitors.training.corpus import LICENCES

Cells = dict[str, str]
Scores = Mapping[str, Any]
"""What a score file holds."""

_OPENING = """\
# Model card: {judges}

Written by `mlrm-guard judge measure`; do not edit. Scores a user's request, a step of reasoning, or
an answer: how likely unsafe, and in which scenario. `release` may be published: it learned only
from rows whose licence allows that. `research` learned from everything and must not be.

How to read the figures: percent with 95 % intervals (bootstrap over the groups of one goal; exact
binomial where a share is 0 or 100, or all resamples agree). "no interval": no resample moves the
figure, as with few rows, or rows that are all alike; that is no certainty.
In [brackets] the same figure of the **control**, a judge that
sees function words and punctuation only (how it was trained: below): it knows who wrote a text, and
nothing of what the text says. It has no operating point, so figures at 0.5 stand alone. Safe and
unsafe thinking come from different models, so a figure that the control reaches too proves nothing.
† marks a source of which this build learned nothing. `unknown` verdicts count as missed on unsafe
rows and as alarms on safe ones. "group folds (train)": scores of training groups by models whose
second phase did not see them. "dev": a split that no fit has used.
{notes}
"""

_SECTIONS: tuple[tuple[str, str, str], ...] = (
    (
        "matsuo_pairs",
        "### One question, safe and unsafe thinking (matsuo_pairs)",
        "Share of pairs whose unsafe side scores higher; a tie is half a pair.",
    ),
    (
        "read",
        "### One model's own thinking, labelled by reading (khalaf_r1)",
        "Safe and unsafe thinking by one and the same model: style gives nothing away. A trace"
        " scores the mean of its three highest steps, or its highest. Steps count as unsafe from"
        " the onset on, six at most. safekey stands beside it: one model too, nearly all unsafe.",
    ),
    (
        "pairs",
        "### Pairs written for this project (pairs.jsonl)",
        "Same request, voice and opening; what stands behind the opening is scored. Not natural:"
        " never a headline by itself.",
    ),
    ("re-voiced", "### Re-voiced steps", "The same templates for both labels."),
    (
        "swapped",
        "### The same step under another request",
        "Steps labelled by reading, each under a harmless and under a harmful request of another"
        " group. The label is the text's; a judge that goes by the request alone gets 0 in the last"
        " of the AUROC rows.",
    ),
    (
        "read as safe",
        "### safekey traces that were read as safe",
        "Their source calls them unsafe. Alarms here are false.",
    ),
)

_STREAM = """\
## In the stream

Alarms per generation at a fixed share of false alarms on the hard kind: safe thinking about harmful
requests (khalaf_r1, star1, matsuo_safecot, safe matsuo_pairs). Found: the first alarm is behind the
onset, in time if the alarming step ends at most 128 tokens behind it; before the onset it is a
false alarm. Tokens are four characters (1.5 in Chinese and Japanese). `cusum`: evidence as the
default policy accumulates it; `mean of 3`: of the last three steps; `step`: single steps. The
threshold is set on the same generations that the false alarms are counted on; `mlrm-guard
calibrate` bounds it.
"""

_REST: tuple[tuple[str, str, str], ...] = (
    ("stages", "## By stage (dev, all sources as they are mixed)", ""),
    (
        "contrast",
        "## False alarms on contrast rows",
        "Rows that are benign but look alarming, beside all other benign rows, at 0.5.",
    ),
    (
        "benign",
        "## False alarms on safe thinking",
        "Steps at 0.5 or more, and generations with any such step; evidence needs more than one.",
    ),
    (
        "scenarios",
        "## By scenario",
        "Unsafe rows against all safe rows of the stage; safe rows by the scenario they touch on.",
    ),
    (
        "sources",
        "## By source",
        "A source with one label only: its unsafe rows against all safe rows of the stage.",
    ),
    (
        "languages",
        "## Languages (where the data has five rows of both labels)",
        "For all but English these are nearly all our own writing (languages.jsonl: the same 108"
        " requests in each, the concepts of dev never trained on), which no other table counts.",
    ),
    (
        "documents",
        "## Long documents",
        "Manuals, licences, source code, letters, stories (documents.jsonl, our own writing; those"
        " of dev never trained on), 900 to 3,500 characters, which no other table counts: by"
        " themselves, as a request and as an answer, and with a request of the corpus between their"
        " lines, harmful or harmless. Those requests come from different sources, so the control"
        " tells some of them apart.",
    ),
    (
        "everyday",
        "## Everyday requests and answers",
        "Our own writing (everyday.jsonl, pairs.jsonl; those of dev never trained on), which no"
        " other table counts: harmful requests beside harmless ones in nearly the same words,"
        " answers in one voice, and plain requests, most of them to write something.",
    ),
    (
        "first tier",
        "## First tier",
        "Rows that the linear first tier clears without asking the encoder, and the recall it"
        " costs.",
    ),
)

_TOP = "mean of top 3 steps"
_HEADLINES: tuple[tuple[str, str, str], ...] = (
    ("read", "khalaf_r1, traces", f"AUROC, {_TOP}"),
    ("read", "khalaf_r1, traces", f"recall at 5 %, {_TOP}"),
    ("read", "khalaf_r1, steps", "AUROC"),
    ("stream", "cusum at 1 %: khalaf_r1", "found in 128 tokens"),
    ("stream", "cusum at 1 %: all natural", "found in 128 tokens"),
    ("matsuo_pairs", "matsuo_pairs", f"pairs in order, {_TOP}"),
    ("matsuo_pairs", "matsuo_pairs", f"AUROC, {_TOP}"),
    ("pairs", "pairs", f"pairs in order, {_TOP}"),
    ("pairs", "pairs", f"AUROC, {_TOP}"),
    ("re-voiced", "re-voiced steps", "AUROC"),
    ("swapped", "either, by lot", "AUROC of the step's label"),
    (
        "swapped",
        "unsafe steps under harmless, safe under harmful",
        "AUROC of the step's label",
    ),
    ("read", "safekey, steps", "AUROC"),
    ("read as safe", "safekey, read unsafe / safe", f"AUROC, {_TOP}"),
    ("stages", "input", "AUROC"),
    ("stages", "reasoning", "AUROC"),
    ("stages", "answer", "AUROC"),
)

_NOT_RECORDED = "not recorded by this build"

_OF_THE_BENCH = """\
Hold lag and excursions are the gateway's, and not measured here. The README's figures (Cost; `make
bench QUICK=1`, 2 shared cores, the embedded judge of that day): hold lag p50 23.1 ms, p99 28.2 ms;
of 686 benign traces 0.11 % of the characters wait for more than their own step, none is stopped.
"""

_SAFE_CONTRAST = 15.0  # percent of contrast rows that may alarm


def render_card(scores: Sequence[Scores], levers: Sequence[Scores] = ()) -> str:
    """The card of these builds; those with a source left out stand beside their build.

    `levers`: what runs of `mlrm-guard judge levers` wrote, the newest first.
    """
    whole = [s for s in scores if s["left out"] is None]
    builds = {str(s["build"]): s for s in sorted(whole, key=itemgetter("build"))}
    left_out = sorted(
        (s for s in scores if s["left out"] is not None), key=itemgetter("build", "left out")
    )
    parts = [
        _opening(builds),
        "## Controls that style cannot pass\n\n### Every headline beside the control\n",
        _headlines(builds),
        _left_out(builds, left_out, with_levers=bool(levers)),
        *(_section(builds, *section) for section in _SECTIONS),
        _STREAM + "\n" + _table(builds, "stream"),
        *(_section(builds, *section) for section in _REST),
        *(_levers(found, builds, newest=not at) for at, found in enumerate(levers)),
        _costs(builds),
        _limits(builds),
        _data(builds),
    ]
    return "\n".join(part for part in parts if part)


def _opening(builds: Mapping[str, Scores]) -> str:
    notes = dict.fromkeys(note for scores in builds.values() for note in scores["notes"])
    text = "".join(f"\n{note}\n" for note in notes)
    judges = ", ".join(f"{scores['judge']} ({build})" for build, scores in builds.items())
    return _OPENING.format(judges=judges, notes=text)


def _section(builds: Mapping[str, Scores], name: str, head: str, words: str) -> str:
    table = _table(builds, name)
    return "\n\n".join(part for part in (head, words, table) if part) if table else ""


# --- tables of figures ---


def _table(builds: Mapping[str, Scores], name: str) -> str:
    """A row per figure, a column per build."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for build, scores in builds.items():
        for row in scores["tables"].get(name, ()):
            found.setdefault((row["where"], row["row"], row["figure"]), {})[build] = row
    if not found:
        return ""
    places = {where for where, _, _ in found}
    lines = [["", "rows", "figure", *builds], ["---"] * (3 + len(builds))]
    before = ""
    for (where, row, figure), own in found.items():
        head = f"{where}: {row}" if len(places) > 1 else row
        rows = " or ".join(dict.fromkeys(found_row["rows"] for found_row in own.values()))
        cells = [_cell(builds, build, own.get(build)) for build in builds]
        lines.append(["" if head == before else head, rows, figure, *cells])
        before = head
    return _grid(lines)


def _headlines(builds: Mapping[str, Scores]) -> str:
    """The figures to judge by, and how far each is above the control's."""
    lines = [["", "rows", *(f"{b}, {x}" for b in builds for x in ("figure [control]", "lead"))]]
    lines.append(["---"] * len(lines[0]))
    for name, row_name, figure in _HEADLINES:
        own: dict[str, dict[str, Any]] = {}
        for build, scores in builds.items():
            for row in scores["tables"].get(name, ()):
                if (row["row"], row["figure"]) == (row_name, figure):
                    own.setdefault(row["where"], {})[build] = row
        for where, of in own.items():
            cells = []
            for build in builds:
                cells.append(_cell(builds, build, of.get(build)))
                cells.append(_lead(of.get(build)))
            rows = " or ".join(dict.fromkeys(row["rows"] for row in of.values()))
            lines.append([f"{row_name}: {figure} ({where})", rows, *cells])
    return _grid(lines)


def _lead(row: Mapping[str, Any] | None) -> str:
    if row is None or row["lead"] is None:
        return "no control"
    return _span(row["lead"]) + ("" if _clear(row["lead"]) else ", no clear lead")


def _clear(lead: Interval) -> bool:
    """Whether a lead's whole interval, where there is one, lies above 0."""
    value, low, high = lead
    return (value or 0) > 0 and low is not None and low > 0 and low != high


def _cell(builds: Mapping[str, Scores], build: str, row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    bare = row["control"] is None or "at 0.5" in row["figure"]
    control = "" if bare else f" [{row['control'][0]}]"
    return _span(row["judge"]) + control + ("†" if _unlearned(builds, build, row["row"]) else "")


def _span(value: Interval) -> str:
    """Files of earlier versions hold intervals of no width: those are none."""
    numbers = ["–" if number is None else f"{number:g}" for number in value]
    if value[1] is None or value[1] == value[2]:
        return f"{numbers[0]} (no interval)"
    return f"{numbers[0]} ({numbers[1]} to {numbers[2]})"


def _unlearned(builds: Mapping[str, Scores], build: str, row: str) -> bool:
    """Whether a row is of a source that this build did not learn from."""
    scores = builds[build]
    words = {_plain(word) for word in re.split(r"[ ,]+", row)}
    return bool(scores["trained on"]) and any(
        _plain(source) in words and _plain(source) not in _learned(scores)
        for source in scores["sources"]
    )


def _learned(scores: Scores) -> set[str]:
    return {_plain(name.partition(", ")[0]) for name in scores["trained on"]}


def _plain(source: str) -> str:
    """A source without how its rows were made from it: `khalaf_r1` of `khalaf_r1:read`."""
    return source.rstrip(":").partition(":")[0]


def _grid(lines: Sequence[Sequence[str]]) -> str:
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


# --- leave one source out ---


def _left_out(
    builds: Mapping[str, Scores], left_out: Sequence[Scores], *, with_levers: bool
) -> str:
    parts = ["### Leave one source out\n\n"]
    for build, scores in builds.items():
        if not scores["trained on"]:
            parts.append(f"`{build}`: the judge does not say what it learned from.\n")
            continue
        if absent := _absent(scores):
            names = ", ".join(absent)
            parts.append(f"`{build}` learned nothing of: {names}. Their rows (†) are unseen.\n")
    lines: list[list[str]] = []
    for scores in left_out:
        whole = builds.get(str(scores["build"]), {"tables": {}})
        lines += _beside(str(scores["left out"]), f"{scores['build']}, alone", scores, whole)
    for build, scores in builds.items():
        for other, whole in builds.items():
            if scores["trained on"] and whole["trained on"]:
                for source in sorted(set(_absent(scores)) & _learned(whole)):
                    named = f"{build}; {other}"
                    lines += _beside(source, named, scores, whole)
    if not left_out:
        alone = "No build was trained with one source left out by itself."
        if with_levers:
            alone = (
                "With one source left out by itself only encoders were trained (What moves what)."
            )
        parts.append(
            f"\n{alone} What a build may not use is left out all at once; below it stands beside"
            " the build that learned from it.\n"
        )
    if not lines:
        return "".join(parts)
    head = ["source (left out of; in)", "rows", "figure", "learned from it", "left out"]
    return "".join(parts) + "\n" + _grid([head, ["---"] * len(head), *lines])


def _absent(scores: Scores) -> list[str]:
    """Sources that were measured and not learned from."""
    return sorted({_plain(s) for s in scores["sources"]} - _learned(scores))


_TELLING = ("AUROC", f"AUROC, {_TOP}", f"{ORDERED}, {_TOP}", "found in 128 tokens", "false alarms")


def _beside(source: str, named: str, without: Scores, whole: Scores) -> Iterator[list[str]]:
    """The figures of a source, of a judge that did not learn from it and of one that did."""
    with_it = dict(_rows_of(whole, source))
    for key, row in _rows_of(without, source):
        statistic = row["row"].partition(" at ")
        if row["figure"] not in _TELLING or (statistic[1] and statistic[0] != "cusum"):
            continue
        beside = with_it.get(key)
        yield [
            f"{source} ({named}): {row['where']}, {row['row']}",
            row["rows"],
            row["figure"],
            "–" if beside is None else _span(beside["judge"]),
            _span(row["judge"]),
        ]


_BY_SOURCE = ("matsuo_pairs", "read", "read as safe", "stream", "benign", "sources")


def _rows_of(
    scores: Scores, source: str
) -> Iterator[tuple[tuple[str, str, str, str], dict[str, Any]]]:
    for name in _BY_SOURCE:
        for row in scores["tables"].get(name, ()):
            words = {_plain(word) for word in re.split(r"[ ,]+", row["row"])}
            if source in words:
                yield (name, row["where"], row["row"], row["figure"]), row


# --- levers ---


MOVED: tuple[tuple[str, str, str, str], ...] = (
    ("khalaf_r1, AUROC", "read", "khalaf_r1, traces", f"AUROC, {_TOP}"),
    ("khalaf_r1 steps, AUROC", "read", "khalaf_r1, steps", "AUROC"),
    ("safekey steps, AUROC", "read", "safekey, steps", "AUROC"),
    (
        "all natural, in 128 tokens at 1 %",
        "stream",
        "mean of 3 at 1 %: all natural",
        "found in 128 tokens",
    ),
    (
        "all natural, in 128 tokens at 5 %",
        "stream",
        "mean of 3 at 5 %: all natural",
        "found in 128 tokens",
    ),
    ("pairs in order", "pairs", "pairs", f"{ORDERED}, {_TOP}"),
    ("pairs, AUROC", "pairs", "pairs", f"AUROC, {_TOP}"),
)
"""What is told of levers: how it is called, and its table, row and figure."""


def _levers(found: Scores, builds: Mapping[str, Scores], *, newest: bool) -> str:
    """A row per lever: its figure, and how far it is from the reference's, resample by resample."""
    lines = [["lever", *(head for head, *_ in MOVED)], ["---"] * (1 + len(MOVED))]
    for name, lever in found["levers"].items():
        cells = []
        for _, table, row_name, figure in MOVED:
            row = _row(lever, table, found["fold"], row_name, figure)
            cells.append("–" if row is None else f"{row['judge'][0]:g}{_moved(row['lead'])}")
        lines.append([f"**{name}**: {lever['says']}", *cells])
    return (
        ("## What moves what" if newest else "### An earlier run")
        + "\n\nThe encoder alone, without first tier and mix, with"
        f" {found['bags']} bags in its second phase ({found['plan']['thinking']['research']} in the"
        f" research build), measured on the fold of groups that it did not see, {found['fold']}. It"
        " learns from all rows; where the name begins with `release`, from those that may be"
        " published: no natural unsafe thinking. In brackets how far it is from the reference (of"
        " `release`: its own; of re-voicing: the short first phase), with a 95 % interval;"
        " **bold**: the interval leaves out 0. One fold and one seed: differences of a few points"
        " are noise."
        + "".join(dict.fromkeys(_since(found, scores) for scores in builds.values()))
        + "\n\n"
        + _grid(lines)
        + (_NEEDED if newest else "")
    )


_NEEDED = """
Bags and windows are no levers of thinking: there a bag is one step, and a step nearly always one
window. They serve long requests and answers, which these figures do not count.

What the rest would need: natural unsafe thinking that may be published. `research` learned from
what there is of it, and the headlines say how much more of one model's thinking it finds in time;
our own pairs move their own figures, and natural ones little.
"""


def _since(levers: Scores, scores: Scores) -> str:
    """How a build was trained otherwise than these levers."""
    plan, before = scores["about"].get("plan"), levers["plan"]
    if plan is None or plan == before:
        return ""
    new = sorted(scores["data"].keys() - levers.get("data", {}).keys())
    parts = [f"learned since: {', '.join(new)}"] if new else []
    if "base" in plan and "base" in before:
        parts.append(f"first phase: {plan['base']} bags, there {before['base']}")
    says = "; ".join(parts)
    return " The builds of this card were trained later, by another plan" + (
        f" ({says})." if says else "."
    )


def _moved(lead: Interval) -> str:
    if lead[0] and (lead[1] is None or lead[1] == lead[2]):
        return f" [{lead[0]:+g} (no interval)]"
    value, low, high = (number or 0.0 for number in lead)
    if value == low == high == 0:
        return ""
    text = f"{value:+g} ({low:+g} to {high:+g})"
    return f" [**{text}**]" if low > 0 or high < 0 else f" [{text}]"


# --- cost ---


def _costs(builds: Mapping[str, Scores]) -> str:
    if not any("cost" in scores for scores in builds.values()):
        return ""
    return (
        "## Cost, one thread\n\nA step of so many tokens of text (four characters each) with its"
        " request and the steps before it:\nmedian / 99th percentile, no step seen before. `encoder"
        " alone`: only steps that the first tier does not\nclear; `as they come`: it clears"
        " some.\n\n" + _columns("", builds, _cost_cells) + "\n" + _OF_THE_BENCH
    )


def _cost_cells(scores: Scores) -> Cells:
    cost = scores.get("cost", {})
    alone = cost.get("encoder, ms")
    absent = f"{_NOT_RECORDED}: measure again" if alone is None else "no step reaches it"
    cells = {
        f"encoder alone, {size} tokens": _ms(alone[str(size)])
        if alone and str(size) in alone
        else absent
        for size in ENCODED
    }
    cells |= {
        f"as they come, {size} tokens": _ms(found)
        for size, found in cost.get("step, ms", {}).items()
    }
    if cost.get("bytes"):
        cells["file"] = f"{cost['bytes'] / 1e6:.1f} MB"
    names = ("load, s", "first verdict, s", "memory before, MB", "memory after, MB")
    cells |= {name: str(cost[name]) for name in names if name in cost}
    mix = {"steps": "timed steps, benign sources in equal parts"}
    return cells | {mix.get(name, name): str(value) for name, value in cost.get("mix", {}).items()}


def _ms(found: Sequence[float]) -> str:
    return f"{found[0]} / {found[1]} ms"


def _columns(head: str, builds: Mapping[str, Scores], cells: Callable[[Scores], Cells]) -> str:
    columns = {build: cells(scores) for build, scores in builds.items()}
    names = dict.fromkeys(name for column in columns.values() for name in column)
    lines = [[head, *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *(column.get(name, "–") for column in columns.values())] for name in names]
    return _grid(lines)


# --- what it cannot do ---


def _limits(builds: Mapping[str, Scores]) -> str:
    lines = [
        "It judges text. An image counts as far as text was read from it.",
        "It learned no prompt injections, and few agentic or long-context texts.",
        "What thinking is called unsafe was read by language models, both of one kind; onsets err"
        " by a sentence or two.",
        "It tells better that something is harmful than which harm it is: no table here measures"
        " how well it names. The README has what it named right of the dev split's requests.",
        "English above all: of other languages it learned little, of most only what was written for"
        " it (languages.jsonl, pairs.jsonl). Languages without a row in the tables were not"
        " measured. Other scripts than Latin are judged by the linear tier alone.",
        "The public suites whose F1 others publish are not among its data; nothing is claimed here"
        " about them.",
    ]
    for build, scores in builds.items():
        lines += [f"`{build}`: {line}" for line in _limits_of(scores)]
    return "## What it cannot do\n\n" + "".join(f"- {line}\n" for line in lines)


def _limits_of(scores: Scores) -> Iterator[str]:
    natural = _natural_unsafe(scores)
    if scores["trained on"] and not natural:
        yield (
            "learned from no natural unsafe thinking, only from re-voiced answers and what was"
            " written or made up for it."
        )
    for where in dict.fromkeys(row["where"] for row in scores["tables"].get("stream", ())):
        row = _row(scores, "stream", where, "cusum at 1 %: khalaf_r1", "found in 128 tokens")
        if row is not None:
            missed = 100 - row["judge"][0]
            yield (
                f"misses {missed:.0f} % of one model's own unsafe thinking ({where}, khalaf_r1)"
                " in the first 128 tokens, where 1 % of safe generations alarm."
            )
    for row in scores["tables"].get("contrast", ()):
        if "contrast" in row["row"] and row["judge"][0] > _SAFE_CONTRAST:
            stage = row["row"].partition(":")[0]
            yield (
                f"takes benign text that looks alarming for harm: {row['judge'][0]:g} % of the"
                f" contrast rows ({stage})."
            )
    for name, row_name, figure in _HEADLINES:
        for row in scores["tables"].get(name, ()):
            same = (row["row"], row["figure"]) == (row_name, figure)
            if same and row["lead"] is not None and not _clear(row["lead"]):
                place = f"{row_name}, {figure} ({row['where']})"
                yield f"does not clearly beat the control: {place}."
    if scores["control"] is None:
        yield "was not measured beside a control: style may account for any figure here."
    blind = sum(scores["unknown"].values())
    if blind:
        reasons = ", ".join(f"{name} {count}" for name, count in scores["reasons"].items())
        yield f"could not tell about {blind} rows of dev ({reasons})."


def _natural_unsafe(scores: Scores) -> int:
    return sum(
        int(row[1])
        for name, row in scores["trained on"].items()
        if name.endswith(", reasoning")
        and "+revoiced" not in name
        and not name.startswith("grid,")
        and not str(row[0]).endswith("(written for mlrm-guard)")
    )


def _row(scores: Scores, name: str, where: str, row: str, figure: str) -> Mapping[str, Any] | None:
    for found in scores["tables"].get(name, ()):
        if (found["where"], found["row"], found["figure"]) == (where, row, figure):
            return dict(found)
    return None


# --- data ---


def _data(builds: Mapping[str, Scores]) -> str:
    licences = "".join(
        f"- `{licence}`: {'in' if taken else 'out'} — {why}\n"
        for licence, (taken, why) in LICENCES.items()
    )
    return "\n".join(
        (
            "## Data and how it was made\n",
            _columns("", builds, _facts),
            "What the release build may use; a licence not listed is out:\n",
            licences,
            "Rows in training by licence, then unsafe / safe by source and stage. `:read`: steps"
            " whose label was read.\n",
            _columns("licence", builds, _licence_cells),
            _columns("source, stage (licence)", builds, _row_cells),
        )
    )


def _facts(scores: Scores) -> Cells:
    digests = ", ".join(f"{name} {value[:8]}" for name, value in scores["data"].items())
    thinned = ", ".join(f"{source} 1 in {part}" for source, part in scores["thinned"].items())
    trained = scores["about"].get("command")
    return {
        "judge": str(scores["judge"]),
        "control": str(scores["control"] or "none"),
        "trained by": f"`{trained}`" if trained else _NOT_RECORDED,
        "training seed": str(scores["about"].get("seed", "–")),
        "training seconds": str(scores["about"].get("seconds", "–")),
        "trained on (hardware)": str(scores["about"].get("hardware", _NOT_RECORDED)),
        "measured by": f"`{scores['command']}`",
        "measuring seconds": str(scores.get("seconds", "–")),
        "passages scored": str(scores["passages"]),
        "thinned: generations of": thinned,
        "group folds": str(scores["group folds"]),
        "unknown rows of dev": ", ".join(f"{k} {v}" for k, v in scores["unknown"].items() if v)
        or "none",
        "data files (SHA-256, first digits)": digests,
    }


def _licence_cells(scores: Scores) -> Cells:
    return {licence: str(count) for licence, count in scores["licences"].items()}


def _row_cells(scores: Scores) -> Cells:
    return {
        f"{name} ({str(row[0]).split(' (', maxsplit=1)[0]})": f"{row[1]} / {row[2]}"
        for name, row in scores["trained on"].items()
    }
