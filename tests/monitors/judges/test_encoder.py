"""The encoder: a row of logits per piece, one thread, nobody called, and parts that fit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monitors.errors import JudgeFileError
from monitors.judges.base import Passage
from monitors.judges.build import make_judge
from monitors.judges.encoder import Encoder
from monitors.judges.judge_file import EncoderParts
from monitors.judges.layout import LOGITS, STRIDE, WINDOW
from monitors.taxonomy import Stage
from tests.monitors.judges.small import (
    WORDS,
    linear_file,
    onnx_bytes,
    table,
    tokenizer_bytes,
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(onnx_bytes(), tokenizer_bytes())


def unsafe(encoder: Encoder, text: str) -> list[float]:
    return list(encoder.logits(Passage(Stage.ANSWER, text))[:, 2])


def test_a_piece_gives_a_row(encoder: Encoder) -> None:
    found = encoder.logits(Passage(Stage.INPUT, "grim calm"))
    assert found.shape == (1, LOGITS)
    assert found.dtype == np.float32
    assert np.array_equal(found[0], table()[WORDS.index("grim")] + table()[WORDS.index("calm")])
    assert encoder.logits(Passage(Stage.INPUT, "")).shape == (1, LOGITS)


def test_only_the_text_is_of_segment_one(encoder: Encoder) -> None:
    alone = encoder.logits(Passage(Stage.REASONING, "dark"))
    told = encoder.logits(Passage(Stage.REASONING, "dark", request="grim", earlier=("grim",)))
    assert np.array_equal(alone, told)


def test_long_text_gives_overlapping_windows(encoder: Encoder) -> None:
    words = ["calm"] * (WINDOW + STRIDE)
    words[WINDOW - 1] = "grim"  # the last of the first window, and in the second
    first, second = unsafe(encoder, " ".join(words))
    assert first == second == -(WINDOW - 1) + 3
    assert len(unsafe(encoder, "calm " * WINDOW)) == 1
    assert len(unsafe(encoder, "calm " * (WINDOW + 1))) == 2


def test_threads_agree(encoder: Encoder) -> None:
    texts = ["grim " * (count % 400) + "dark calm" for count in range(200)]
    expected = [unsafe(encoder, text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda text: unsafe(encoder, text), texts)) == expected


def narrow() -> bytes:
    return onnx_bytes(rows=np.ascontiguousarray(table()[:, :-1]))


def few_words() -> bytes:
    return onnx_bytes(rows=np.ascontiguousarray(table()[:-1]))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: onnx_bytes(types="attention_mask"), "encoder has .*attention_mask.*, expected"),
        (lambda: onnx_bytes(output="unsafe"), "encoder has .*unsafe.*, expected .*logits"),
        (narrow, rf"encoder gives \(1, {LOGITS - 1}\), expected \(1, {LOGITS}\)"),
        (few_words, "encoder fails: InvalidArgument"),
        (lambda: onnx_bytes()[:-100], "encoder cannot be loaded: "),
        (lambda: b"", "encoder cannot be loaded: "),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(
    tmp_path: Path, make: Callable[[], bytes], problem: str
) -> None:
    path = tmp_path / "judge.npz"
    replace(linear_file(), encoder=EncoderParts(make(), tokenizer_bytes())).save(path)
    with pytest.raises(JudgeFileError, match=f"judge file .*: its {problem}"):
        make_judge(str(path))


@pytest.mark.parametrize(
    ("tokenizer", "problem"),
    [
        (b"{}", "its tokenizer cannot be read"),
        (b"\xff", "its tokenizer cannot be read"),
        (tokenizer_bytes(tuple(w for w in WORDS if w != "[SEP]")), r"the tokenizer has no \[SEP\]"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(
    tmp_path: Path, tokenizer: bytes, problem: str
) -> None:
    path = tmp_path / "judge.npz"
    replace(linear_file(), encoder=EncoderParts(onnx_bytes(), tokenizer)).save(path)
    with pytest.raises(JudgeFileError, match=problem):
        make_judge(str(path))


_QUIET = """
import os, sys
from pathlib import Path
from monitors.judges.base import Passage
from monitors.judges.encoder import Encoder
from monitors.taxonomy import Stage

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
encoder = Encoder(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]).read_bytes())
for count in range(100):
    encoder.logits(Passage(Stage.ANSWER, "grim " * count))
print(threads() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_it_starts_no_thread_and_leaves_nothing_in_the_home(tmp_path: Path) -> None:
    """Released onnxruntimes report home, from a thread and a database of their own, if let."""
    (tmp_path / "onnx").write_bytes(onnx_bytes())
    (tmp_path / "tokenizer").write_bytes(tokenizer_bytes())
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ORT_", "XDG_")) and name != "CI"
    }
    run = subprocess.run(
        [sys.executable, "-c", _QUIET, tmp_path / "onnx", tmp_path / "tokenizer"],
        env=environment | {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["0"]
    assert list(home.rglob("*")) == []
