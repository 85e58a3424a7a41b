"""The corpus: no row that a build may not use, no group in two splits, labels where they start."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from monitors.errors import UserError
from monitors.judges.judge_file import JudgeFile
from monitors.taxonomy import Stage
from monitors.training import corpus
from monitors.training.corpus import LICENCES, OWN, Example, Split, allowed, load
from monitors.training.fit import Problem, Settings
from monitors.window import EARLIER_STEPS
from tests.monitors.training.small_corpus import INTERNAL, NEVER_SEEN, write

REAL = Path(__file__).parents[4] / "shared" / "data" / "safety"


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
    own = [e for e in found.examples if e.group == "chat-002"]
    steps = [e for e in own if e.passage.stage is Stage.REASONING]
    assert sum("debt between two brothers" in e.passage.text for e in steps) == 1
    assert {e.unsafe for e in steps} == {True, False}
    assert {e.stance for e in steps if e.unsafe} == {"fulfilling"}
    assert all(len(e.passage.earlier) <= EARLIER_STEPS for e in steps)


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
    model = Problem(examples, Settings(iterations=5)).fit()
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
    own = {path.name for path in corpus.PAIRS.parent.glob("*.jsonl")}
    assert own == {
        f"{name}.jsonl" for name in ("documents", "everyday", "languages", "musings", "pairs")
    }
    assert {*corpus.FILES, *own} == corpus.digest(REAL).keys()


def test_musings_teach_both_sides_of_an_opening() -> None:
    found: dict[str, list[Example]] = defaultdict(list)
    for e in corpus.musings():
        found[e.group].append(e)
    assert len(found) > 200
    for steps in found.values():
        unsafe = [e for e in steps if e.unsafe]
        safe = [e for e in steps if not e.unsafe]
        assert len(unsafe) >= 4
        requests = {e.passage.request for e in safe}
        assert len(requests) == 2
        assert {e.passage.request for e in unsafe} < requests
        # What a step's words alone may leave open, its words under its request do not.
        said = {(e.passage.request, e.passage.text) for e in unsafe}
        assert not said & {(e.passage.request, e.passage.text) for e in safe}


def test_everyday_requests_come_with_harmless_ones_in_the_same_words(tmp_path: Path) -> None:
    data = write(tmp_path)
    splits: tuple[Split, Split] = ("train", "dev")
    groups: list[set[str]] = []
    for split in splits:
        found = [e for e in load(data, split, "release").examples if e.source == "everyday"]
        assert len({(e.passage.text, e.passage.request) for e in found}) == len(found)
        own: dict[str, list[Example]] = defaultdict(list)
        for e in found:
            own[e.group].append(e)
        labels = Counter(tuple((e.passage.stage, e.unsafe) for e in of) for of in own.values())
        request, answer = Stage.INPUT, Stage.ANSWER
        asked = ((request, True), (request, False))
        answered = ((answer, True), (answer, False), (answer, False))
        assert labels.keys() == {asked, (*asked, *answered), asked[:1], asked[1:]}
        assert labels[asked] > 100
        assert labels[*asked, *answered] > 30
        assert all((e.scenario is None) == (not e.unsafe) for e in found)
        assert all(len(own[e.group]) == 1 for e in found if not (e.unsafe or e.contrast))
        groups.append(set(own))
    assert not groups[0] & groups[1]


def test_the_words_of_everyday_requests_do_not_tell_which_are_harmful() -> None:
    """What a request is for tells, not that it has a frightening word, or its form."""
    rows = [row for row in corpus.rows(corpus.EVERYDAY) if "twin" in row]
    for word in ("secretly", "illegal", "hack", "novel", "without", "teacher", "please", "?"):
        harmful, harmless = (
            sum(word in row[side].lower() for row in rows) for side in ("prompt", "twin")
        )
        assert min(harmful, harmless) > 0.4 * max(harmful, harmless), word
    lengths = np.array([[len(row["prompt"]), len(row["twin"])] for row in rows])
    assert 0.85 < lengths[:, 0].mean() / lengths[:, 1].mean() < 1.15


@pytest.mark.parametrize("split", ["train", "dev"])
def test_every_language_has_the_same_concepts(tmp_path: Path, split: Split) -> None:
    found = [e for e in load(write(tmp_path), split, "release").examples if e.source == "languages"]
    languages = {e.lang for e in found}
    assert len(languages) == 17
    groups = {e.group for e in found}
    for lang in languages:
        own = [e for e in found if e.lang == lang]
        assert {e.group for e in own} == groups
        for stage in Stage:
            assert {e.unsafe for e in own if e.passage.stage is stage} == {True, False}
    assert not any(e.unsafe and e.contrast for e in found)
