"""Trace files: what is read, and how a row that cannot be read is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from monitors.errors import TraceError, UserError
from monitors.trace import Trace, read_rows, read_traces

GOOD = {"id": "a", "prompt": "p", "reasoning": "r", "answer": "é"}


def written(folder: Path, *lines: str) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def test_gzip_goes_by_the_name(tmp_path: Path) -> None:
    plain = written(tmp_path, json.dumps(GOOD, ensure_ascii=False))
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(read_rows(plain)) == list(read_rows(packed)) == [(1, GOOD)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{not json", "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ("[" * 200_000, "not JSON"),  # deeper than the parser goes
    ],
)
def test_a_bad_line_is_named_and_the_rest_is_read(tmp_path: Path, line: str, problem: str) -> None:
    path = written(tmp_path, "", line, "  ", '{"id": 1}')
    (number, error), good = read_rows(path)
    assert number == 2
    assert isinstance(error, TraceError)
    assert f"{path}:2" in str(error)
    assert problem in str(error)
    assert good == (4, {"id": 1})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": 3}, "id"),
        ({"unsafe_answer": 2}, "unsafe_answer"),
        ({"onset_char": -1}, "onset_char"),
        ({"scenario": "none such"}, "scenario"),
        ({"images": ["a", 1]}, "images.1"),
    ],
)
def test_a_bad_field_is_named(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    ((number, error),) = read_traces(written(tmp_path, json.dumps(GOOD | change)))
    assert isinstance(error, TraceError)
    assert (number, error.line, error.field) == (1, 1, field)


def test_a_missing_field_is_named_and_a_bad_line_passes_through(tmp_path: Path) -> None:
    (_, lacking), (_, broken) = read_traces(written(tmp_path, '{"id": "a"}', "{"))
    assert isinstance(lacking, TraceError)
    assert lacking.field == "prompt"
    assert "not JSON" in str(broken)


def test_unknown_keys_are_ignored(tmp_path: Path) -> None:
    (found,) = read_traces(written(tmp_path, json.dumps(GOOD | {"extra": {"x": 1}})))
    assert found == (1, Trace(id="a", prompt="p", reasoning="r", answer="é"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises((OSError, UserError), match=r"none\.jsonl"):
        list(read_rows(tmp_path / "none.jsonl"))
