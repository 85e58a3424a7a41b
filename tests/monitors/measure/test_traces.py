"""Traces from the corpus and from files of out-of-fold scores."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monitors.errors import TraceError
from monitors.judges.base import Passage
from monitors.judges.constant import ConstantJudge
from monitors.measure.scoring import Scorer, log_odds
from monitors.measure.traces import Trace, of_generation, out_of_fold
from monitors.taxonomy import Stage
from monitors.training.corpus import Generation
from tests.monitors.measure.corpora import WordJudge

ROW: dict[str, Any] = {
    "id": "t1",
    "source": "khalaf_r1",
    "group": "g1",
    "lang": "en",
    "voice": "khalaf_r1",
    "unsafe": True,
    "onset": 1,
    "steps": [-1.5, 2.0],
    "chars": [40, 80],
    "fold": 3,
}


def write(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "x.oof.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def test_out_of_fold_scores(tmp_path: Path) -> None:
    path = write(tmp_path, ROW, ROW | {"id": "t2", "unsafe": None, "onset": None, "left_out": True})
    first, second = out_of_fold(path, ConstantJudge(), frozenset({"t2"}))
    assert (first.source, first.turn, first.unsafe, first.read) == ("khalaf_r1", 1, True, False)
    assert list(first.odds) == [-1.5, 2.0]
    assert list(first.ends) == [10.0, 20.0]
    assert first.labels == [(-1.5, False), (2.0, True)]
    assert (second.read, second.left_out, second.labels) == (True, True, [])


class Calibrated(ConstantJudge):
    """One whose scores before calibration are ten above what they mean."""

    def calibrated(self, stage: int, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        assert stage == 1
        return 1 / (1 + np.exp(10 - logits))


def test_out_of_fold_scores_are_calibrated_where_the_judge_can(tmp_path: Path) -> None:
    (found,) = out_of_fold(
        write(tmp_path, ROW | {"steps": [10.0, 12.0]}), Calibrated(), frozenset()
    )
    assert list(found.odds) == pytest.approx([0.0, 2.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": [1.0]}, "1 steps, but 2 ends"),
        ({"unsafe": "maybe"}, "unsafe"),
        ({"onset": -1}, "onset"),
        ({"source": None}, "source"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message) as caught:
        list(out_of_fold(write(tmp_path, ROW, ROW | change), ConstantJudge(), frozenset()))
    assert ":2" in str(caught.value)


def test_steps_without_text_do_not_count() -> None:
    texts = ("Well. ", " \n", "A teapot. ", "A kettle.")
    steps = tuple(Passage(Stage.REASONING, text) for text in texts)
    generation = Generation("t", "star1", "g", "MIT", steps, unsafe=True, onset=2)
    scorer = Scorer(WordJudge(lambda p: 0.9 if "teapot" in p.text else 0.2))
    found = of_generation(generation, scorer.all)
    assert found.turn == 1
    assert [odds > 0 for odds in found.odds] == [False, True, False]
    assert list(found.ends) == [6 / 4, 18 / 4, 27 / 4]


def test_trace_scores() -> None:
    odds = np.array([5.0, 1.0, 2.0, 3.0, float("nan")])
    made = Trace("t", "s", "g", "en", "", False, 1, odds, np.zeros(5))
    assert made.top(1) == np.inf  # unknown, where it is safe
    harmful = Trace("t", "s", "g", "en", "", True, 1, odds, np.zeros(5))
    assert harmful.top(1) == 5.0
    assert harmful.top(1, behind_turn=True) == 3.0
    assert harmful.top(3, behind_turn=True) == 2.0


class Clamped(WordJudge):
    """Says 0.9999 of everything, but ranks."""

    def __init__(self) -> None:
        super().__init__(lambda _: 0.9999)

    def logit(self, passage: Passage) -> float:
        return float(len(passage.text))


def test_ties_at_the_clamp_are_ranked() -> None:
    scorer = Scorer(Clamped())
    short, long = (scorer.odds(Passage(Stage.INPUT, text)) for text in ("a", "abc"))
    assert log_odds(0.9999) < short < long


def test_each_passage_is_scored_once_and_failure_is_unknown() -> None:
    judge = WordJudge(lambda p: 1 / 0 if p.text == "bad" else 1.0)
    scorer = Scorer(judge)
    passages = [Passage(Stage.INPUT, text) for text in ("bad", "good", "bad", "good")]
    scorer.prepare(passages)
    odds = scorer.all(passages)
    assert len(judge.asked) == 2
    assert np.isnan(odds).tolist() == [True, False, True, False]
    assert odds[1] == 20.0
    assert dict(scorer.reasons) == {"failed: ZeroDivisionError": 1}
