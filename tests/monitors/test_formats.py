"""Reasoning and answer are told apart under any chunking, and no character is lost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors.formats import AUTO, FORMATS, SEPARATED, THINK, THINK_OPEN, Format, ReplyParser

NAMES = {"reasoning": "R", "answer": "A", "unparsed": "U", "markup": "M"}


def parse(parts: list[str], format: Format = AUTO, *, resumed: bool = False) -> str:
    """Merged pieces of inline text, as `R[..]A[..]`."""
    parser = ReplyParser(format, resumed=resumed)
    pieces = [piece for part in parts for piece in parser.feed("", part)] + parser.close()
    shown, last = "", ""
    for piece in pieces:
        name = NAMES[piece.channel]
        shown = shown[:-1] + piece.text + "]" if name == last else f"{shown}{name}[{piece.text}]"
        last = name
    return shown


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("<think>a</think>b", "M[<think>]R[a]M[</think>]A[b]"),
        (" \n<think>\na\n</think>\n\nb", "M[ \n<think>]R[\na\n]M[</think>]A[\n\nb]"),
        ("<THINK>a</Think>b", "M[<THINK>]R[a]M[</Think>]A[b]"),
        ("<think>never closed", "M[<think>]R[never closed]"),
        ("<think>cut in the closer</thi", "M[<think>]R[cut in the closer</thi]"),
        ("opener missing</think>b", "U[opener missing]M[</think>]A[b]"),
        ("no tags at all", "U[no tags at all]"),
        ("<think>a<think>b</think>c", "M[<think>]R[a<think>b]M[</think>]A[c]"),
        (
            "<think>a</think>\n<think>b</think>c",
            "M[<think>]R[a]M[</think>\n<think>]R[b]M[</think>]A[c]",
        ),
        ("<think>a</think>b</think>c", "M[<think>]R[a]M[</think>]A[b</think>c]"),
        ("<think>a</think>b<think>c", "M[<think>]R[a]M[</think>]A[b<think>c]"),
        ("<think></think>", "M[<think></think>]"),
        (" " * 257 + "<think>a", "U[" + " " * 257 + "<think>a]"),
    ],
)
def test_irregular_replies(text: str, pieces: str) -> None:
    assert parse([text]) == parse(list(text)) == pieces


@pytest.mark.parametrize("split", range(18))
def test_a_tag_may_be_split_anywhere(split: int) -> None:
    text = "<think>a</think>bc"
    assert parse([text[:split], text[split:]]) == "M[<think>]R[a]M[</think>]A[bc]"


def test_what_is_known_of_the_upstream_decides_where_untagged_text_belongs() -> None:
    assert parse(["hello"], SEPARATED) == "A[hello]"
    assert parse(["a</think>b"], THINK_OPEN) == "R[a]M[</think>]A[b]"
    assert parse(["a</think>b"], THINK, resumed=True) == "R[a]M[</think>]A[b]"


def test_a_reasoning_field_makes_untagged_content_answer() -> None:
    parser = ReplyParser()
    pieces = parser.feed("thinking </think>", "answer")
    assert [(p.channel, p.field, p.text) for p in pieces] == [
        ("reasoning", "reasoning", "thinking </think>"),
        ("answer", "content", "answer"),
    ]
    assert parser.idle


def test_many_tags_in_one_delta_are_read_once() -> None:
    text = "<think>a</think>" * 200_000  # read anew for every tag it took a minute
    start = time.perf_counter()
    assert len(ReplyParser().feed("", text)) == 3 * 200_000
    assert time.perf_counter() - start < 5


PARTS = st.sampled_from(
    ["<think>", "</think>", "</THINK>", "<", "</", "think>", " ", "\n", "é", "a"]
)


@given(
    st.lists(PARTS, max_size=12).map("".join),
    st.lists(st.integers(1, 9), max_size=30),
    st.sampled_from(sorted(FORMATS)),
    st.booleans(),
)
def test_any_chunking_gives_the_same_pieces_without_loss(
    text: str, sizes: list[int], known: str, resumed: bool
) -> None:
    parts, at = [], 0
    for size in sizes:
        parts.append(text[at : at + size])
        at += size
    whole = parse([text], FORMATS[known], resumed=resumed)
    assert parse([*parts, text[at:]], FORMATS[known], resumed=resumed) == whole
    parser = ReplyParser(FORMATS[known], resumed=resumed)
    pieces = parser.feed("", text) + parser.close()
    assert "".join(piece.text for piece in pieces) == text
