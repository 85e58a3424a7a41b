"""Figures that can be worked out by hand, and what is said where there is nothing to measure."""

from __future__ import annotations

import random

import numpy as np
import pytest

from monitors.judges.base import Passage
from monitors.taxonomy import Stage
from monitors.training.corpus import Example, Generation
from monitors.training.measure import (
    THRESHOLDS,
    Sample,
    alarm_table,
    evidence_peak,
    evidence_table,
    language_table,
    stage_table,
)


def sample(unsafe: list[float], benign: list[float]) -> Sample:
    """All rows of one group: every resample is the sample, so the interval has no width."""
    labels = [True] * len(unsafe) + [False] * len(benign)
    return Sample([*unsafe, *benign], labels, ["g"] * len(labels), seed=0)


def generation(source: str, unsafe: bool | None) -> Generation:
    return Generation(source, source, source, "MIT", (), unsafe)


def example(stage: Stage, unsafe: bool, group: str, lang: str = "en") -> Example:
    return Example(Passage(stage, "text"), unsafe, "source", group, "MIT", lang=lang)


@pytest.mark.parametrize(
    ("unsafe", "benign", "value"),
    [
        ([0.6, 0.9], [0.1, 0.2], 100.0),
        ([0.1, 0.2], [0.6, 0.9], 0.0),
        ([0.9, 0.4], [0.5, 0.1], 75.0),  # three of four pairs in order
        ([0.5], [0.5, 0.1], 75.0),  # a tie is half in order
        ([0.5, 0.5], [0.5, 0.5], 50.0),
    ],
)
def test_auroc_by_hand(unsafe: list[float], benign: list[float], value: float) -> None:
    assert sample(unsafe, benign).auroc() == [value] * 3


def test_recall_and_alarms_by_hand() -> None:
    found = sample([0.95, 0.85, 0.05], [step / 10 for step in range(1, 11)])
    assert found.rows == [3, 10]
    assert found.recall(0.0) == [0.0] * 3
    assert found.recall(0.1) == [33.3] * 3  # only the benign 1.0 may alarm: above 0.9
    assert found.recall(0.2) == [66.7] * 3
    assert found.alarms(unsafe=True) == [66.7] * 3
    assert found.alarms(unsafe=False) == [60.0] * 3  # 0.5 itself alarms


def test_intervals_repeat_with_the_seed_and_widen_with_the_groups() -> None:
    rng = random.Random(1)
    labels = [bool(row % 2) for row in range(200)]
    scores = [rng.gauss(float(unsafe), 1) for unsafe in labels]

    def interval(groups: int, seed: int) -> list[float]:
        names = [str(row // 2 % groups) for row in range(200)]
        found = Sample(scores, labels, names, seed).auroc()
        assert found is not None
        return found

    assert interval(100, 7) == interval(100, 7)
    assert interval(100, 7)[1:] != interval(100, 8)[1:]
    value, low, high = interval(100, 7)
    assert low < value < high
    assert interval(1, 7) == [value] * 3


def test_a_resample_without_one_label_does_not_count() -> None:
    found = Sample([0.9, 0.1], [True, False], ["a", "b"], seed=0)
    assert found.auroc() == [100.0] * 3


def test_rows_of_one_label_or_none() -> None:
    bad, good, none = sample([0.7], []), sample([], [0.7]), sample([], [])
    for found in (bad, good, none):
        assert found.auroc() is None
        assert found.recall(0.01) is None
    assert bad.alarms(unsafe=True) == good.alarms(unsafe=False) == [100.0] * 3
    assert bad.alarms(unsafe=False) is good.alarms(unsafe=True) is None
    assert none.alarms(unsafe=True) is none.mean() is None
    assert bad.mean() == [70.0] * 3


def test_evidence_needs_several_steps() -> None:
    assert evidence_peak(np.array([0.01, 0.999, 0.01]), 0.5, 2.0) == pytest.approx(1.5)
    assert evidence_peak(np.array([0.9, 0.9, 0.9]), 0.5, 2.0) == pytest.approx(4.5)
    assert evidence_peak(np.array([0.9, 0.01, 0.9]), 0.5, 2.0) == pytest.approx(1.5)
    assert evidence_peak(np.zeros(0), 0.5, 2.0) == 0


def test_evidence_table_leaves_out_what_has_no_label_or_no_step() -> None:
    high = np.array([0.99, 0.99])
    rows = [generation("a", True), generation("a", None), generation("b", False)]
    table = evidence_table(rows, [high, high, np.zeros(0)], 0.5, 2.0)
    assert table["benign"] == table["quantiles"] == {}
    reached = [100.0 if threshold <= 3 else 0.0 for threshold in THRESHOLDS]
    assert table["detected"] == {"a": [1, *reached], "all": [1, *reached]}

    table = evidence_table([generation("b", False)], [np.array([0.2])], 0.5, 2.0)
    assert table["quantiles"] == {"b": [1, 0.0, 0.0, 0.0], "all": [1, 0.0, 0.0, 0.0]}
    assert table["detected"] == {}


def test_alarm_table_has_the_worst_source_first() -> None:
    rows = [generation(name, False) for name in ("calm", "loud", "loud")]
    rows.append(generation("harm", True))
    scores = [np.array(own) for own in ([0.1, 0.2], [0.5, 0.9, 0.1], [0.1], [0.9])]
    table = alarm_table(rows, scores)
    assert list(table) == ["loud", "calm"]
    assert table["loud"] == {
        "generations": 2,
        "steps": 4,
        "alarming steps, %": 50.0,
        "alarms per generation": 1.0,
        "generations with an alarm, %": 50.0,
    }
    assert alarm_table([], []) == {}


def test_tables_leave_out_what_has_too_few_rows() -> None:
    rows = [example(Stage.ANSWER, bool(at % 2), str(at)) for at in range(10)]
    rows += [example(Stage.ANSWER, at == 0, str(at), "fr") for at in range(9)]
    scores = np.array([0.9 if row.unsafe else 0.1 for row in rows])
    assert language_table(rows, scores, 0) == {"en, answer": {"rows": [5, 5], "AUROC": [100.0] * 3}}
    table = stage_table(rows, scores, 0)
    assert list(table) == ["answer"]
    assert table["answer"]["rows"] == [6, 13]
    assert table["answer"]["recall at 1 % false alarms"] == [100.0] * 3
