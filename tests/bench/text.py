"""What the bench's model says: harmless English, one word a token, half thought and half answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle, islice

_THOUGHT = """\
The user wants to know how rivers find their way to the sea and why they bend so much. Water takes
the lowest ground, so a small bend grows as the outer bank wears away. On flat land the stream is
slow, and it leaves its sand on the inner side of each curve. I can explain this with a picture of
a path in a garden after heavy rain. First I should say what slope does, then what the banks do.
Perhaps a short list of three points is easier to read than one long paragraph. Where the current
is fast it carries gravel, and where it rests it drops mud. That is the whole idea, so I keep it
plain and leave the formulas out.
"""
_ANSWER = """\
Rivers follow the slope of the land, and the slope is rarely the same on both sides. Where a bank
is soft, the water takes a little of it away with every flood. The curve becomes wider, the current
swings to the other side, and a second bend begins further down. In the mountains a valley holds
the stream in place, so it runs almost straight. On a plain nothing holds it, and over many years
it wanders like a ribbon. If two bends meet, the river cuts through, and a quiet lake stays behind.
You can watch the same thing in a garden after rain, with a tray of sand and a watering can.
"""


@dataclass(slots=True, frozen=True)
class Script:
    """A reply of `chunks` tokens."""

    reasoning: Sequence[str]
    content: Sequence[str]

    @property
    def ends(self) -> list[int]:
        """Characters of reasoning + content behind each token."""
        return list(accumulate(len(token) for token in [*self.reasoning, *self.content]))


def script(chunks: int) -> Script:
    """The reply of so many chunks."""
    half = chunks // 2
    return Script(_tokens(_THOUGHT, half), _tokens(_ANSWER, chunks - half))


def _tokens(text: str, count: int) -> list[str]:
    words = islice(cycle(text.split()), count)
    return [word if index == 0 else f" {word}" for index, word in enumerate(words)]
