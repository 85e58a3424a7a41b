"""Training: one command, the same bytes each time, and no row that its build may not use."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitors.errors import UserError
from monitors.judges.base import Passage
from monitors.judges.embedded import EmbeddedJudge
from monitors.judges.judge_file import JudgeFile
from monitors.taxonomy import Stage
from monitors.training import corpus, train
from monitors.training.corpus import LICENCES, OWN, Split, allowed, load
from monitors.training.fit import Problem, Settings

REAL = Path(__file__).parents[4] / "shared" / "data" / "safety"
INTERNAL = "none-stated (model output), internal research"
NEVER_SEEN = "My-Own-Licence-2.0"


def example(number: int, split: str, licence: str = "MIT") -> dict[str, Any]:
    rng = random.Random(f"{split}{number}")
    unsafe = number % 2
    verb = rng.choice(["steal", "harm", "cheat"] if unsafe else ["bake", "paint", "plant"])
    noun = rng.choice(["bread", "house", "garden", "money", "letter"])
    stage = ("input", "reasoning", "answer")[number // 2 % 3]
    return {
        "id": f"{split}{number}",
        "source": f"source{number % 3}",
        "licence": licence,
        "stage": stage,
        "prompt": None if stage == "input" else f"Tell me about the {noun}",
        "text": f"We {verb} the {noun} {rng.choice(['today', 'now', 'again'])}.",
        "unsafe": unsafe,
        "label_source": "construction",
        "scenario": "fraud" if unsafe else None,
        "contrast": False,
        "group": f"{split}{number // 2}",
        "lang": "en",
    }


def trace(number: int, split: str, licence: str = "MIT") -> dict[str, Any]:
    bad = number % 2
    turn = "I will steal the money and cheat them." if bad else "I will bake the bread for them."
    return {
        "id": f"t{split}{number}",
        "source": "told",
        "licence": licence,
        "model": "none",
        "prompt": "What now?",
        "reasoning": f"Let me think about it first. {turn} Then the garden and the letter.",
        "answer": "We bake the bread today.",
        "unsafe_reasoning": bad,
        "unsafe_answer": 0,
        "group": f"t{split}{number}",
    }


def pair(number: int, split: str) -> dict[str, Any]:
    return {
        "id": f"p{split}{number}",
        "split": split,
        "lang": "en",
        "prompt": "A question about a house.",
        "shared": ["Let me look at the house first."],
        "safe": ["I will paint the house for them.", "Then we plant the garden."],
        "unsafe": ["I will steal from the house.", "Then we cheat the garden owner."],
        "corrected": None,
    }


def write(folder: Path, *, size: int = 120) -> Path:
    """A corpus in which every fifth example and trace is internal or of an unknown licence."""
    licences = ("MIT", "CC-BY-4.0", "MIT", INTERNAL, NEVER_SEEN)
    for split in ("train", "dev"):
        rows = [example(i, split, licences[i // 6 % 5]) for i in range(size)]
        traces = [trace(i, split, licences[i // 2 % 5]) for i in range(20)]
        for name, content in ((split, rows), (f"traces_{split}", traces)):
            text = "".join(json.dumps(row) + "\n" for row in content)
            (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    labels = [
        {
            "id": f"t{split}{i}",
            "split": split,
            "source": "told",
            "unsafe_reasoning": i % 2,
            "onset_char": 29 if i % 2 else None,
        }
        for split in ("train", "dev")
        for i in range(10)
    ]
    pairs = [pair(i, split) for split in ("train", "dev") for i in range(10)]
    for name, content in (("labels", labels), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in content))
    return folder


def test_trains_measures_and_repeats_to_the_byte(tmp_path: Path) -> None:
    data = write(tmp_path)
    written = []
    for turn in ("one", "two"):
        out = tmp_path / turn / "embedded-release.npz"
        out.parent.mkdir()
        train.run(data, "release", out, seed=3, say=lambda text: None)
        written.append(out.read_bytes())
    assert written[0] == written[1]
    judge = EmbeddedJudge.load(out)
    bad, good = (
        judge.score([Passage(Stage.REASONING, text)])[0].unsafe
        for text in ("We steal the money now.", "We bake the bread now.")
    )
    assert bad is not None
    assert good is not None
    assert bad > good
    scores = json.loads(out.with_suffix(".scores.json").read_text())
    assert scores["stages"]["reasoning"]["AUROC"][0] > 90
    assert set(scores["left_out"]) == {INTERNAL, NEVER_SEEN}
    card = (out.parent / "CARD.md").read_text()
    assert "mlrm-guard judge train" in card
    assert str(tmp_path) not in card


def test_licence_filter_covers_examples_traces_and_labels(tmp_path: Path) -> None:
    data = write(tmp_path)
    release, research = load(data, "train", "release"), load(data, "train", "research")
    for found in (release.examples, release.generations):
        assert {item.licence for item in found} <= {"MIT", "CC-BY-4.0", OWN}
    for found in (research.examples, research.generations):
        assert {INTERNAL, NEVER_SEEN} <= {item.licence for item in found}
    assert sum(release.left_out.values()) == 48 + 8


@pytest.mark.parametrize("licence", LICENCES)
def test_release_takes_nothing_doubtful(licence: str) -> None:
    doubtful = ("none-stated", "SA-", "NC-", "states none", "copy")
    assert not (allowed(licence, "release") and any(word in licence for word in doubtful))
    assert allowed(licence, "research")


def test_unknown_licence_is_left_out() -> None:
    assert not allowed(NEVER_SEEN, "release")
    assert allowed(NEVER_SEEN, "research")


def test_splits_do_not_mix(tmp_path: Path) -> None:
    data = write(tmp_path)
    splits: list[tuple[Split, Split]] = [("train", "dev"), ("dev", "train")]
    for split, other in splits:
        found = load(data, split, "research")
        groups = {e.group for e in found.examples} | {g.group for g in found.generations}
        assert groups
        assert not any(other in group for group in groups)


def test_read_labels_win_and_start_at_the_onset(tmp_path: Path) -> None:
    found = load(write(tmp_path), "train", "research")
    steps = [e for e in found.examples if e.group == "ttrain1" and e.source == "told:read"]
    assert [(e.passage.text.split()[0], e.unsafe) for e in steps] == [
        ("Let", False),
        ("I", True),
        ("Then", True),
    ]
    assert not [e for e in found.examples if e.group == "ttrain11" and e.source == "told:read"]


def test_pairs_teach_their_opening_once(tmp_path: Path) -> None:
    found = load(write(tmp_path), "train", "release")
    steps = [e for e in found.examples if e.group == "ptrain0"]
    assert sum("look at the house" in e.passage.text for e in steps) == 1
    assert [e.unsafe for e in steps].count(True) == 2


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    data = write(tmp_path)
    (data / "labels.jsonl").write_text('{"id": 1}\nnot json\n')
    with pytest.raises(UserError, match=r"labels\.jsonl:2: not JSON"):
        load(data, "train", "release")
    (data / "labels.jsonl").unlink()
    with pytest.raises(UserError, match=r"lacks labels\.jsonl \(onsets"):
        load(data, "train", "release")


def test_weights_survive_the_file(tmp_path: Path) -> None:
    examples = load(write(tmp_path), "train", "release").examples
    model = Problem(examples, Settings()).fit()
    path = tmp_path / "model.npz"
    model.save(path)
    again, _ = JudgeFile.load(path)
    fitted, read = model.linear.unsafe, again.linear.unsafe
    assert np.abs(read - fitted).max() < 0.01 * np.abs(fitted).max()


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the corpus in ../shared/data/safety")
def test_real_corpus_release_rows() -> None:
    found = load(REAL, "train", "release")
    assert len(found.examples) > 50_000
    licences = {e.licence for e in found.examples} | {g.licence for g in found.generations}
    assert all(LICENCES[licence][0] for licence in licences)
    dev = {e.group for e in load(REAL, "dev", "research").examples}
    assert not dev & {e.group for e in found.examples}
    assert corpus.FILES.keys() == corpus.digest(REAL).keys()
