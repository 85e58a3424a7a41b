"""What the texts of `make bench-texts` are."""

from __future__ import annotations

import random

from monitors.trace import Trace
from tests.bench.texts import (
    CODES,
    LONGEST,
    SHORTEST,
    between_lines,
    encoded,
    harmful_requests,
    ordinary_texts,
    thinking,
)


def test_ordinary_texts_are_long_and_the_same_every_time() -> None:
    found = ordinary_texts()
    assert found == ordinary_texts()
    assert len(found["READMEs of packages"]) > 20
    for texts in found.values():
        assert all(SHORTEST <= len(text) <= LONGEST for text in texts)


def test_a_request_between_lines_leaves_both_whole() -> None:
    for seed in range(20):
        mixed = between_lines("one\ntwo\nthree", "ask", random.Random(seed))
        assert [line for line in mixed.split("\n") if line not in ("", "ask")] == [
            "one",
            "two",
            "three",
        ]
        assert "ask" in mixed.split("\n")


def test_what_is_asked_and_thought_is_of_the_dev_split() -> None:
    assert len(harmful_requests()) > 30
    harmful, harmless = thinking("unsafe"), thinking("safe")
    assert len(harmful) > 100
    assert [t.prompt for t in harmful] == [t.prompt for t in harmless]
    assert not {t.reasoning for t in harmful} & {t.reasoning for t in harmless}
    plain = Trace(id="a", prompt="Ask", reasoning="Think")
    codes = {name: encoded(plain, code).reasoning for name, code in CODES.items()}
    assert codes == {"base64": "VGhpbms=", "hex": "5468696e6b", "rot13": "Guvax"}
