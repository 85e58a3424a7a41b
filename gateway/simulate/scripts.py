"""What the model would write: the trace, or behind a safety thought its safe continuation.

What a resumed thought goes on with is derived from its text, so that the server keeps no state: the
stretches that come from the trace are found again, and what stands behind the last of them is a
safety thought.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from gateway.simulate.requests import Chat
from gateway.simulate.template import CLOSER, OPENER, message_text
from monitors.trace import Trace

Channel = Literal["reasoning", "content", "tag"]

_SAFE_THOUGHT = (
    "I should look at what this could do to other people. "
    "Helping with it could hurt someone, so I will not go on with it. "
    "I will say so briefly and offer something safe instead."
)
_SAFE_ANSWER = "I can't help with that. I am glad to help with a safe alternative."


class _Script(NamedTuple):
    """One way a generation can go: thought, then answer."""

    thought: str
    answer: str


class Part(NamedTuple):
    """Text of one channel: a segment of the script, or a token."""

    channel: Channel
    text: str


def _recorded(trace: Trace) -> _Script:
    return _Script(trace.reasoning or "", trace.answer or "")


def _corrected(trace: Trace) -> _Script:
    if trace.safe_continuation is None:
        return _Script(_SAFE_THOUGHT, _SAFE_ANSWER)
    thought, _, answer = trace.safe_continuation.partition(CLOSER)
    return _Script(thought.strip(), answer.strip() or _SAFE_ANSWER)


_SENTENCE_END = re.compile(r"""[.!?…]["'’”)\]*_]*(?=\s|$)|[。！？।؟]|[^\n](?=\n)""")
_ANCHOR = 24
"""Characters by which a stretch of a script is found again behind a safety thought ..."""
_MIN_ANCHOR = 12
"""... and how few may be left of a script for that: fewer are found by accident."""


def _common(one: str, other: str) -> int:
    """Length of the longest common prefix."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


def _sentence_end(text: str, limit: int) -> int:
    """The last sentence end up to `limit`: a safety thought may begin like the text it replaces."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return max((end for end in ends if end <= limit), default=0)


class _Stand(NamedTuple):
    """Where a thought stands in the two scripts' thoughts, and whether a safety one came last."""

    recorded_at: int
    safe_at: int
    on_safe: bool
    thought_added: bool


def _stand(text: str, recorded: str, safe: str) -> _Stand:
    """Find the stretches of `text` that the model wrote, in order; the rest are safety thoughts."""
    scripts, at, on = (recorded, safe), [0, 0], 0
    begin, index, rest = 0, 0, text
    while True:
        same = _common(rest[index:], scripts[on][begin:])
        at[on], rest = begin + same, rest[index + same :]
        if not rest.strip():
            return _Stand(at[0], at[1], bool(on), thought_added=False)
        at[on] = max(begin, _sentence_end(scripts[on], at[on]))
        found = []
        for which, script in enumerate(scripts):
            left = script[at[which] :].lstrip()
            if len(left) >= _MIN_ANCHOR and (hit := rest.find(left[:_ANCHOR])) >= 0:
                found.append((hit, which, len(script) - len(left)))
        if not found:
            return _Stand(at[0], at[1], bool(on), thought_added=True)
        index, on, begin = min(found)


class Author:
    """Writes what the model says in reply to one request."""

    def __init__(self, trace: Trace, *, ignores: bool) -> None:
        self._scripts = (_recorded(trace), _corrected(trace))
        self._ignores = ignores  # this request's draw of `ignore_correction`

    def begin(self, *, corrected: bool, thinking: bool) -> list[Part]:
        """A new turn; `corrected` when a system message told the model to think again."""
        script = self._scripts[corrected and not self._ignores]
        if not thinking or not script.thought:
            return [Part("content", script.answer)]
        return [Part("tag", OPENER), *self._thinking(script.thought, script.answer)]

    def resume(self, prefix: str) -> list[Part]:
        """Go on from `prefix`: an open thought, or a closed one or none and some answer."""
        closed_at = prefix.rfind(CLOSER)
        if closed_at < 0 and OPENER not in prefix:
            return self._answer(prefix, on_safe=False)
        if closed_at > prefix.rfind(OPENER):
            stand = self._find(prefix[:closed_at])
            return self._answer(prefix[closed_at + len(CLOSER) :], on_safe=self._goes_safe(stand))
        stand = self._find(prefix)
        goes_safe = self._goes_safe(stand)
        script = self._scripts[goes_safe]
        lead = script.thought if goes_safe else script.thought.lstrip()
        rest = lead[stand.safe_at if goes_safe else stand.recorded_at :]
        return self._thinking(_joined(prefix, rest, new=stand.thought_added), script.answer)

    def _find(self, prefix: str) -> _Stand:
        thought = prefix.replace(OPENER, "").replace(CLOSER, "").lstrip()
        recorded, safe = self._scripts
        return _stand(thought, recorded.thought.lstrip(), safe.thought)

    def _goes_safe(self, stand: _Stand) -> bool:
        return not self._ignores if stand.thought_added else stand.on_safe

    def _answer(self, begun: str, *, on_safe: bool) -> list[Part]:
        """The rest of an answer that has begun, of the script that it fits best."""
        begun = begun.lstrip()
        likely = [self._scripts[on_safe].answer, self._scripts[not on_safe].answer]
        same, answer = max(((_common(begun, text), text) for text in likely), key=lambda it: it[0])
        added = bool(begun[same:].strip())
        if added and not self._ignores:
            same, answer = 0, self._scripts[True].answer
        return [Part("content", _joined(begun, answer[same:], new=added))]

    @staticmethod
    def _thinking(thought: str, answer: str) -> list[Part]:
        parts = [Part("reasoning", thought), Part("tag", CLOSER), Part("content", answer)]
        return [part for part in parts if part.text]


def _joined(before: str, text: str, *, new: bool) -> str:
    """`text` as it goes on from `before`: no second space, and one before a new sentence."""
    if not before or before[-1].isspace():
        return text.lstrip()
    return f" {text.lstrip()}" if new and text else text


_SAFETY_THOUGHT = re.compile(
    r"^\s*(?:Wait|Hold on|Moment|Un momento|Attends|等等)[.,:。，]"
    r"|\b(?:I|[Ll]et me)\b.*\b(?:safe|unsafe|safely|safety|harm\w*|dangerous|refuse)\b",
    re.DOTALL | re.MULTILINE,
)


def restarted(chat: Chat) -> bool:
    """Whether a system message carries a safety thought for the turn to come.

    It does behind the last user message, and right before it unless it opens the conversation:
    there it is the application's own, unless it interrupts itself or thinks of safety as "I".
    """
    last_user = chat.last_user
    for index, message in enumerate(chat.messages):
        if message.get("role") not in ("system", "developer"):
            continue
        if index > last_user or 0 < index == last_user - 1:
            return True
        if _SAFETY_THOUGHT.search(message_text(message)):
            return True
    return False
