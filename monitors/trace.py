"""Recorded generations on disk: JSON lines, gzip by file name.

A trace row is `{id, prompt, reasoning, answer}` plus optional keys; unknown keys are ignored.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from monitors.errors import TraceError, UserError
from monitors.taxonomy import Scenario


class Trace(BaseModel):
    """One recorded generation. `onset_char` counts over reasoning + answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    prompt: str
    reasoning: str | None = None
    answer: str | None = None
    source: str | None = None
    model: str | None = None
    unsafe_reasoning: int | None = Field(default=None, ge=0, le=1)
    unsafe_answer: int | None = Field(default=None, ge=0, le=1)
    scenario: Scenario | None = None
    safe_continuation: str | None = None
    onset_char: int | None = Field(default=None, ge=0)
    images: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _has_text(self) -> Trace:
        if self.reasoning is None and self.answer is None:
            raise ValueError("neither reasoning nor answer: nothing was generated")
        return self


def open_text(path: Path, mode: str = "r") -> IO[str]:
    """Open a text file as UTF-8; through gzip when its name ends in `.gz`."""
    if path.suffix == ".gz":
        return cast(IO[str], gzip.open(path, mode + "t", encoding="utf-8"))
    return path.open(mode, encoding="utf-8")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | TraceError]]:
    """Yield (line number, row) of a JSON-lines file; a line that is no object yields its error.

    Blank lines are skipped. Raises UserError where the file cannot be read.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _row(path, number, line)
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or "a damaged gzip file"
        raise UserError(f"{path}: cannot be read: {why}") from error


def _row(path: Path, number: int, line: bytes) -> dict[str, Any] | TraceError:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return TraceError(str(path), number, None, "not UTF-8")
    except (ValueError, RecursionError) as error:
        return TraceError(str(path), number, None, f"not JSON: {error}")
    if not isinstance(row, dict):
        return TraceError(str(path), number, None, "not a JSON object")
    return row


def read_traces(path: Path) -> Iterator[tuple[int, Trace | TraceError]]:
    """Yield (line number, trace) of a trace file; a bad row yields its error, naming the field."""
    for number, row in read_rows(path):
        if isinstance(row, TraceError):
            yield number, row
            continue
        try:
            yield number, Trace.model_validate(row)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or None
            yield number, TraceError(str(path), number, field, first["msg"])


def write_rows(out: Path, source: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines made from the rows of `source`; the file appears whole or not at all.

    Raises UserError where `out` is the source or cannot be written.
    """
    try:
        if out.exists() and source.exists() and out.samefile(source):
            raise UserError(f"{out}: is the input; choose another file for --out")
        if out.exists() and not out.is_file():  # a pipe or a terminal
            with open_text(out, "w") as file:
                file.writelines(map(_line, rows))
            return
        part = out.with_name(f".{out.name}")  # the same suffix, so compressed alike
        try:
            with open_text(part, "w") as file:
                file.writelines(map(_line, rows))
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"  # escaped: a text may hold a lone surrogate
