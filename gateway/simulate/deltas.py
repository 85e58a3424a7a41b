"""A generation as tokens, and the deltas that carry them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

from gateway.simulate.scripts import Part
from gateway.simulate.template import CLOSER, OPENER

TOKEN = re.compile(
    rf"{OPENER}|{CLOSER}| ?[\u3040-\u30ff\u4e00-\u9fff]| ?\w{{1,16}}| ?[^\w\s]|\s+?(?= ?\S)|\s+"
)


class Delta(NamedTuple):
    """What one chunk carries, and how many tokens the model has generated with it."""

    reasoning: str
    content: str
    tokens: int
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A planned reply; the end-of-turn token counts among `tokens`."""

    deltas: list[Delta]
    tokens: int
    reasoning_tokens: int
    finish_reason: Literal["stop", "length"]
    stop_reason: str | None
    prompt_text: str
    prompt_tokens: int


def inlined(segments: list[Part]) -> list[Part]:
    """The raw text, as a server without reasoning parser passes it on."""
    tags = {OPENER: f"{OPENER}\n", CLOSER: f"\n{CLOSER}\n\n"}
    return [Part("content", "".join(tags.get(part.text, part.text) for part in segments))]


def tokenized(segments: Iterable[Part]) -> list[Part]:
    """The tokens of the segments, in their channels."""
    return [
        Part(segment.channel, text) for segment in segments for text in TOKEN.findall(segment.text)
    ]


def stopped(
    tokens: list[Part], stops: list[str], *, include: bool
) -> tuple[list[Part], str | None]:
    """Cut at the first stop string, in any channel and across them; a cut tag is gone."""
    raw = "".join(token.text for token in tokens)
    hits = [(raw.find(stop), index) for index, stop in enumerate(stops) if stop in raw]
    if not hits:
        return tokens, None
    start, index = min(hits)
    end = start + (len(stops[index]) if include else 0)
    kept: list[Part] = []
    for token in tokens:
        if end <= 0:
            break
        if token.channel != "tag" or len(token.text) <= end:
            kept.append(Part(token.channel, token.text[:end]))
        end -= len(token.text)
    return kept, stops[index]


def token_deltas(tokens: list[Part]) -> list[Delta]:
    """One delta per token; tags are seen only in the counts."""
    deltas: list[Delta] = []
    thinking = 0
    for count, token in enumerate(tokens, start=1):
        thinking += token.channel == "reasoning"
        if token.channel == "reasoning":
            deltas.append(Delta(token.text, "", count, thinking))
        elif token.channel == "content":
            deltas.append(Delta("", token.text, count, thinking))
    return deltas


def _merged(deltas: Iterable[Delta]) -> Delta:
    parts = list(deltas)
    reasoning, content = ("".join(texts) for texts in list(zip(*parts, strict=True))[:2])
    return Delta(reasoning, content, parts[-1].tokens, parts[-1].reasoning_tokens)


def _characters(deltas: list[Delta]) -> list[Delta]:
    return [
        Delta(char if delta.reasoning else "", char if delta.content else "", *delta[2:])
        for delta in deltas
        for char in delta.reasoning or delta.content
    ]


def random_deltas(deltas: list[Delta], rng: random.Random) -> list[Delta]:
    """Pieces of 1 to 12 characters; one may hold both channels, as in vLLM."""
    characters = _characters(deltas)
    pieces, position = [], 0
    while position < len(characters):
        size = rng.randint(1, 12)
        pieces.append(_merged(characters[position : position + size]))
        position += size
    return pieces


def held_back(deltas: list[Delta], hold: int, total: int) -> list[Delta]:
    """vLLM keeps back what could begin a stop string; it comes with the last of `total` tokens."""
    characters = _characters(deltas)
    pieces, sent, seen = [], 0, 0
    for delta in deltas:
        seen += len(delta.reasoning or delta.content)
        if seen - hold > sent:
            piece = _merged(characters[sent : seen - hold])
            pieces.append(piece._replace(tokens=delta.tokens))
            sent = seen - hold
    if sent < seen:
        pieces.append(_merged(characters[sent:])._replace(tokens=total))
    return pieces


def by_channel(deltas: list[Delta]) -> list[Delta]:
    """One delta for the reasoning and one for the content."""
    return [_merged(run) for _, run in groupby(deltas, key=lambda delta: bool(delta.reasoning))]
