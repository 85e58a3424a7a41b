"""What the encoder is shown: both labels of a voice, no template that tells the label."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from monitors.taxonomy import Stage
from monitors.training.corpus import IN_EVERYDAY, Example, load
from monitors.training.curriculum import draws
from monitors.training.grid import grid
from tests.monitors.training.small_corpus import write


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    found = load(write(tmp_path_factory.mktemp("corpus")), "train", "release").examples
    return [*found, *grid(found, 400, seed=1)]


def test_the_grid_holds_every_combination(examples: list[Example]) -> None:
    steps = [e for e in examples if e.source == "grid"]
    assert len(steps) == 400
    by_request = Counter((e.passage.request in _harmful(examples), e.stance) for e in steps)
    assert len(by_request) == 6
    for e in steps:
        assert e.unsafe == (e.stance == "fulfilling" and e.passage.request in _harmful(examples))
    unsafe = Counter(_shape(e) for e in steps if e.unsafe)
    safe = Counter(_shape(e) for e in steps if not e.unsafe and e.stance == "fulfilling")
    assert unsafe.keys() == safe.keys()  # the same templates on both sides


def _harmful(examples: list[Example]) -> set[str]:
    return {e.passage.text for e in examples if e.passage.stage is Stage.INPUT and e.unsafe}


def _shape(step: Example) -> str:
    return step.passage.text.replace(step.passage.request, "{asked}")


def test_draws_are_seeded_and_balanced(examples: list[Example]) -> None:
    drawn = draws(examples, "base", 900, seed=4)
    assert drawn == draws(examples, "base", 900, seed=4)
    assert drawn != draws(examples, "base", 900, seed=5)
    for stage in Stage:
        own = [bag.unsafe for bag in drawn if bag.stage is stage]
        assert 0.4 < sum(own) / len(own) < 0.6
    thinking = draws(examples, "thinking", 900, seed=4)
    assert sum(bag.stage is Stage.REASONING for bag in thinking) > 540
    traces = [e for e in examples if e.source != IN_EVERYDAY]
    alone = draws(traces, "thinking", 900, seed=4)
    assert sum(bag.stage is Stage.REASONING for bag in alone) > 700
    assert 0.3 < sum(bag.unsafe for bag in thinking) / len(thinking) < 0.6


def test_long_answers_come_in_steps_too() -> None:
    text = " ".join(f"This is sentence number {number} of the answer." for number in range(40))
    found = load_one(text)
    drawn = draws(found, "base", 60, seed=0)
    sizes = {len(bag.passages) for bag in drawn if bag.stage is Stage.ANSWER}
    assert 1 in sizes and max(sizes) > 2
    assert all("".join(p.earlier) in text for bag in drawn for p in bag.passages)


def load_one(text: str) -> list[Example]:
    from monitors.judges.base import Passage

    passage = Passage(Stage.ANSWER, text, request="Tell me.")
    return [Example(passage, unsafe, "told", "g", "MIT") for unsafe in (True, False)]


def test_harmless_without_harmful_gives_no_grid(tmp_path: Path) -> None:
    found = [e for e in load(write(tmp_path), "train", "release").examples if not e.unsafe]
    assert not list(grid(found, 10, seed=0))


def test_no_language_tells_the_label(examples: list[Example]) -> None:
    english = [e for e in examples if e.lang == "en"]
    few = [next(e for e in english if e.passage.stage is stage and not e.unsafe) for stage in Stage]
    lopsided = [
        replace(e, lang="fr", passage=replace(e.passage, text=f"Oui, {number}."))
        for number, e in enumerate([*few, *(e for e in english if e.unsafe)])
    ]
    drawn = draws([*english, *lopsided], "base", 900, seed=1)
    for stage in Stage:
        own = [
            bag.unsafe
            for bag in drawn
            if bag.stage is stage and bag.passages[0].text.startswith("Oui, ")
        ]
        assert len(own) > 40
        assert sum(own) == pytest.approx(len(own) / 2, abs=1)


def test_the_encoder_is_not_shown_what_its_vocabulary_cannot_read(examples: list[Example]) -> None:
    text = "Полный план для человека"
    foreign = [replace(e, lang="ru", passage=replace(e.passage, text=text)) for e in examples[:60]]
    for phase in ("base", "thinking"):
        drawn = draws([*examples, *foreign], phase, 900, seed=1)
        assert not any(passage.text == text for bag in drawn for passage in bag.passages)
