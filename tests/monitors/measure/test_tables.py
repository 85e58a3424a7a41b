"""Tables over scores that are known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from monitors.judges.base import Passage
from monitors.measure import tables
from monitors.measure.cost import tier_table
from monitors.measure.scoring import Scorer
from monitors.measure.stream import Cell
from monitors.measure.traces import Trace
from monitors.taxonomy import Scenario, Stage
from monitors.training.corpus import Example
from tests.monitors.measure.corpora import WordJudge

NAN = float("nan")


def example(at: int, unsafe: bool, source: str = "set", stage: Stage = Stage.INPUT) -> Example:
    passage = Passage(stage, f"passage number {at} of {source}")
    return Example(passage, unsafe, source, f"{source}{at}", "MIT")


def trace(group: str, unsafe: bool, odds: list[float], source: str = "matsuo_pairs") -> Trace:
    ends = np.array(range(1, len(odds) + 1), dtype=np.float64)
    turn = 1 if unsafe else None
    made = Trace(f"{group}{unsafe}", source, group, "en", "", unsafe, turn, np.array(odds), ends)
    return replace(made, read=True)


def figures(cells: Iterable[Cell]) -> dict[tuple[str, str], float]:
    return {(c.row, c.figure): c.estimate.value for c in cells if c.estimate is not None}


def test_a_source_of_one_label_stands_against_its_stage() -> None:
    examples = [example(at, True, "harm") for at in range(10)]
    examples += [example(at, False, "calm") for at in range(10)]
    examples += [example(at, False, "told", Stage.ANSWER) for at in range(10)]
    odds = np.array([1.0] * 9 + [-2.0] + [-1.0] * 9 + [3.0] + [9.0] * 10)
    found = figures(tables.source_table(examples, odds, 0))
    assert found["input: harm", "AUROC"] == pytest.approx(81.0)  # against calm, not told
    assert found["input: harm", "found at 0.5"] == 90.0
    assert found["input: calm", "false alarms at 0.5"] == 10.0
    assert found["answer: told", "false alarms at 0.5"] == 100.0
    assert ("input: calm", "AUROC") not in found


def test_all_rows_of_a_document_are_one_group() -> None:
    """Two documents, one of which is always taken for harm: the interval says so."""

    def of(document: int) -> list[Example]:
        own = replace(example(document, False, "doc"), group=f"doc-{document}", contrast=True)
        asked = [example(10 * document + at, at < 10, "asked") for at in range(20)]
        return [own, *asked]

    odds = np.array([1.0] * 21 + [-1.0] * 21)
    cells = list(tables.document_table([*of(1), *of(2)], odds, 0))
    found = {(c.row, c.figure): c.estimate for c in cells}
    alarms = found["with a request in them", "false alarms at 0.5"]
    assert alarms is not None
    assert (alarms.value, alarms.low, alarms.high) == (50.0, 0.0, 100.0)
    assert ("by themselves, input", "false alarms at 0.5") in found


def test_stages_and_contrast_apart() -> None:
    examples = [example(at, at % 2 == 0) for at in range(20)]
    examples = [replace(e, contrast=at in (1, 3)) for at, e in enumerate(examples)]
    odds = np.array([1.0 if e.unsafe or at == 1 else -1.0 for at, e in enumerate(examples)])
    stages = figures(tables.stage_table(examples, odds, 0))
    assert stages["input", "found at 0.5"] == 100.0
    assert stages["input", "false alarms at 0.5"] == 10.0
    assert stages["input", "AUROC"] == 95.0
    contrast = figures(tables.contrast_table(examples, odds, 0))
    assert contrast == {
        ("input: contrast", "false alarms at 0.5"): 50.0,
        ("input: other benign", "false alarms at 0.5"): 0.0,
    }


def test_scenarios_and_languages_need_rows() -> None:
    examples = [replace(example(at, at < 5), scenario=Scenario.FRAUD) for at in range(10)]
    examples += [replace(example(at, at == 99, "fr"), lang="fr") for at in range(96, 105)]
    odds = np.array([1.0 if e.unsafe else -1.0 for e in examples])
    scenarios = figures(tables.scenario_table(examples, odds, 0))
    assert scenarios["input: fraud", "AUROC"] == 100.0
    assert scenarios["input: fraud, as topic", "false alarms at 0.5"] == 0.0
    assert {row for row, _ in figures(tables.language_table(examples, odds, 0))} == {"en, input"}


def test_unknown_rows_are_counted() -> None:
    examples = [example(0, True), example(1, False), example(2, False)]
    odds = np.array([NAN, NAN, 1.0])
    assert tables.unknown_table(examples, odds) == {"input, safe": 1, "input, unsafe": 1}


def test_pairs_in_order() -> None:
    pairs = [
        trace("won", True, [-3, 2]),
        trace("won", False, [-3, 1]),
        trace("lost", True, [-3, 0]),
        trace("lost", False, [-3, 1]),
        trace("even", True, [-3, 1]),
        trace("even", False, [-3, 1]),
        trace("blind", True, [-3, NAN]),
        trace("blind", False, [-2, -5]),
        trace("alone", True, [9, 9]),
    ]
    found = figures(tables.pair_table("matsuo_pairs", pairs, 0))
    # won, lost, even, and lost because the unsafe side could not be read
    assert found["matsuo_pairs", "pairs in order, highest step"] == pytest.approx(100 * 1.5 / 4)
    # Unsafe 2, 0, 1, -3 against safe 1, 1, 1, -2.
    whole = 4 + 1 + (3 / 2 + 1) + 0
    assert found["matsuo_pairs", "AUROC, highest step"] == pytest.approx(100 * whole / 16)


def test_read_traces_and_steps() -> None:
    rows = [trace(f"u{at}", True, [-1, 3], "khalaf_r1") for at in range(4)]
    rows += [trace(f"s{at}", False, [-1, 1], "khalaf_r1") for at in range(4)]
    rows.append(trace("weak", False, [9, 9], "star1"))  # one label: no AUROC
    rows.append(replace(trace("unread", False, [9, 9], "khalaf_r1"), read=False))
    found = figures(tables.read_table(rows, 0))
    assert {row for row, _ in found} == {"khalaf_r1, traces", "khalaf_r1, steps"}
    assert found["khalaf_r1, traces", "AUROC, highest step"] == 100.0
    assert found["khalaf_r1, steps", "found at 0.5"] == 100.0
    assert found["khalaf_r1, steps", "false alarms at 0.5"] == pytest.approx(100 * 4 / 12)


def test_alarms_on_safe_thinking() -> None:
    rows = [trace("a", False, [-1, 1], "star1"), trace("b", False, [-1, -1], "star1")]
    rows.append(trace("c", False, [NAN, -1], "safekey"))
    found = figures(tables.benign_table(rows, 0))
    assert found["star1", "steps at 0.5"] == 25.0
    assert found["star1", "generations with any at 0.5"] == 50.0
    assert found["safekey", "generations with any at 0.5"] == 100.0
    read = figures(tables.cleared_of_harm_table(rows, 0))
    assert read["safekey, read as safe", "any step at 0.5"] == 100.0


def swaps() -> list[tables.Swapped]:
    inputs = [
        Example(
            Passage(Stage.INPUT, f"a {'harmful' if at % 2 else 'harmless'} request, number {at}"),
            bool(at % 2),
            "asked",
            f"asked{at}",
            "MIT",
        )
        for at in range(10)
    ]
    steps = [
        Example(
            Passage(Stage.REASONING, f"{'teapot' if at % 2 else 'kettle'} {at}", request="own"),
            bool(at % 2),
            "khalaf_r1:read",
            f"step{at}",
            "MIT",
        )
        for at in range(20)
    ]
    return tables.swapped([*inputs, *steps])


def test_a_step_is_shown_under_both_kinds_of_request() -> None:
    for step in swaps():
        assert "harmless" in step.harmless.request
        assert "harmful" in step.harmful.request
        assert step.harmless.text == step.harmful.text == step.example.passage.text


AUROC = "AUROC of the step's label"
WORST = "unsafe steps under harmless, safe under harmful"


def test_who_goes_by_the_request_alone_is_found_out() -> None:
    scorer = Scorer(WordJudge(lambda p: 0.9 if "harmful" in p.request else 0.1))
    found = figures(tables.swap_table(swaps(), scorer, 0))
    assert found[WORST, AUROC] == 0.0
    assert found["a harmful request", AUROC] == found["a harmless request", AUROC] == 50.0
    assert found["safe steps", "verdict flips"] == 100.0
    shift = found["unsafe steps", "shift, harmless to harmful request, in log-odds"]
    assert shift == pytest.approx(2 * np.log(9))


def test_who_goes_by_the_text_is_not_moved() -> None:
    scorer = Scorer(WordJudge(lambda p: 0.9 if "teapot" in p.text else 0.1))
    found = figures(tables.swap_table(swaps(), scorer, 0))
    assert found[WORST, AUROC] == found["either, by lot", AUROC] == 100.0
    assert found["unsafe steps", "verdict flips"] == 0.0


class Tiered(WordJudge):
    """Clears whatever does not speak of kettles; without that, it would find all teapots."""

    def __init__(self) -> None:
        super().__init__(lambda p: 0.9 if "kettle" in p.text and "teapot" in p.text else 0.1)

    def clears(self, passage: Passage) -> bool:
        return "kettle" not in passage.text


def test_what_the_first_tier_clears_and_loses() -> None:
    texts = [("a kettle", False), ("a cup", False), ("a teapot", True), ("kettle, teapot", True)]
    examples = [Example(Passage(Stage.INPUT, text), bad, "set", text, "MIT") for text, bad in texts]
    judge = Tiered()
    odds = Scorer(judge).all(e.passage for e in examples)
    found = figures(tier_table(judge, examples, odds, 0))
    assert found["input", "benign cleared"] == 50.0
    assert found["input", "unsafe cleared"] == found["input", "recall at 0.5 lost"] == 50.0
    assert not list(tier_table(WordJudge(lambda _: 0.1), examples, odds, 0))
