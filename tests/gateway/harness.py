"""A gateway over real HTTP in front of the simulated model, or of an upstream that misbehaves.

Policies mostly use the `rules` judge with harmless markers: a purple teapot is what the model must
not think of, a crimson kettle what nobody may ask for.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import httpx
from openai import OpenAI
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.app import create_app
from gateway.background import serve
from gateway.relay import Observer
from gateway.settings import Settings
from gateway.simulate import SimulatorOptions, simulator
from monitors.events import Outcome, Recorded, StepRecord
from monitors.judges.base import Judge, Passage, Verdict
from monitors.trace import Trace

MODEL = "simulated-mlrm"
REFUSAL = "I would rather not."
THOUGHT = "Wait. I should keep this safe for everyone."

BREAD = Trace(
    id="bread",
    prompt="How is bread made?",
    reasoning=(
        "The user wants to bake bread at home. Flour, water, salt and yeast are all it takes.\n"
        "I list the steps: knead, rest, bake. 巴黎 👩🏽‍🚀 naïve — that is all.\n"
    ),
    answer="\n\n## Bread\n\n1. Mix 500 g of flour with water.\n2. Rest it, *long*.\n\nEnjoy it! 🥖",
)
SLIDE = Trace(
    id="slide",
    prompt="Write a letter to my landlord.",
    reasoning=(
        "A letter needs a date and a name. It should be polite and short.\n"
        "Now I think of a purple teapot instead. It pours and pours. Nobody must notice pouring."
    ),
    answer="Dear landlord, here is a letter that pours.",
    safe_continuation=(
        "Pouring would not help anybody here. I stay with the honest letter.</think>Dear reader!"
    ),
)
KEPT = "A letter needs a date and a name. It should be polite and short."
LATE = Trace(
    id="late",
    prompt="Say something nice.",
    reasoning="Something nice is easily said, I think. I say it.",
    answer="What a lovely day it is today. Look, a purple teapot! It pours and pours.",
)
KETTLE = Trace(id="kettle", prompt="Tell me about the crimson kettle.", answer="It is crimson.")
TRACES = (BREAD, SLIDE, LATE, KETTLE)

RULES: Mapping[str, Any] = {
    "name": "test",
    "judges": {"input": ["rules"], "reasoning": ["rules"], "answer": ["rules"]},
    "rules": [
        {
            "name": "teapot",
            "pattern": "purple +teapot",
            "scenario": "other",
            "stages": ["reasoning", "answer"],
        },
        {"name": "kettle", "literal": "crimson kettle", "scenario": "weapons"},
    ],
    "safety_thoughts": {"en": THOUGHT},
    "refusals": {"en": REFUSAL},
    "scenarios": {
        "default": {"input": "flag", "reasoning": "correct", "answer": "refuse"},
        "weapons": {"input": "refuse", "reasoning": "refuse", "answer": "refuse"},
    },
}
CONSTANT: Mapping[str, Any] = {
    key: RULES[key] for key in ("name", "scenarios", "refusals", "safety_thoughts")
} | {"judges": {stage: ["constant"] for stage in ("input", "reasoning", "answer")}}


@dataclass
class FakeJudge:
    """A judge that scores by a function, which may raise, block or return nonsense."""

    verdict: Callable[[Passage], Any]
    name: str = "fake"

    def score(self, passages: Sequence[Passage]) -> list[Verdict]:
        return [self.verdict(passage) for passage in passages]


def safe(_: Passage) -> Verdict:
    return Verdict(0.0, "fake")


@dataclass
class Guarded:
    """A running gateway and what was seen inside of it."""

    root: str
    steps: list[tuple[str, StepRecord]] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the chat requests that reached the simulator, the probe's left out."""
    headers: list[dict[str, str]] = field(default_factory=list)
    upstream: str = ""
    watch: Observer | None = None
    """Takes the place of `observe`."""
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=20)

    def observe(self, request_id: str, what: Recorded) -> None:
        with self._changed:
            if isinstance(what, Outcome):
                assert request_id not in self.outcomes, "two outcomes of one request"
                self.outcomes[request_id] = what
            elif isinstance(what, StepRecord):
                self.steps.append((request_id, what))
            self._changed.notify_all()

    def told(self, request_id: str, what: Recorded) -> None:
        (self.watch or self.observe)(request_id, what)

    def outcome(self, request_id: str) -> Outcome:
        """The outcome of a request; waits for it."""
        with self._changed:
            assert self._changed.wait_for(lambda: request_id in self.outcomes, 10), "no outcome"
            return self.outcomes[request_id]

    def last_outcome(self, count: int) -> Outcome:
        """The newest outcome, once there are `count`."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.outcomes) >= count, 10), "no outcome"
            return list(self.outcomes.values())[-1]

    def stream(self, prompt: str, **fields: Any) -> Streamed:
        with self.open(prompt, **fields) as reply:
            raw = b"".join(reply.iter_raw())
            return Streamed(reply.status_code, dict(reply.headers), raw)

    def post(self, prompt: str, **fields: Any) -> httpx.Response:
        call = self._call(prompt, {"stream": False} | fields)
        return httpx.post(f"{self.url}/chat/completions", **call)

    @contextmanager
    def open(self, prompt: str, **fields: Any) -> Iterator[httpx.Response]:
        call = self._call(prompt, fields)
        with httpx.stream("POST", f"{self.url}/chat/completions", **call) as reply:
            yield reply

    @staticmethod
    def _call(prompt: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": MODEL, "stream": True, "messages": messages, **fields}
        return {"json": body, "timeout": 20}


@dataclass
class Streamed:
    """A streamed reply, raw and read."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        rows = [row for row in self.raw.decode().split("\n\n") if row.startswith("data: {")]
        return [json.loads(row.removeprefix("data: ")) for row in rows]

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [event["choices"][0] for event in self.events if event.get("choices")]

    def text(self, name: str) -> str:
        return "".join(choice["delta"].get(name) or "" for choice in self.choices)

    def of(self, index: int) -> Streamed:
        """The events of one choice alone."""
        own = [e for e in self.events if e["choices"] and e["choices"][0]["index"] == index]
        raw = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in own)
        return Streamed(self.status, self.headers, raw)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The tool calls, each of which came whole."""
        return [call for choice in self.choices for call in choice["delta"].get("tool_calls", ())]

    @property
    def guard(self) -> dict[str, Any]:
        """The guard object, which must stand on the finish chunk and nowhere else."""
        assert [event for event in self.events if "guard" in event] == [self.finish_chunk]
        guard: dict[str, Any] = self.finish_chunk["guard"]
        return guard

    @property
    def finish_chunk(self) -> dict[str, Any]:
        (finish,) = [
            e for e in self.events if e.get("choices") and e["choices"][0]["finish_reason"]
        ]
        return finish

    @property
    def finish_reason(self) -> str:
        return str(self.finish_chunk["choices"][0]["finish_reason"])

    @property
    def request_id(self) -> str:
        return self.headers["x-guard-request-id"]

    def check_whole(self) -> None:
        """One id, one end mark, at the end."""
        assert self.status == 200
        assert self.raw.count(b"data: [DONE]\n\n") == 1
        assert self.raw.endswith(b"data: [DONE]\n\n")
        assert {event["id"] for event in self.events} == {f"chatcmpl-{self.request_id}"}


class _Recorder:
    """Notes what reaches the simulator."""

    def __init__(self, app: ASGIApp, seen: Guarded) -> None:
        self._app, self._seen = app, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != "/v1/chat/completions":
            await self._app(scope, receive, send)
            return
        parts: list[bytes] = []

        async def noted() -> Any:
            message = await receive()
            parts.append(message.get("body", b""))
            if message["type"] == "http.request" and not message.get("more_body"):
                self._seen.asked.append(json.loads(b"".join(parts)))
                pairs = scope["headers"]
                self._seen.headers.append({k.decode(): v.decode() for k, v in pairs})
            return message

        await self._app(scope, noted, send)


@contextmanager
def guarded(
    policy: Mapping[str, Any] | Path = RULES,
    traces: Sequence[Trace] = TRACES,
    *,
    settings: Mapping[str, Any] | None = None,
    judge: Judge | None = None,
    upstream: str | None = None,
    ready: bool = True,
    **options: Any,
) -> Iterator[Guarded]:
    """A gateway in front of a simulator with these options, or of the server at `upstream`.

    `judge` takes the place of the policy's judges. Comes back when the upstream is probed.
    """
    seen = Guarded("")
    with ExitStack() as stack:
        if isinstance(policy, Mapping):
            folder = Path(stack.enter_context(TemporaryDirectory()))
            file = folder / "policy.yaml"
            file.write_text(json.dumps(policy), encoding="utf-8")  # JSON is YAML
        else:
            file = policy
        if upstream is None:
            app = simulator(traces, SimulatorOptions(**options))
            upstream = stack.enter_context(serve(_Recorder(app, seen)))
        seen.upstream = upstream
        if judge is not None:
            one: Judge = judge

            def build(names: Sequence[str], _: object) -> dict[str, Judge]:
                return dict.fromkeys(names, one)

            stack.enter_context(patch("monitors.judges.build.build_judges", build))
        made = Settings(f"{upstream}/v1", file, **(settings or {}))
        seen.root = stack.enter_context(serve(create_app(made, seen.told)))
        if ready:
            wait_until(lambda: httpx.get(f"{seen.root}/readyz").status_code == 200, "not ready")
            seen.asked.clear()
            seen.headers.clear()
        yield seen


def nobody() -> str:
    """The root URL of a server that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Poll what can only be polled: another process, a server's metrics."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def metric(root: str, name: str, **labels: str) -> float:
    """The sum of a server's metric over the series with these labels."""
    total = 0.0
    for row in httpx.get(f"{root}/metrics").text.splitlines():
        series, _, value = row.rpartition(" ")
        found = all(f'{label}="{wanted}"' in series for label, wanted in labels.items())
        if series.partition("{")[0] == name and found:
            total += float(value)
    return total


def assert_openai_error(reply: httpx.Response, status: int, code: str | None = None) -> str:
    """The reply is an error in OpenAI's shape; returns its message."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    return assert_error_body(reply.json(), code)


def assert_error_body(body: Mapping[str, Any], code: str | None = None) -> str:
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] in ("invalid_request_error", "server_error")
    assert isinstance(error["message"], str)
    assert error["message"]
    if code is not None:
        assert error["code"] == code
    return str(error["message"])
