"""Reasoning and answer are told apart in every format, under any chunking, without loss."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors.errors import UserError
from monitors.formats import (
    AUTO,
    FAMILIES,
    FORMATS,
    MAX_INDENT,
    SEPARATED,
    THINK,
    THINK_OPEN,
    Channel,
    Format,
    Mark,
    Piece,
    ReplyParser,
    WireField,
    format_named,
)

NAMES = {"reasoning": "R", "answer": "A", "unparsed": "U", "markup": "M"}
KNOWN = sorted(FORMATS)
HEX = "6124c78e"
SAFETY = "**Safety Chain of Thought:**"

Delta = tuple[str, str]
"""Reasoning and content."""


def pieces_of(deltas: list[Delta], format: Format = AUTO, *, resumed: bool = False) -> list[Piece]:
    parser = ReplyParser(format, resumed=resumed)
    pieces = [piece for delta in deltas for piece in parser.feed(*delta)] + parser.close()
    assert parser.idle
    return pieces


def shown(pieces: list[Piece]) -> str:
    """Merged pieces, as `R[..]A[..]`; of the reasoning field in lower case."""
    text, last = "", ""
    for piece in pieces:
        name = NAMES[piece.channel]
        name = name if piece.field is WireField.CONTENT else name.lower()
        text = text[:-1] + piece.text + "]" if name == last else f"{text}{name}[{piece.text}]"
        last = name
    return text


def parse(parts: list[str], format: Format = AUTO, *, resumed: bool = False) -> str:
    return shown(pieces_of([("", part) for part in parts], format, resumed=resumed))


def parse_whole(text: str, format: Format = AUTO) -> str:
    """Checked to be the same character by character."""
    whole = parse([text], format)
    assert parse(list(text), format) == whole
    return whole


def channel(pieces: list[Piece], *channels: Channel) -> str:
    return "".join(piece.text for piece in pieces if piece.channel in channels)


# --- irregular replies ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("<think>a</think>b", "M[<think>]R[a]M[</think>]A[b]"),
        (" \n<think>\na\n</think>\n\nb", "M[ \n<think>]R[\na\n]M[</think>]A[\n\nb]"),
        ("<THINK>a</Think>b", "M[<THINK>]R[a]M[</Think>]A[b]"),
        ("<think>never closed", "M[<think>]R[never closed]"),
        ("<think>cut in the closer</thi", "M[<think>]R[cut in the closer</thi]"),
        ("opener missing</think>b", "U[opener missing]M[</think>]A[b]"),
        ("</think>b", "M[</think>]A[b]"),
        ("no tags at all", "U[no tags at all]"),
        ("<thi", "U[<thi]"),
        ("  \n", "U[  \n]"),
        ("<think>a</think>", "M[<think>]R[a]M[</think>]"),
        ("<think>a</think>\n\n", "M[<think>]R[a]M[</think>]A[\n\n]"),
        ("<think></think>", "M[<think></think>]"),
        (" " * MAX_INDENT + "<think>a", "M[" + " " * MAX_INDENT + "<think>]R[a]"),
        (" " * (MAX_INDENT + 1) + "<think>a", "U[" + " " * (MAX_INDENT + 1) + "<think>a]"),
    ],
)
def test_openers_and_closers_may_be_missing_spaced_or_in_another_case(
    text: str, pieces: str
) -> None:
    assert parse_whole(text) == pieces


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("<think>a<think>b</think>c", "M[<think>]R[a<think>b]M[</think>]A[c]"),
        ("<think>a<think>b</think>c</think>d", "M[<think>]R[a<think>b]M[</think>]A[c</think>d]"),
        (
            "<think>a</think>\n<think>b</think>c",
            "M[<think>]R[a]M[</think>\n<think>]R[b]M[</think>]A[c]",
        ),
        ("<think>a</think>b</think>c", "M[<think>]R[a]M[</think>]A[b</think>c]"),
        ("<think>a</think>b<think>c", "M[<think>]R[a]M[</think>]A[b<think>c]"),
        ("<think>[/THINK]</think>c", "M[<think>]R[[/THINK]]M[</think>]A[c]"),
    ],
)
def test_blocks_follow_each_other_but_do_not_nest_and_answers_do_not_end(
    text: str, pieces: str
) -> None:
    assert parse_whole(text) == pieces


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (
            "**<think>** a **</think>** b",
            "M[**<think>**]R[ a ]M[**</think>**]A[ b]",
        ),
        ("**<think>a</think>b", "M[**<think>]R[a]M[</think>]A[b]"),
        ("<think>**a**</think>**b**", "M[<think>]R[**a**]M[</think>]A[**b**]"),
        ("<think>a</think>**\nb", "M[<think>]R[a]M[</think>**\n]A[b]"),
        (f"{SAFETY}\n<think>a</think>b", f"M[{SAFETY}\n<think>]R[a]M[</think>]A[b]"),
        (f"{SAFETY}\n\n**<think>**a", f"M[{SAFETY}\n\n**<think>**]R[a]"),
        (f"{SAFETY} none", f"U[{SAFETY} none]"),
        ("* *\n<think>a</think>\n* *\nb", "M[* *\n<think>]R[a]M[</think>\n* *\n]A[b]"),
        ("* * *", "U[* * *]"),
        ("<think>a</think>\n\n---\n\nb", "M[<think>]R[a]M[</think>\n\n---\n\n]A[b]"),
        ("<think>a</think>\n---\ntitle: b", "M[<think>]R[a]M[</think>]A[\n---\ntitle: b]"),
        ("<think>a</think>---b", "M[<think>]R[a]M[</think>]A[---b]"),
        ("```\n<think>a</think>\nb\n```", "M[```\n<think>]R[a]M[</think>]A[\nb]M[\n```]"),
        ("```xml\n<think>a</think>b\n```\n ", "M[```xml\n<think>]R[a]M[</think>]A[b]M[\n```\n ]"),
        (
            "```\n<think>a</think>\n```py\nb\n```\nc\n```",
            "M[```\n<think>]R[a]M[</think>]A[\n```py\nb\n```\nc]M[\n```]",
        ),
        ("<think>a</think>\n```\nb\n```", "M[<think>]R[a]M[</think>]A[\n```\nb\n```]"),
        ("```python\nb\n```", "U[```python\nb\n```]"),
        (
            "<think>a</think><answer>b</answer>\n",
            "M[<think>]R[a]M[</think><answer>]A[b]M[</answer>]A[\n]",
        ),
        (
            "<think>I use <answer> tags</think> b</answer>",
            "M[<think>]R[I use <answer> tags]M[</think>]A[ b</answer>]",
        ),
        ("<answer>b</answer>", "M[<answer>]A[b]M[</answer>]"),
    ],
)
def test_ornaments_around_tags_are_markup_and_elsewhere_text(text: str, pieces: str) -> None:
    assert parse_whole(text) == pieces


@pytest.mark.parametrize("split", range(18))
def test_a_tag_may_be_split_anywhere(split: int) -> None:
    text = "<think>a</think>bc"
    assert parse([text[:split], text[split:]]) == "M[<think>]R[a]M[</think>]A[bc]"


def test_what_is_known_of_the_upstream_decides_where_untagged_text_belongs() -> None:
    assert parse(["hello"], SEPARATED) == "A[hello]"
    assert parse(["hello"], FORMATS["gemma4-separated"]) == "A[hello]"
    assert parse(["hello"], THINK) == "U[hello]"
    assert parse(["a</think>b"], THINK_OPEN) == "R[a]M[</think>]A[b]"
    assert parse(["a</think>b"], THINK, resumed=True) == "R[a]M[</think>]A[b]"
    assert parse(["a</think>b"], AUTO, resumed=True) == "U[a]M[</think>]A[b]"
    phrase = "Here is my thought process: a"
    assert parse([phrase], SEPARATED) == f"A[{phrase}]"
    assert parse(["<think>a</think>b"], SEPARATED) == "M[<think>]R[a]M[</think>]A[b]"


def test_a_prompt_that_closes_a_block_is_not_seen() -> None:
    # The parser is given generated text only; what is spoofed there was generated.
    assert parse(["</think>"], THINK_OPEN) == "M[</think>]"
    assert parse(["The user wrote <think>.</think>b"], THINK_OPEN) == (
        "R[The user wrote <think>.]M[</think>]A[b]"
    )


# --- both fields ------------------------------------------------------------------------------


def test_a_reasoning_field_makes_untagged_content_answer() -> None:
    pieces = pieces_of([("thinking </think>", "answer")])
    assert shown(pieces) == "r[thinking </think>]A[answer]"


@pytest.mark.parametrize(
    ("deltas", "pieces"),
    [
        ([("a", ""), ("", "<think>b</think>c")], "r[a]M[<think>]R[b]M[</think>]A[c]"),
        ([("", "<think>b"), ("c", "d</think>e")], "M[<think>]R[b]r[c]R[d]M[</think>]A[e]"),
        ([("", "\n"), ("a", ""), ("", "<think>b")], "A[\n]r[a]M[<think>]R[b]"),
        ([("", "<thi"), ("a", "nk>b")], "A[<thi]r[a]A[nk>b]"),
        ([("", "<think>b</th"), ("a", "ink>c")], "M[<think>]R[b</th]r[a]R[ink>c]"),
        ([("", "<think>b</think>\n"), ("a", "c")], "M[<think>]R[b]M[</think>]A[\n]r[a]A[c]"),
    ],
)
def test_tags_in_content_beside_a_reasoning_field_in_the_order_in_which_they_came(
    deltas: list[Delta], pieces: str
) -> None:
    assert shown(pieces_of(deltas)) == pieces


# --- formats ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "family", "pieces"),
    [
        ("[THINK]a[/THINK]b", "mistral", "M[[THINK]]R[a]M[[/THINK]]A[b]"),
        ("◁think▷a◁/think▷b", "kimi-vl", "M[◁think▷]R[a]M[◁/think▷]A[b]"),
        (
            "<SUMMARY>a</SUMMARY>\n\n<CAPTION>b</CAPTION>\n<REASONING>c</REASONING>\n"
            "<CONCLUSION>d</CONCLUSION>",
            "llava-cot",
            "M[<SUMMARY>]R[a]M[</SUMMARY>\n\n<CAPTION>]R[b]M[</CAPTION>\n<REASONING>]R[c]"
            "M[</REASONING>\n<CONCLUSION>]A[d]M[</CONCLUSION>]",
        ),
        (
            "<SUMMARY>a <CONCLUSION>d",
            "llava-cot",
            "M[<SUMMARY>]R[a ]M[<CONCLUSION>]A[d]",
        ),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant"
            "<|channel|>final<|message|>b<|return|>",
            "harmony",
            "M[<|channel|>analysis<|message|>]R[a]M[<|end|><|start|>assistant"
            "<|channel|>final<|message|>]A[b]M[<|return|>]",
        ),
        (
            "<|channel|>analysis<|message|>a<|channel|>final<|message|>b<|end|>",
            "harmony",
            "M[<|channel|>analysis<|message|>]R[a]M[<|channel|>final<|message|>]A[b<|end|>]",
        ),
        (
            "Here's my thought process: a Here is my response: b",
            "granite",
            "M[Here's my thought process:]R[ a ]M[Here is my response:]A[ b]",
        ),
        ("Here is b.", "think", "U[Here is b.]"),
        (
            "<|channel>thought\na<channel|>b",
            "gemma4",
            "M[<|channel>thought\n]R[a]M[<channel|>]A[b]",
        ),
        ("<|channel>a<channel|>b", "gemma4", "M[<|channel>]R[a]M[<channel|>]A[b]"),
        (
            f"<think:{HEX}>a</think:{HEX}>b",
            "hy",
            f"M[<think:{HEX}>]R[a]M[</think:{HEX}>]A[b]",
        ),
        ("<think:words>a", "think", "U[<think:words>a]"),
        (
            "to=self<|message|>a<|eom|><|start|>assistant to=user<|message|>b<|eot|>",
            "muse-glimmer",
            "M[to=self<|message|>]R[a]M[<|eom|><|start|>assistant to=user<|message|>]A[b]"
            "M[<|eot|>]",
        ),
        (
            "<|message_model|><|content_thinking|>a<|end_message|>"
            "<|message_model|><|content_text|>b<|end_message|>",
            "inkling",
            "M[<|message_model|><|content_thinking|>]R[a]M[<|end_message|><|message_model|>"
            "<|content_text|>]A[b]M[<|end_message|>]",
        ),
        ("### Rationales:\na\n### The final answer is: b", "think", None),
        ("a[/THINK]b", "mistral", "U[a]M[[/THINK]]A[b]"),
        ("a<|START_RESPONSE|>b", "cohere", "U[a]M[<|START_RESPONSE|>]A[b]"),
        ("a Here is my response: b", "think", "U[a Here is my response: b]"),
        ("a</SUMMARY>b", "think", "U[a</SUMMARY>b]"),
    ],
)
def test_auto_recognises_what_is_distinctive(text: str, family: str, pieces: str | None) -> None:
    assert parse_whole(text) == (f"U[{text}]" if pieces is None else pieces)
    parser = ReplyParser()
    assert parser.family is THINK
    parser.feed("", text)
    assert parser.family is FORMATS[family]


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        (
            "mulberry",
            "### Image Description:\na\n### Rationales:\nb\n### Step 1:\nc\n"
            "### The final answer is: d",
            "M[### Image Description:]R[\na\n### Rationales:\nb\n### Step 1:\nc\n]"
            "M[### The final answer is:]A[ d]",
        ),
        ("r1-vl", "### Rationales:\na</think>b", "M[### Rationales:]R[\na]M[</think>]A[b]"),
        (
            "glm",
            "<think>a</think><answer>b <|begin_of_box|>c<|end_of_box|></answer>",
            "M[<think>]R[a]M[</think><answer>]A[b ]M[<|begin_of_box|>]A[c]"
            "M[<|end_of_box|></answer>]",
        ),
        (
            "glm",
            "<think>a</think>b<|end_of_box|>c<|end_of_box|>",
            "M[<think>]R[a]M[</think>]A[b]M[<|end_of_box|>]A[c<|end_of_box|>]",
        ),
        (
            "ernie45-open",
            "a\n</think>\n\n<response>\nb\n</response>\n",
            "R[a\n]M[</think>\n\n<response>]A[\nb\n]M[</response>]A[\n]",
        ),
        ("hy-open", f"a</think:{HEX}>b", f"R[a]M[</think:{HEX}>]A[b]"),
        ("mistral", "<think>a</think>b", "U[<think>a</think>b]"),
        ("granite", "a Here's my response: b", "U[a ]M[Here's my response:]A[ b]"),
        ("gemma4-separated", "<|channel>a<channel|>b", "M[<|channel>]R[a]M[<channel|>]A[b]"),
    ],
)
def test_a_format_that_is_given_knows_its_own_tags_only(name: str, text: str, pieces: str) -> None:
    assert parse_whole(text, FORMATS[name]) == pieces


def test_every_tag_in_an_answer_is_markup_at_most_once() -> None:
    text = "<think></think><answer>" + "x<|begin_of_box|><|end_of_box|></answer>" * 50
    pieces = pieces_of([("", text)], FORMATS["glm"])
    answer = pieces[[piece.text for piece in pieces].index("<answer>") + 1 :]
    assert sum(piece.channel is Channel.MARKUP for piece in answer) == 3


def test_marks_say_what_a_piece_of_markup_does() -> None:
    text = "```\n**<think>**a**</think>** <answer>b</answer>\n```"
    pieces = pieces_of([("", text)])
    marks = [(piece.text, piece.mark) for piece in pieces if piece.channel is Channel.MARKUP]
    assert marks == [
        ("```\n**<think>", Mark.OPEN),
        ("**", Mark.OTHER),
        ("**</think>", Mark.CLOSE),
        ("**", Mark.OTHER),
        (" <answer>", Mark.OTHER),
        ("</answer>", Mark.OTHER),
        ("\n```", Mark.OTHER),
    ]
    assert all(piece.mark is None for piece in pieces if piece.channel is not Channel.MARKUP)


def test_a_format_says_whether_a_text_opens_thinking() -> None:
    gemma = FORMATS["gemma4"]
    assert gemma.opens("\n<|channel>thought\nHm.")
    assert THINK.opens(f"{SAFETY}\n**<THINK>**")
    assert not THINK.opens("<answer>")
    assert not THINK.opens("a <think>")
    assert THINK.opens_in("a <think>")
    assert gemma.is_open_after("<|turn>model\n<|channel>thought\n")
    assert not gemma.is_open_after("<|channel>thought\n<channel|>")
    assert gemma.is_empty_at_end("<|channel>thought\n<channel|>\n")
    assert not gemma.is_empty_at_end("<|channel>thought\na<channel|>")


def test_variants_are_found_by_name() -> None:
    assert FORMATS["think-open"] is THINK.opened is THINK_OPEN
    assert (THINK.parsed, AUTO.parsed, AUTO.opened) == (SEPARATED, SEPARATED, AUTO)
    assert FORMATS["glm"].parsed is format_named("glm-separated")
    with pytest.raises(UserError, match="unknown format 'thinking'"):
        format_named("thinking")


def literals(format: Format) -> set[str]:
    answers = {text for pair in format.answers for text in pair if text}
    texts = {*format.all_openers, *format.all_closers, *answers, *format.boxes, *format.leads}
    return {text.lower() for text in texts}


def test_no_tag_stands_within_another_of_those_that_are_looked_for_together() -> None:
    # Else what is found would depend on how much of it has come.
    together = {name: literals(FORMATS[name]) for name in KNOWN}
    together["auto"] = {
        text for family in FAMILIES if family.distinctive != "no" for text in literals(family)
    }
    for name, texts in together.items():
        for text in texts:
            assert not [other for other in texts if other != text and text in other], (name, text)


# --- properties -------------------------------------------------------------------------------

PROSE = st.text(alphabet="abc .,\n ßé漢", min_size=1, max_size=30).filter(
    lambda text: not text.isspace()
)


def family_by(opener: str) -> Format:
    """Whose AUTO takes it for."""
    distinctive = (family for family in FAMILIES if family.distinctive != "no")
    return next((family for family in distinctive if opener in family.all_openers), AUTO)


@given(st.data(), st.sampled_from(FAMILIES), PROSE, PROSE, st.booleans())
def test_a_well_formed_reply_is_read_exactly(
    data: st.DataObject, family: Format, thought: str, answer: str, wrapped: bool
) -> None:
    closers = (family.closer, *family.closers)
    pair = data.draw(st.integers(0, max(len(family.all_openers), len(closers)) - 1))
    opener = family.all_openers[pair % len(family.all_openers)]
    closer = closers[pair % len(closers)]
    before, after = "", ""
    if wrapped and family.answers:
        before, after = data.draw(st.sampled_from(family.answers))
    lead = data.draw(st.sampled_from(["", *family.leads]))
    opening, rest = lead + opener + family.label, thought + closer + before + answer + after
    replies = [(family, opening + rest), (family.parsed, opening + rest), (family.opened, rest)]
    if family_by(opener) is family:
        replies.append((AUTO, opening + rest))
        if family.distinctive != "phrases":
            replies.append((SEPARATED, opening + rest))
    for known, reply in replies:
        text = reply.replace("{hex}", HEX)
        for parts in ([text], list(text)):
            pieces = pieces_of([("", part) for part in parts], known)
            assert channel(pieces, Channel.REASONING) == thought
            assert channel(pieces, Channel.ANSWER) == answer
            assert channel(pieces, Channel.UNPARSED) == ""


TAGS = sorted({text.replace("{hex}", HEX) for name in KNOWN for text in literals(FORMATS[name])})
NOISE = st.sampled_from([" ", "\n", "**", "* *\n", "---\n\n", "```\n", "\n```", SAFETY, "é", "a"])


@st.composite
def replies(draw: st.DrawFn, format: Format) -> str:
    own = sorted(literals(format)) if format.known else TAGS
    tag = st.sampled_from(own).map(lambda text: text.replace("{hex}", HEX))
    broken = st.tuples(tag, st.integers(1, 30)).map(lambda cut: cut[0][: cut[1]])
    part = st.one_of(tag, tag.map(str.title), broken, NOISE, st.sampled_from(TAGS))
    return "".join(draw(st.lists(part, max_size=12)))


@given(st.data(), st.sampled_from(KNOWN), st.lists(st.integers(1, 9), max_size=30), st.booleans())
def test_any_chunking_gives_the_same_pieces_without_loss(
    data: st.DataObject, known: str, sizes: list[int], resumed: bool
) -> None:
    known_as = FORMATS[known]
    text = data.draw(replies(known_as))
    parts, at = [], 0
    for size in sizes:
        parts.append(text[at : at + size])
        at += size
    whole = pieces_of([("", text)], known_as, resumed=resumed)
    assert "".join(piece.text for piece in whole) == text
    assert all((piece.mark is not None) == (piece.channel is Channel.MARKUP) for piece in whole)
    assert parse([*parts, text[at:]], known_as, resumed=resumed) == shown(whole)
    assert parse(list(text), known_as, resumed=resumed) == shown(whole)


@given(
    st.data(),
    st.sampled_from(KNOWN),
    st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=12),
)
def test_two_fields_come_out_in_the_order_in_which_they_came(
    data: st.DataObject, known: str, cuts: list[tuple[bool, int]]
) -> None:
    text = data.draw(replies(FORMATS[known]))
    deltas: list[Delta] = []
    for reasoning, size in cuts:
        part, text = text[:size], text[size:]
        deltas.append((part, "") if reasoning else ("", part))
    pieces = pieces_of(deltas, FORMATS[known])
    came = [("rc"[bool(content)], char) for r, content in deltas for char in r + content]
    left = [
        ("r" if piece.field is WireField.REASONING else "c", char)
        for piece in pieces
        for char in piece.text
    ]
    assert left == came


@given(st.data(), st.sampled_from(KNOWN))
def test_markup_is_only_tags_ornaments_and_whitespace(data: st.DataObject, known: str) -> None:
    text = data.draw(replies(FORMATS[known]))
    allowed = [*TAGS, SAFETY.lower(), "```xml", "```", "* *", "**", "---", "thought\n"]
    for piece in pieces_of([("", text)], FORMATS[known]):
        if piece.channel is Channel.MARKUP:
            rest = piece.text.lower()
            for literal in sorted(allowed, key=len, reverse=True):
                rest = rest.replace(literal, " ")
            assert not rest.strip(), piece


@given(st.data(), st.sampled_from(KNOWN))
def test_little_is_held_back(data: st.DataObject, known: str) -> None:
    text = data.draw(replies(FORMATS[known]))
    parser = ReplyParser(FORMATS[known])
    left = 0
    for came, char in enumerate(text, start=1):
        left += sum(len(piece.text) for piece in parser.feed("", char))
        assert came - left <= MAX_INDENT + 4 * (len(SAFETY) + 64) + 40


# --- cost -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think>" * 100_000,  # read anew for every tag it took a minute
        "<think>" + "<" * 1_000_000,
        "<think>" + "</think" * 200_000,
        "<" * 1_000_000,
        " " * 1_000_000,
        "* *\n" * 250_000,
        "```\n<think></think>" + "\n```" * 250_000,
        "<think></think><answer>" + "</" * 500_000,
    ],
    ids=range(8),
)
def test_a_delta_of_a_megabyte_is_read_once(text: str) -> None:
    start = time.perf_counter()
    pieces = ReplyParser().feed("", text)
    assert time.perf_counter() - start < 10
    assert len(text) - sum(len(piece.text) for piece in pieces) < 1000


def test_a_reply_in_many_small_deltas_is_not_read_anew() -> None:
    rng = random.Random(7)
    text = "".join(rng.choice(["<", "</thin", "\n", "* *", "a "]) for _ in range(20_000))
    parser = ReplyParser(FORMATS["glm"])
    start = time.perf_counter()
    pieces = [piece for char in text for piece in parser.feed("", char)] + parser.close()
    assert time.perf_counter() - start < 10
    assert "".join(piece.text for piece in pieces) == text
