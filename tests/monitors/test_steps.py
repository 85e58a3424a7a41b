"""Steps: boundaries depend on the text alone; nothing is lost or cut inside a character."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors.steps import MAX_BYTES, MIN_BYTES, RUN_BYTES, Segmenter

TEXT = st.text(
    alphabet=st.one_of(
        st.sampled_from(list("ab .!?…\n\t\"'”)。！？1💥é\u0301\u200d👩🏽")),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=1500,
)
CODES = st.lists(
    st.builds(
        lambda size, end: "x" * size + end,
        st.integers(min_value=0, max_value=3 * RUN_BYTES),
        st.sampled_from([" ", "\n", ". ", '."', "é", "。", "\u00a0", ""]),
    ),
    max_size=8,
).map("".join)
"""Long runs without whitespace, and what may end one."""


def cut(text: str, sizes: list[int] | None = None) -> list[str]:
    segmenter = Segmenter()
    steps: list[str] = []
    position = 0
    for size in sizes or []:
        steps += segmenter.feed(text[position : position + size])
        position += size
    steps += segmenter.feed(text[position:])
    return steps + segmenter.close()


@given(TEXT | CODES, st.lists(st.integers(min_value=0, max_value=40), max_size=80))
def test_any_chunking_gives_the_same_steps(text: str, sizes: list[int]) -> None:
    assert cut(text, sizes) == cut(text) == cut(text, [1] * len(text))


@given(TEXT | CODES)
def test_steps_add_up_to_the_text_and_are_bounded(text: str) -> None:
    steps = cut(text)
    assert "".join(steps) == text
    assert all(0 < len(step.encode()) <= MAX_BYTES for step in steps)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("I think about it now. Then I write it.", ["I think about it now.", " Then I write it."]),
        (
            "Dr. Ada said 1. and 2. are one step. Next one is here.",
            ["Dr. Ada said 1. and 2.", " are one step. Next one is here."],
        ),
        (
            'He said "it is a good day." Then he left us.',
            ['He said "it is a good day."', " Then he left us."],
        ),
        (
            f"{'a line of words ' * 7}\nthe first line was long",
            [f"{'a line of words ' * 7}", "\nthe first line was long"],
        ),
        (
            "a few words\nof one sentence\nthat is wrapped",
            ["a few words\nof one sentence\nthat is wrapped"],
        ),
        (
            "今天天气很好我们去公园。然后我们一起去吃午饭。",
            ["今天天气很好我们去公园。", "然后我们一起去吃午饭。"],
        ),
    ],
)
def test_boundaries(text: str, steps: list[str]) -> None:
    assert cut(text) == steps
    assert all(len(step.strip().encode()) >= MIN_BYTES for step in steps[:-1])


def test_a_long_run_is_cut_between_graphemes() -> None:
    family = "👩🏽\u200d🚀"
    for step in cut(family * 400):
        assert unicodedata.category(step[0]) == "So"
        assert not step.endswith("\u200d")


def test_a_code_has_as_many_steps_as_words_would() -> None:
    url = f"See https://example.org/{'a' * 120} for more of it."
    assert cut(url) == [url]
    assert [len(step) for step in cut("YWJj" * 100)] == [RUN_BYTES, RUN_BYTES, 80]


def test_a_megabyte_in_one_delta_takes_linear_time() -> None:
    assert len("".join(cut("word " * 200_000))) == 1_000_000
    assert len("".join(cut(f"{'x' * (RUN_BYTES - 1)} " * 6_250))) == 1_000_000
