"""Render the model card, CARD.md, from the score files that training writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from monitors.training.corpus import LICENCES
from monitors.training.measure import THRESHOLDS, Interval

Cells = dict[str, str]

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
    builds = {scores["build"]: scores for scores in sorted(found, key=itemgetter("build"))}
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
        " evidence + clipped logit - drift).\nOut-of-fold on training generations, then on dev; a"
        " source that a build did not learn from is\nwholly unseen.\n"
    ]
    heads = " | ".join(f"{t:g}" for t in THRESHOLDS)
    for build, scores in builds.items():
        of_default = scores["evidence"][0]
        for where, table in (("out of fold", of_default), ("dev", scores["evidence_dev"])):
            parts.append(
                f"\n{build}, {where}, drift {table['drift']}, clip {table['clip']}: share (%) that"
                f" crosses a\nthreshold; 95 / 98 / 99 % quantiles of benign peaks\n\n"
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
