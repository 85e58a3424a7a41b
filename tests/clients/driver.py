"""How the tests ask a client under test: one JSON line in, one JSON line out, in its own process.

A driver is the little program a user of that client would write, with the client's own defaults; it
reports what its user sees. Runs in the clients' environment: standard library only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

MODEL = "simulated-mlrm"
TOOL = "get_weather"
TOOL_RESULT = "21 degrees"

Action = Literal["chat", "form", "tool", "two"]
"""Plain chat; structured output (a `Recipe`); a tool call and its result; two choices."""


@dataclass(slots=True)
class Ask:
    """What the client is to do."""

    url: str
    action: Action
    prompt: str
    stream: bool


@dataclass(slots=True)
class Seen:
    """What the client showed its user; filled as it comes, so that an error keeps what was before.

    `*_at` says under which name the user finds it.
    """

    text: str = ""
    pieces: int = 0
    """Text deltas."""
    reasoning: str = ""
    reasoning_at: str = ""
    finish: str | None = None
    refusal: str | None = None
    guard: str | None = None
    guard_at: str = ""
    ids: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    """`{name, arguments}`, the arguments parsed."""
    form: dict[str, Any] | None = None
    texts: list[str] = field(default_factory=list)
    """Of each choice, where two were asked for."""
    error: dict[str, Any] | None = None
    """`{kind, kinds, code, status, message}` of what was raised; `kinds` with its base classes."""

    def piece(self, text: str | None) -> None:
        """Add a text delta."""
        if text:
            self.text += text
            self.pieces += 1

    def id(self, text: str | None) -> None:
        """Note a reply's id."""
        if text and text not in self.ids:
            self.ids.append(text)


def serve(client: str, act: Callable[[Ask, Seen], None]) -> None:
    """Say who we are, then answer every line until the input ends."""
    out, sys.stdout = sys.stdout, sys.stderr  # clients print, too

    def say(payload: dict[str, Any]) -> None:
        out.write(json.dumps(payload) + "\n")
        out.flush()

    say({"client": client})
    for line in sys.stdin:
        seen = Seen()
        try:
            act(Ask(**json.loads(line)), seen)
        except Exception as error:
            seen.error = failure(error)
        say(asdict(seen))


def failure(error: BaseException) -> dict[str, Any]:
    """What a user can tell of an exception."""
    return {
        "kind": type(error).__name__,
        "kinds": [kind.__name__ for kind in type(error).__mro__],
        "code": getattr(error, "code", None),
        "status": getattr(error, "status_code", None),
        "message": str(error)[:500],
    }
