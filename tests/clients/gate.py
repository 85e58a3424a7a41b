"""The gateway that the clients ask, in front of a simulated model that also calls a tool.

The simulator speaks vLLM's wire; a tool call, a pause and a failure are put before it here, in the
same shapes: the name of a call once, its arguments in fragments.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.app import create_app
from gateway.background import serve
from gateway.settings import Settings
from gateway.simulate import SimulatorOptions, simulator
from monitors.trace import Trace
from tests.gateway.harness import RULES, TRACES, wait_until
from tests.gateway.scripted import DONE, FINISH, ROLE, chunk, event

CHAT = "/v1/chat/completions"

RECIPE = Trace(
    id="recipe",
    prompt="Give me a recipe.",
    reasoning="Bread is easy.",
    answer='{"title": "Bread", "minutes": 90}',
)
BAD_RECIPE = Trace(
    id="bad-recipe",
    prompt="Give me another recipe.",
    reasoning="Tea is easy.",
    answer='{"title": "An evening with good bread. Then a purple teapot.", "minutes": 5}',
)
WEATHER = Trace(
    id="weather",
    prompt="What is the weather in Paris?",
    reasoning="The tool says it.",
    answer="It is mild in Paris.",
)
BAD_CALL = "What is the weather in the teapot?"
PAUSE = "Take your time."
PAUSED = ("This comes at once. ", "This comes late.")
BREAK = "Break off."
BROKEN = "This is the beginning."

CALLS = {WEATHER.prompt: '{"city": "Paris"}', BAD_CALL: '{"city": "a purple teapot"}'}
"""Arguments of the tool call that answers a prompt."""


@dataclass(slots=True)
class Heard:
    """What has passed between clients and gateway."""

    requests: int = 0
    """Chat requests so far."""
    sent: bytes = b""
    """To the client, of the newest of them."""


class Ear:
    """The gateway, overheard."""

    def __init__(self, app: ASGIApp, heard: Heard) -> None:
        self._app, self._heard = app, heard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != CHAT:
            await self._app(scope, receive, send)
            return

        async def overheard(message: Message) -> None:
            self._heard.sent += message.get("body", b"")
            await send(message)

        self._heard.requests += 1
        self._heard.sent = b""
        await self._app(scope, receive, overheard)


class Model:
    """The upstream: the simulator, and what it cannot do."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        traces = [*TRACES, RECIPE, BAD_RECIPE, WEATHER]
        self._simulator = simulator(traces, SimulatorOptions())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != CHAT:
            await self._simulator(scope, receive, send)
            return
        parts: list[Message] = []
        while not parts or parts[-1].get("more_body"):
            parts.append(await receive())
        script = self._script(json.loads(b"".join(part["body"] for part in parts)))
        if script is None:
            again = iter(parts)

            async def replayed() -> Message:
                return next(again, None) or await receive()

            await self._simulator(scope, replayed, send)
            return
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for data in script:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _script(self, body: Mapping[str, Any]) -> AsyncIterator[bytes] | None:
        last = body["messages"][-1]
        asked = last["content"] if last["role"] == "user" else ""
        if body.get("tools") and asked in CALLS:
            return _call(CALLS[asked])
        if asked == PAUSE:
            return self._pause()
        return self._break() if asked == BREAK else None

    async def _pause(self) -> AsyncIterator[bytes]:
        """Goes on once the gateway has sent a sign of life: a comment, or leading white space."""
        yield ROLE + chunk(content=PAUSED[0]) + chunk(content=PAUSED[1])
        await self._until(lambda sent: b"\n: " in sent or (sent and not sent.strip()))
        yield FINISH + DONE

    async def _break(self) -> AsyncIterator[bytes]:
        """Fails once the client has some text."""
        yield ROLE + chunk(content=BROKEN) + chunk(content=" And")
        await self._until(lambda sent: BROKEN.encode() in sent)
        yield event({"error": {"message": "gone", "type": "InternalServerError", "code": 500}})

    async def _until(self, condition: Callable[[bytes], object]) -> None:
        async with asyncio.timeout(20):
            while not condition(self._heard.sent):  # noqa: ASYNC110 - another thread's loop
                await asyncio.sleep(0.01)


async def _call(arguments: str) -> AsyncIterator[bytes]:
    yield ROLE + chunk(reasoning="I look it up.")
    first = {"id": "chatcmpl-tool-1", "type": "function", "function": {"name": "get_weather"}}
    yield _tool_delta(first)
    for start in range(0, len(arguments), 3):
        yield _tool_delta({"function": {"arguments": arguments[start : start + 3]}})
    yield chunk(finish="tool_calls") + DONE


def _tool_delta(call: Mapping[str, Any]) -> bytes:
    delta = {"content": None, "tool_calls": [{"index": 0, **call}]}
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


@contextmanager
def gate(**policy: Any) -> Iterator[tuple[str, Heard]]:
    """A gateway with the harness' policy and these of its parts; yields its base URL."""
    heard = Heard()
    with ExitStack() as stack:
        file = Path(stack.enter_context(TemporaryDirectory())) / "policy.yaml"
        limits = {"keep_alive_seconds": 1.0, "heartbeat_after_seconds": 1.0}
        file.write_text(json.dumps({**RULES, "limits": limits, **policy}), encoding="utf-8")
        upstream = stack.enter_context(serve(Model(heard)))
        app = create_app(Settings(f"{upstream}/v1", file))
        root = stack.enter_context(serve(Ear(app, heard)))
        wait_until(lambda: httpx.get(f"{root}/readyz").status_code == 200, "not ready")
        yield f"{root}/v1", heard
