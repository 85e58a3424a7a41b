"""A calibrated policy: the file that was given, its comments kept, with other numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from errno import EISDIR
from math import floor
from os import strerror
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.util import load_yaml_guess_indent

from monitors.calibration.fit import Target
from monitors.calibration.rows import File
from monitors.errors import UserError
from monitors.policy import Bound, Policy, alarm_settings
from monitors.policy_file import DEFAULT_THRESHOLDS, parse_policy
from monitors.taxonomy import Stage

_RATE = re.compile(r"^false_alarm_rate:.*$", re.MULTILINE)
_REMARK = "Written by `mlrm-guard calibrate`. Calibrate again after a change."
_REMARKS = re.compile(rf"\n*^# {re.escape(_REMARK)}\n+", re.MULTILINE)
LEAST, _MOST = 0.1, 100.0  # nats that a policy may name
_STAGES = (Stage.REASONING, Stage.ANSWER)
_UNKNOWN_YET = "0" * 12


@dataclass(slots=True, frozen=True)
class Proof:
    """What stands in the `calibrated` block beside the curves."""

    target: Target
    judges: Mapping[Stage, str]
    bound: Bound | None
    hard: Bound | None
    hard_sources: Sequence[str]
    worst: tuple[str, Bound] | None
    files: Sequence[File]
    date: str
    command: str

    def __post_init__(self) -> None:
        if self.bound is None or any(bound.rate > self.target.rate for bound in self.bounds):
            raise AssertionError("more false alarms than the fit allowed, though rounded up")

    @property
    def bounds(self) -> list[Bound]:
        """What was shown, on all and on the hard kind."""
        return [bound for bound in (self.bound, self.hard) if bound is not None]


def without_rate(text: str) -> str:
    """A policy's text without the rate that it promises, which is about to be proved."""
    return _RATE.sub("", text)


def with_values(
    text: str, policy: Policy, factor: float, stages: Collection[Stage] = _STAGES
) -> str:
    """The text with the drift and clip of `policy` and with thresholds so many times as high.

    Thresholds are rounded up, those of other than these stages stay as they are. Raises UserError
    for one that no policy may name.
    """
    yaml, document = _read(text)
    evidence = document.setdefault("evidence", CommentedMap())
    evidence["drift"], evidence["clip"] = policy.evidence.drift, policy.evidence.clip
    for name, row in document["scenarios"].items():
        _scale(row, factor, stages, whole=name == "default")
    return _written(yaml, document)


def with_proof(text: str, name: str, policy: Policy, proof: Proof) -> str:
    """The text with the rate and the `calibrated` block, curves as in `policy`."""
    yaml, document = _read(_REMARKS.sub("\n", text))  # of earlier calibrations
    for key in ("false_alarm_rate", "calibrated"):
        document.pop(key, None)
    document["calibrated"] = block = _block(policy, proof)
    document.yaml_set_comment_before_after_key("calibrated", before=f"\n{_REMARK}")
    block["settings"] = alarm_settings(parse_policy(_written(yaml, document), name))
    document.insert(len(document) - 1, "false_alarm_rate", proof.target.rate)
    return _written(yaml, document)


def require_writable(out: Path) -> None:
    """Raise UserError for a file that `save` could not write; it stays as it is."""
    part = _part(out)
    try:
        if out.is_dir():
            raise IsADirectoryError(EISDIR, strerror(EISDIR))
        part.touch()
        part.unlink()
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error


def save(text: str, out: Path) -> None:
    """Write a policy; the file appears whole or not at all."""
    part = _part(out)
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _part(out: Path) -> Path:
    return out.with_name(f".{out.name or 'policy'}.part")


def _read(text: str) -> tuple[YAML, Any]:
    _, indent, offset = load_yaml_guess_indent(text)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000  # long lines stay long
    yaml.indent(mapping=2, sequence=indent or 4, offset=2 if offset is None else offset)
    return yaml, yaml.load(text)


def _written(yaml: YAML, document: Any) -> str:
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def _scale(row: Any, factor: float, of: Collection[Stage], *, whole: bool) -> None:
    """Move a row's thresholds of some stages; `whole`: give it those that were built in, too."""
    given = row.get("threshold")
    if isinstance(given, int | float):
        if set(of) >= set(_STAGES):
            row["threshold"] = _times(given, factor)
        else:
            row["threshold"] = _flow(
                **{s.value: _times(given, factor) if s in of else given for s in _STAGES}
            )
        return
    if given is None and not whole:
        return
    stages = given if given is not None else row.setdefault("threshold", CommentedMap())
    for stage in _STAGES:
        if stage in of and (stage in stages or whole):
            old = stages.get(stage.value, DEFAULT_THRESHOLDS[stage])
            stages[stage.value] = _times(old, factor)


def _times(threshold: float, factor: float) -> float:
    # Strictly above: clipped steps give many generations the very same peak, which the factor just
    # passes by less than this product can tell.
    steps = floor(float(threshold) * factor * 10_000 + 1e-6) + 1
    found = max(LEAST, steps / 10_000)
    if found > _MOST:
        text = f"the data ask for {found:g} nats, a policy may name {_MOST:g} at most"
        raise UserError(f"{text}: raise --false-alarm-rate, or look at the worst source")
    return found


def _block(policy: Policy, proof: Proof) -> CommentedMap:
    block = CommentedMap(
        false_alarm_rate=proof.target.rate,
        confidence=proof.target.confidence,
        judges=CommentedMap((stage.value, proof.judges[stage]) for stage in _STAGES),
        settings=_UNKNOWN_YET,
        bound=_bound(proof.bounds[0]),
    )
    if proof.hard is not None:
        block["hard"] = CommentedMap(sources=list(proof.hard_sources), bound=_bound(proof.hard))
    if proof.worst is not None:
        source, bound = proof.worst
        block["worst"] = CommentedMap(source=source, bound=_bound(bound))
    curves = CommentedMap()
    for (key, stage), curve in policy.curves.items():
        own = curves.setdefault(stage.value, CommentedMap())
        own[key.value if key else "any"] = _flow(slope=curve.slope, offset=curve.offset)
    if curves:
        block["curves"] = curves
    block["data"] = [_flow(file=file.name, sha256=file.sha256) for file in proof.files]
    block["date"] = proof.date
    block["command"] = proof.command
    return block


def _bound(bound: Bound) -> CommentedMap:
    shown = _flow(generations=bound.generations, alarms=bound.alarms, rate=bound.rate)
    if bound.stages is not None:
        shown["stages"] = list(bound.stages)
    return shown


def _flow(**values: Any) -> CommentedMap:
    mapping = CommentedMap(values)
    mapping.fa.set_flow_style()
    return mapping
