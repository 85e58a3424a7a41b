"""Reading what to calibrate with: what rows are taken for, what is left out, what is wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from monitors.calibration.rows import Data, Generation, read_data
from monitors.errors import UserError
from tests.monitors.calibration.sample import write

LONG = "This is a long and plain sentence of thinking. " * 12
PAIR = {
    "id": "p1",
    "prompt": "May I?",
    "shared": ["Let me see.", "It is a question."],
    "safe": ["I say no."],
    "unsafe": ["I say yes."],
    "corrected": ["Wait, no."],
    "scenario": "fraud",
}


def trace(id: str = "t", **fields: Any) -> dict[str, Any]:
    return {"id": id, "prompt": "?", "reasoning": LONG, "source": "a", **fields}


def read(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> Data:
    return read_data([write(tmp_path / "data.jsonl", rows)], **options)


def only(data: Data) -> Generation:
    assert len(data.generations) == 1, data
    return data.generations[0]


def test_a_safe_trace_counts_whole_and_its_answer_where_it_is_called_safe(tmp_path: Path) -> None:
    one = only(read(tmp_path, trace(unsafe_reasoning=0, unsafe_answer=0, answer="Yes.")))
    assert (one.unsafe, one.answer, one.group) == (False, "Yes.", "id t")
    one = only(read(tmp_path, trace(unsafe_reasoning=0, answer="Yes.", group="g")))
    assert (one.answer, one.group) == ("", "g")


def test_labels_overrule_and_are_found_by_id(tmp_path: Path) -> None:
    labels: list[dict[str, Any]] = [
        {"id": "t", "unsafe_reasoning": 1, "onset_char": 7},
        {"id": "u", "unsafe_reasoning": None},
        {"id": "gone", "unsafe_reasoning": 0},
    ]
    rows = [trace(unsafe_reasoning=0), trace("u", unsafe_reasoning=1, onset_char=0), *labels]
    data = read(tmp_path, *rows)
    assert only(data).onset == 7
    assert data.left_out == {"labels without a trace": 1, "unlabelled": 1}
    assert data.files[0].kinds == {"trace": 2, "label": 3}


def test_a_pair_is_two_generations_of_one_group(tmp_path: Path) -> None:
    safe, unsafe = read(tmp_path, PAIR).generations
    assert safe.reasoning == "Let me see. It is a question. I say no."
    assert unsafe.reasoning == "Let me see. It is a question. I say yes. Wait, no."
    assert safe.onset is None
    assert unsafe.reasoning[unsafe.onset :] == "I say yes. Wait, no."
    assert safe.group == unsafe.group


def test_a_pair_in_a_script_without_spaces(tmp_path: Path) -> None:
    row = {**PAIR, "lang": "zh", "shared": ["一。"], "safe": ["二。"], "unsafe": ["三。"]}
    _, unsafe = read(tmp_path, row).generations
    assert (unsafe.reasoning[:2], unsafe.onset) == ("一。三。"[:2], 2)


def test_short_solutions_are_not_thinking_unless_one_says_so(tmp_path: Path) -> None:
    rows = [trace(str(at), reasoning="One and one is two.", unsafe_reasoning=0) for at in range(3)]
    data = read(tmp_path, *rows)
    assert data.left_out == {"a: written solutions, not thinking": 3}
    assert len(read(tmp_path, *rows, thinking=["a"]).generations) == 3
    long = trace(unsafe_reasoning=0)
    assert read(tmp_path, long, not_thinking=["a"]).generations == []
    mixed = trace("u", reasoning="It is short.", unsafe_reasoning=1, onset_char=0)
    assert len(read(tmp_path, *rows, mixed).generations) == 4


def test_what_has_no_label_or_onset_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [trace("a"), trace("b", unsafe_reasoning=1), trace("c", unsafe_reasoning=0)]
    data = read(tmp_path, *rows)
    assert only(data).id == "c"
    assert data.left_out == {"unlabelled": 1, "unsafe without an onset": 1}


def test_hard_by_source_or_by_row_and_another_split(tmp_path: Path) -> None:
    rows = [
        trace("a", unsafe_reasoning=0, hard=True),
        trace("b", unsafe_reasoning=0, source="b"),
        trace("c", unsafe_reasoning=0, split="dev"),
    ]
    data = read(tmp_path, *rows, hard=["b"], split="train")
    assert [(one.id, one.hard) for one in data.generations] == [("a", True), ("b", True)]
    assert data.left_out == {"of another split": 1}


def test_gzip_by_name(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(trace(unsafe_reasoning=0)).encode()))
    assert only(read_data([path])).id == "t"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"id": "x", "text": "?"}, "data.jsonl:2: is no known row: expected reasoning or answer"),
        (trace("x", unsafe_reasoning=2), "data.jsonl:2: unsafe_reasoning: "),
        (trace("x", hard="very"), "data.jsonl:2: hard: "),
        (trace("t"), "data.jsonl:2: id: `t` is also the trace of "),
        ({"id": "x", "unsafe_reasoning": 1}, "data.jsonl:2: onset_char: is missing"),
        ({**PAIR, "safe": []}, "data.jsonl:2: safe: "),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, trace(), row)
    assert problem in str(error.value)


def test_a_file_without_json_or_rows_and_an_unknown_source(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("not json\n")
    with pytest.raises(UserError, match=r"x:1: not JSON"):
        read_data([tmp_path / "x"])
    (tmp_path / "x").write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        read_data([tmp_path / "x"])
    with pytest.raises(UserError, match=r"--hard b: no such source; the data have a"):
        read(tmp_path, trace(unsafe_reasoning=0), hard=["b"])


def test_a_source_by_lot_always_the_same(tmp_path: Path) -> None:
    rows = [trace(str(at), unsafe_reasoning=0) for at in range(9)]
    rows += [trace(f"b{at}", unsafe_reasoning=0, source="b") for at in range(2)]
    data = read(tmp_path, *rows, at_most={"a": 4})
    kept = {g.id for g in data.generations}
    assert len(kept) == 6
    assert kept == {g.id for g in read(tmp_path, *rows[::-1], at_most={"a": 4}).generations}
    assert kept < {g.id for g in read(tmp_path, *rows, at_most={"a": 5}).generations}
    assert data.left_out == {"a: more than 4": 5}
    with pytest.raises(UserError, match="--at-most c: no such source; the data have a, b"):
        read(tmp_path, *rows, at_most={"c": 4})


def test_an_onset_beyond_the_text_is_a_bad_row(tmp_path: Path) -> None:
    rows = [trace("a", unsafe_reasoning=1, onset_char=len(LONG) - 1)]
    assert len(read(tmp_path, *rows).generations) == 1
    rows.append({"id": "a", "unsafe_reasoning": 1, "onset_char": len(LONG)})
    with pytest.raises(UserError, match=r"data\.jsonl:1: onset_char: lies beyond the text, which"):
        read(tmp_path, *rows)


def test_no_source_is_thinned_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--at-most a=0: to leave a source out, say --not-thinking"):
        read(tmp_path, trace(unsafe_reasoning=0), at_most={"a": 0})
