"""Split a reply into reasoning and answer, incrementally, without losing a character.

Theory. Text comes from two wire fields, `reasoning` and `content`. What stands in `reasoning` is
reasoning. What stands in `content` runs through a small state machine, because an upstream without
a reasoning parser leaves `<think>..</think>` inline, and one with a parser sometimes leaks tags:

    START     nothing but whitespace yet          -> INSIDE at `<think>`, else ANSWER or UNPARSED
    INSIDE    in a think block                    -> AFTER at `</think>`
    AFTER     behind a closer, whitespace only    -> INSIDE at `<think>`, else ANSWER
    ANSWER    the rest is answer
    UNPARSED  no opener, and no field told us     -> AFTER at `</think>`

UNPARSED is text of which we do not know whether it is thinking: nobody opened a block and nobody
separated it. It is never called answer; it is judged as strictly as an answer. Thinking that is not
closed stays reasoning. Only what the model generates counts: prompts are never scanned.

Tags match in any case. A tag split over deltas is held back until it is decided: at most 8
characters, and the whitespace before an opener.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum

OPENER, CLOSER = "<think>", "</think>"
_OPENER = re.compile(OPENER, re.IGNORECASE | re.ASCII)
_CLOSER = re.compile(CLOSER, re.IGNORECASE | re.ASCII)
_VISIBLE = re.compile(r"\S")
_MAX_INDENT = 256  # more whitespace than this before an opener, and it is none


class Channel(StrEnum):
    """What a piece of generated text is."""

    REASONING = "reasoning"
    ANSWER = "answer"
    UNPARSED = "unparsed"
    MARKUP = "markup"


class WireField(StrEnum):
    """The field of the delta in which a piece came, and leaves again."""

    REASONING = "reasoning"
    CONTENT = "content"


class Format(StrEnum):
    """What is known about an upstream's replies."""

    AUTO = "auto"
    """Nothing: see what comes."""
    SEPARATED = "separated"
    """A reasoning parser runs upstream: untagged `content` is answer."""
    THINK = "think"
    """Inline `<think>..</think>`."""
    THINK_OPEN = "think-open"
    """Inline, and the chat template already wrote the opener."""


@dataclass(slots=True)
class Piece:
    """A run of text of one channel and field; pieces in order are the generated text."""

    channel: Channel
    field: WireField
    text: str


class _State(Enum):
    START = 1
    INSIDE = 2
    AFTER = 3
    ANSWER = 4
    UNPARSED = 5


class ReplyParser:
    """Incremental parser of one upstream reply: `feed` deltas, get pieces; `close` gives the rest.

    `resumed`: the reply continues an open thought, so inline text starts inside the block.
    """

    __slots__ = ("_answer_state", "_at", "_held", "_state")

    def __init__(self, format: Format = Format.AUTO, *, resumed: bool = False) -> None:
        self._held = ""
        self._at = 0  # while scanning: up to here it is decided
        self._answer_state = _State.ANSWER if format is Format.SEPARATED else _State.UNPARSED
        inline = format in (Format.THINK, Format.THINK_OPEN)
        starts_inside = format is Format.THINK_OPEN or (resumed and inline)
        self._state = _State.INSIDE if starts_inside else _State.START

    @property
    def idle(self) -> bool:
        """Whether no text is held back."""
        return not self._held

    def feed(self, reasoning: str, content: str) -> list[Piece]:
        """Add one delta, whose reasoning precedes its content; return the decided pieces."""
        pieces: list[Piece] = []
        if reasoning:
            self._answer_state = _State.ANSWER  # somebody separates: untagged content is answer
            pieces.append(Piece(Channel.REASONING, WireField.REASONING, reasoning))
        if content:
            self._held += content
            self._scan(pieces, final=False)
        return pieces

    def close(self) -> list[Piece]:
        """End of the reply: whatever was held back is no tag."""
        pieces: list[Piece] = []
        self._scan(pieces, final=True)
        return pieces

    def _scan(self, pieces: list[Piece], *, final: bool) -> None:
        decided = True
        while decided and self._at < len(self._held):
            match self._state:
                case _State.ANSWER:
                    self._emit(pieces, Channel.ANSWER, len(self._held))
                case _State.START | _State.AFTER:
                    decided = self._look_for_opener(pieces, final=final)
                case _State.INSIDE | _State.UNPARSED:
                    decided = self._look_for_closer(pieces, final=final)
        self._held, self._at = self._held[self._at :], 0

    def _look_for_opener(self, pieces: list[Piece], *, final: bool) -> bool:
        visible = _VISIBLE.search(self._held, self._at)
        start = visible.start() if visible else len(self._held)
        if start - self._at <= _MAX_INDENT:
            if _OPENER.match(self._held, start):
                self._emit(pieces, Channel.MARKUP, start + len(OPENER))
                self._state = _State.INSIDE
                return True
            text = self._held[start : start + len(OPENER) + 1].lower()
            if not final and OPENER.startswith(text):
                return False  # whitespace, or the beginning of an opener: wait
        self._state = _State.ANSWER if self._state is _State.AFTER else self._answer_state
        return True

    def _look_for_closer(self, pieces: list[Piece], *, final: bool) -> bool:
        channel = Channel.REASONING if self._state is _State.INSIDE else Channel.UNPARSED
        if self._held.find("<", self._at) < 0:  # most deltas
            self._emit(pieces, channel, len(self._held))
            return False
        if match := _CLOSER.search(self._held, self._at):
            self._emit(pieces, channel, match.start())
            self._emit(pieces, Channel.MARKUP, match.end())
            self._state = _State.AFTER
            return True
        self._emit(pieces, channel, len(self._held) - (0 if final else _partial_closer(self._held)))
        return False

    def _emit(self, pieces: list[Piece], channel: Channel, end: int) -> None:
        """What lies before `end` is decided."""
        if end > self._at:
            pieces.append(Piece(channel, WireField.CONTENT, self._held[self._at : end]))
            self._at = end


def _partial_closer(text: str) -> int:
    """How many characters at the end of `text` may be the beginning of a closer."""
    at = text.rfind("<", max(0, len(text) - len(CLOSER) + 1))
    return len(text) - at if at >= 0 and CLOSER.startswith(text[at:].lower()) else 0
