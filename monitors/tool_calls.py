"""Tool calls, gathered from the fragments in which an upstream streams them.

A call is released whole, so it becomes one passage: a name or an argument that is harmless in
halves is judged as what a client would run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from monitors.events import ToolCall
from monitors.wire import ToolDelta

# Ids that servers draw at random; a model that writes its own could speak through it.
_DRAWN = re.compile(r"(?:chatcmpl-tool-|call_|toolu_)?[0-9a-f-]{8,64}|[0-9A-Za-z]{9}")


@dataclass(slots=True)
class _Open:
    """A call whose arguments still come."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class ToolCalls:
    """The calls of one leg: `feed` fragments, get the calls that they complete.

    Servers stream calls one after the other, so a fragment of another call completes the last.
    """

    __slots__ = ("_count", "_index", "_open", "fed")

    def __init__(self) -> None:
        self._open: _Open | None = None
        self._index = -1  # the upstream's
        self._count = 0
        self.fed = 0
        """Characters of names and arguments so far."""

    @property
    def open(self) -> bool:
        """Whether a call is under way."""
        return self._open is not None

    def feed(self, fragments: Iterable[ToolDelta]) -> Iterator[ToolCall]:
        """Add fragments, in order."""
        for fragment in fragments:
            if fragment.index != self._index or self._open is None:
                yield from self.close()
                self._index, self._open = fragment.index, _Open()
            call = self._open
            call.id = call.id or fragment.id or ""
            if not call.name and (name := fragment.function.name):
                call.name = name
                self.fed += len(name)
            if arguments := fragment.function.arguments:
                call.arguments.append(arguments)
                self.fed += len(arguments)

    def close(self) -> Iterator[ToolCall]:
        """The leg, or the run of fragments, ended: what is open is complete."""
        call, self._open = self._open, None
        if call is None:
            return
        index, self._count = self._count, self._count + 1
        own = {f"functions.{call.name}:{self._index}", f"{call.name}:{self._index}"}
        known = _DRAWN.fullmatch(call.id) or call.id in own
        call_id = call.id if known else f"call_{index:08x}"
        yield ToolCall(index, call_id, call.name, "".join(call.arguments))


def readable(call: ToolCall) -> str:
    """The call as judges read it: name, arguments, and what stands behind escapes in them.

    The arguments as written come too: of two values under one key only the last is decoded.
    """
    parts = [call.name, call.arguments]
    if "\\" in call.arguments:
        parts += strings(call)
    return "\n".join(part for part in parts if part)


def strings(call: ToolCall, *, keys: bool = True) -> Iterator[str]:
    """Every string in the arguments, `keys` included; nothing where they are no JSON."""
    todo: list[object] = []
    # Where it is none, the raw text is all there is, for the client too.
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        todo.append(msgspec.json.decode(call.arguments))
    while todo:
        part = todo.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            todo += [*reversed(part.values()), *(part if keys else ())]
        elif isinstance(part, list):
            todo += reversed(part)
