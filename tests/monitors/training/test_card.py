"""The model card is what the score files beside it say, of the weights that ship."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from monitors.judges.embedded import EmbeddedJudge
from monitors.judges.judge_file import RELEASE_FILE
from monitors.training.card import render_card

DATA = RELEASE_FILE.parent
CARD = (DATA / "CARD.md").read_text("utf-8")


def test_the_card_in_the_package_is_that_of_its_weights() -> None:
    assert render_card(DATA) == CARD
    judge = EmbeddedJudge.load()
    scores = json.loads(RELEASE_FILE.with_suffix(".scores.json").read_text("utf-8"))
    assert scores["judge"] == judge.name
    assert scores["bytes"] == RELEASE_FILE.stat().st_size
    assert {name: scores[name] for name in judge.about} == judge.about
    assert f"| judge | {judge.name} |" in CARD
    assert "|  | release | research |" in CARD


def test_a_row_that_one_build_lacks_shows_a_dash(tmp_path: Path) -> None:
    for file in DATA.glob("*.scores.json"):
        shutil.copy(file, tmp_path)
    path = tmp_path / RELEASE_FILE.with_suffix(".scores.json").name
    scores = json.loads(path.read_text("utf-8"))
    del scores["stages"]["answer"]
    path.write_text(json.dumps(scores), "utf-8")
    assert "| answer: AUROC | – | " in render_card(tmp_path)


def test_a_card_of_one_build_has_one_column(tmp_path: Path) -> None:
    shutil.copy(RELEASE_FILE.with_suffix(".scores.json"), tmp_path)
    assert "|  | release |\n" in render_card(tmp_path)
