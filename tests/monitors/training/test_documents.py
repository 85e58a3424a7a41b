"""Long documents: neither length nor subject tells the label, and dev's are never learned from."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from monitors.taxonomy import Stage
from monitors.training.corpus import DOCUMENTS, IN_DOCUMENTS, IN_EVERYDAY, Example, Split, load
from monitors.training.documents import documents
from tests.monitors.training.small_corpus import write


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    found = load(write(tmp_path_factory.mktemp("corpus")), "train", "release").examples
    return [e for e in found if e.source != IN_EVERYDAY]  # as training does


def made(requests: list[Example], split: Split = "train") -> list[Example]:
    return list(documents(requests, split, seed=3))


def test_a_document_stands_on_both_sides(requests: list[Example]) -> None:
    found = made(requests)
    assert found == made(requests)
    harmful = [e for e in found if e.unsafe]
    with_harmless = [e for e in found if not e.unsafe and not e.group.startswith("doc-")]
    assert len(harmful) == len(with_harmless) > 100
    alone = Counter(e.passage.stage for e in found if e.group.startswith("doc-"))
    assert alone[Stage.INPUT] == alone[Stage.ANSWER] > 100
    assert {e.source for e in found} == {IN_DOCUMENTS}
    known = {(e.group, e.unsafe): e.passage.text.strip() for e in requests}
    for e in (*harmful, *with_harmless):
        assert known[e.group, e.unsafe] in e.passage.text


def test_no_document_of_dev_is_learned_from(requests: list[Example]) -> None:
    def alone(split: Split) -> set[str]:
        return {e.group for e in made(requests, split) if e.group.startswith("doc-")}

    assert not alone("train") & alone("dev")
    assert len(alone("train")) > 150
    assert len(alone("dev")) > 20


def test_documents_are_long_and_distinct() -> None:
    rows = [json.loads(line) for line in DOCUMENTS.read_text("utf-8").split("\n") if line]
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)
    assert all(800 <= len(row["text"]) <= 3600 for row in rows)
    assert all(row["id"].startswith("doc-") for row in rows)
