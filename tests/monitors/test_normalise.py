"""Normalisation: what reads the same is the same, and normalising twice changes nothing."""

from __future__ import annotations

from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors.normalise import normalise, visible

TRICKY = st.text(
    alphabet=st.one_of(
        st.sampled_from(
            list("aAéßſİıﬁΩςＡ１ \t\n\x00\x1f\x7f\u0085\u00ad\u0301\u0345\u200b\u200c")
        ),
        st.sampled_from(list("\u200d\u202e\u2060\ufeff\ufe0f\u034f\u115f\u3164\U000e0041کमया්가각")),
        st.characters(),
    ),
    max_size=60,
)


@given(TRICKY)
def test_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(TRICKY)
def test_result_is_encodable_and_its_whitespace_single(text: str) -> None:
    normalised = normalise(text)
    normalised.encode()
    assert normalised == " ".join(normalised.split())


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=60))
def test_fast_path_agrees_with_the_full_one(text: str) -> None:
    assert normalise(text) == normalise(text + " é").removesuffix("é").rstrip()


@given(st.text(max_size=40), st.integers(min_value=0, max_value=40))
def test_zero_width_space_changes_nothing(text: str, at: int) -> None:
    plain = normalise(text)
    assert normalise(plain[:at] + "\u200b" + plain[at:]) == plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Two\r\n words ", "two words"),
        ("ＦＵＬＬ ﬁt", "full fit"),
        ("so\u00adft hy\u2060phen", "soft hyphen"),
        ("a\u200db", "ab"),
        ("nul\x00l", "null"),
        ("Straße", "strasse"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian spells with the joiner
        ("lone \ud83d half", "lone \ufffd half"),
        ("", ""),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    "marks", ["\u0301\u0316", "\uff9e\u0316", "\u0344\u0316", "\u200b\u0301\u200b\u0316"]
)
def test_many_marks_on_one_base_take_linear_time(marks: str) -> None:
    started = perf_counter()
    once = normalise("a" + marks * 60_000)
    assert perf_counter() - started < 2  # milliseconds; 8 seconds without the cap
    assert len(once) <= 31
    assert normalise(once) == once


def test_marks_that_scripts_use_all_stay() -> None:
    assert normalise("q" + "\u0301" * 30) == "q" + "\u0301" * 30


def test_long_text_takes_linear_time() -> None:
    assert len(normalise("é\u200b " * 300_000)) == 2 * 300_000 - 1


@given(TRICKY)
def test_what_is_visible_normalises_to_the_same(text: str) -> None:
    assert normalise(visible(text)) == normalise(text)


def test_what_is_visible_keeps_case_and_space() -> None:
    assert visible("Tw\u200bo \n ＬＩＮＥＳ") == "Two \n LINES"
