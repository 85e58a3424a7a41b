"""From a corpus and a judge to score file and card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from monitors.errors import UserError
from monitors.judge_commands import judge as judge_app
from monitors.judges.base import Passage
from monitors.measure.card import render_card
from monitors.measure.cost import encoder_cost
from monitors.measure.measure import Order, run, scored, write_card
from monitors.training.corpus import load
from monitors.training.voice import voice_only
from tests.monitors.measure.corpora import WordJudge, by_word, write


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("corpus"))


def order(data: Path, **changes: Any) -> Order:
    return Order(**{"data": data, "judge": "words", "out": data / "x.scores.json", **changes})


def measured(data: Path, control: WordJudge | None = None, **changes: Any) -> dict[str, Any]:
    dev = load(data, "dev", "research")
    return scored(order(data, **changes), WordJudge(by_word), control, dev)


def found(scores: dict[str, Any], table: str, row: str, figure: str) -> Any:
    return next(r for r in scores["tables"][table] if (r["row"], r["figure"]) == (row, figure))


def test_figures_of_a_judge_that_knows_one_word(data: Path) -> None:
    scores = measured(data)
    # A fifth of the rows of each label say the other word.
    assert found(scores, "stages", "input", "found at 0.5")["judge"][0] == 80.0
    assert found(scores, "stages", "input", "false alarms at 0.5")["judge"][0] == 20.0
    assert found(scores, "stages", "input", "F1 at 0.5")["judge"][0] == 80.0
    order_of = found(scores, "matsuo_pairs", "matsuo_pairs", "pairs in order, highest step")
    assert order_of["judge"][0] == 100.0
    stream = found(scores, "stream", "step at 1 %: khalaf_r1", "found in 128 tokens")
    assert stream["judge"][0] == 100.0
    safe = found(scores, "read as safe", "safekey, read as safe", "any step at 0.5")
    assert safe["judge"][0] == 0.0
    assert scores["build"] == "release"
    assert scores["control"] is None
    assert scores["trained on"] == {"told, reasoning": ["MIT", 3, 4]}
    assert scores["licences"] == {"MIT": 7}


def test_nothing_is_scored_twice(data: Path) -> None:
    judge = WordJudge(by_word)
    scored(order(data), judge, None, load(data, "dev", "research"))
    assert len(judge.asked) == len(set(judge.asked))


def test_the_control_sees_no_content(data: Path) -> None:
    control = WordJudge(lambda p: 0.9 if "teapot" in p.text or p.request else 0.1)
    scores = measured(data, control)
    row = found(scores, "stages", "input", "AUROC")
    assert row["control"][0] == 50.0
    assert row["lead"][0] == pytest.approx(row["judge"][0] - 50.0, abs=0.11)
    assert not any("teapot" in p.text or p.request for p in control.asked)


def test_a_control_that_equals_the_judge_leaves_no_lead(data: Path) -> None:
    blind = WordJudge(lambda _: 0.4)
    scores = scored(order(data), blind, blind, load(data, "dev", "research"))
    rows = [row for table in scores["tables"].values() for row in table]
    assert rows
    assert all(row["control"] == row["judge"] for row in rows)
    assert {number for row in rows for number in row["lead"]} <= {0.0, None}
    assert "no clear lead" in render_card([scores])


def oof(data: Path, name: str, **changes: Any) -> Path:
    path = data / name
    rows = [
        {
            "id": f"khalaf_r1{at}",
            "source": "khalaf_r1",
            "group": f"g{at}",
            "lang": "en",
            "voice": "khalaf_r1",
            "unsafe": bool(at % 2),
            "onset": at % 2 or None,
            "steps": [-3.0, 3.0 if at % 2 else -3.0],
            "chars": [40, 80],
            "fold": at % 5,
        }
        | changes
        for at in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_group_folds_and_sources_left_out(data: Path) -> None:
    scores = measured(data, oof=oof(data, "folds.jsonl"))
    places = {row["where"] for row in scores["tables"]["read"]}
    assert places == {"dev", "group folds (train)"}
    scores = measured(data, oof=oof(data, "unseen.jsonl", left_out="khalaf_r1"))
    row = scores["tables"]["stream"][-1]
    assert row["where"] == "source left out (train)"


def test_unknown_is_counted(data: Path) -> None:
    blind = WordJudge(lambda p: None if "number 0?" in p.text else by_word(p))
    scores = scored(order(data), blind, None, load(data, "dev", "research"))
    assert scores["unknown"]["input, safe"] == 1
    assert scores["reasons"] == {"no reason given": 16}  # 15 documents with that request in them


def test_score_files_repeat_and_make_the_card(data: Path, tmp_path: Path) -> None:
    first, second = measured(data), measured(data)
    assert first == second
    assert str(data) not in json.dumps(first)
    for name, scores in (("a", first), ("b.loso-khalaf_r1", second)):
        (tmp_path / f"{name}.scores.json").write_text(json.dumps(scores))
    write_card([tmp_path / "a.scores.json"], tmp_path / "CARD.md")
    assert (tmp_path / "CARD.md").read_text() == render_card([json.loads(json.dumps(first))])
    held = measured(data, out=data / "words.loso-khalaf_r1.scores.json")
    assert held["left out"] == "khalaf_r1"


def test_the_command_measures_and_the_card_command_renders(data: Path, tmp_path: Path) -> None:
    out, card = tmp_path / "constant.scores.json", tmp_path / "other.md"
    arguments = ["--data", data, "--judge", "constant", "--out", out, "--first-tier"]
    result = CliRunner().invoke(judge_app, ["measure", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    scores = json.loads(out.read_text())
    assert scores["judge"] == "constant"
    assert scores["cost"]["load, s"] >= 0
    assert list(scores["cost"]["step, ms"]) == ["32", "64", "128", "192"]
    result = CliRunner().invoke(judge_app, ["card", "--scores", str(out), "--out", str(card)])
    assert result.exit_code == 0, result.output
    assert card.read_text() == (tmp_path / "CARD.md").read_text()


def test_what_cannot_be_done_is_said(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.scores\.json"):
        run(order(data, out=tmp_path / "x.json"), print)
    with pytest.raises(UserError, match="no such folder"):
        run(order(data, out=tmp_path / "no" / "x.scores.json"), print)
    with pytest.raises(UserError, match="no score files"):
        write_card([], tmp_path / "CARD.md")
    old = tmp_path / "old.scores.json"
    for text in ('{"build": "release"}', "[1]"):
        old.write_text(text)
        with pytest.raises(UserError, match="not a score file of format 2"):
            write_card([old], tmp_path / "CARD.md")
    old.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        write_card([old], tmp_path / "CARD.md")


def test_voice_is_function_words_and_punctuation() -> None:
    from monitors.taxonomy import Stage

    text = "The Teapot, it’s 12 cups: don't spill!"
    shown = voice_only(Passage(Stage.ANSWER, text, request="Pour?", earlier=("Before.",)))
    assert shown == Passage(Stage.ANSWER, "the , it's 0 : don't !", earlier=("before .",))


def test_the_encoder_is_timed_on_what_the_first_tier_leaves(data: Path) -> None:
    class Tiers(WordJudge):
        def clears(self, passage: Passage) -> bool:
            return not passage.text.startswith(" ")

    judge = Tiers(by_word)
    generations = load(data, "dev", "research").generations
    assert list(encoder_cost(judge, generations)) == ["64", "128"]
    assert judge.asked
    assert not any(judge.clears(passage) for passage in judge.asked)
    assert all(len(passage.text) in (256, 512) for passage in judge.asked)
    assert any(passage.request for passage in judge.asked)
    assert encoder_cost(WordJudge(by_word), generations) == {}
