"""An upstream that misbehaves as told: plain sockets, so that it can break any rule of HTTP."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gateway.simulate.deltas import TOKEN
from tests.gateway.harness import MODEL

Step = bytes | threading.Event
"""Bytes to send, or what to wait for before going on."""

_STANDSTILL = 20.0


def head(status: int = 200, kind: str = "text/event-stream", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {kind}", "Connection: close", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def body(payload: Any, status: int = 200) -> bytes:
    return head(status, "application/json") + json.dumps(payload).encode()


def event(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def chunk(finish: str | None = None, **delta: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


Delta = Mapping[str, Any]
ANOTHER = "gunmetal"
"""A token that was never drawn: it stands in `top_logprobs` alone."""


def thinks(text: str) -> list[Delta]:
    """Deltas of thinking, a token each."""
    return [{"reasoning": token} for token in TOKEN.findall(text)]


def says(text: str) -> list[Delta]:
    """Deltas of the answer, a token each."""
    return [{"content": token} for token in TOKEN.findall(text)]


def calls(*functions: tuple[str, str], size: int = 3, ids: str = "chatcmpl-tool-") -> list[Delta]:
    """Deltas of tool calls (name, arguments) as vLLM streams them: a name, then fragments."""
    deltas: list[Delta] = []
    for index, (name, arguments) in enumerate(functions):
        call_id = f"{ids}{index:016x}"
        first = {"id": call_id, "type": "function", "index": index, "function": {"name": name}}
        deltas.append({"content": None, "tool_calls": [first]})
        for at in range(0, len(arguments), size):
            more = {"index": index, "function": {"arguments": arguments[at : at + size]}}
            deltas.append({"content": None, "tool_calls": [more]})
    return deltas


def told(*deltas: Delta, finish: str = "stop", logprobs: bool = False, prompt: int = 7) -> Step:
    """A whole reply on vLLM's wire: one token in each delta, usage on every chunk."""
    rows = [head(), _told({"role": "assistant", "content": ""}, 0, 0, prompt)]
    thought = 0
    for count, delta in enumerate(deltas, start=1):
        thought += "reasoning" in delta
        token = delta.get("reasoning") or delta.get("content") or ""
        rows.append(_told(delta, count, thought, prompt, token=token if logprobs else None))
    rows.append(_told({}, len(deltas), thought, prompt, finish=finish))
    usage = _usage(len(deltas), thought, prompt)
    return b"".join([*rows, event({"choices": [], "usage": usage}), DONE])


def _usage(count: int, thought: int, prompt: int) -> dict[str, Any]:
    total = {"prompt_tokens": prompt, "total_tokens": prompt + count, "completion_tokens": count}
    return {**total, "completion_tokens_details": {"reasoning_tokens": thought}}


def _told(
    delta: Delta,
    count: int,
    thought: int,
    prompt: int,
    *,
    token: str | None = None,
    finish: str | None = None,
) -> bytes:
    choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    if token is not None:
        shown = {"token": token, "logprob": -0.25, "bytes": list(token.encode())}
        other = {"token": ANOTHER, "logprob": -1.5, "bytes": list(ANOTHER.encode())}
        choice["logprobs"] = {"content": [{**shown, "top_logprobs": [shown, other]}]}
    return event({"choices": [choice], "usage": _usage(count, thought, prompt)})


ROLE = chunk(role="assistant", content="")
FINISH = chunk(finish="stop")
DONE = b"data: [DONE]\n\n"


class Scripted:
    """Answers the probe as vLLM would, and every other chat request by the script."""

    def __init__(self, script: Callable[[], Iterable[Step]]) -> None:
        self.sent = 0
        self.probes = True
        """Whether the probe is answered."""
        self.requests: list[dict[str, Any]] = []
        """Bodies of the chat requests, the probe's left out."""
        self.asked = threading.Event()
        """A chat request came."""
        self.dropped = threading.Event()
        """The gateway closed a connection that the script was not done with."""
        self.headers = b""
        """Of the last request."""
        self._script = script
        self._reply: Callable[[dict[str, Any]], Step | Iterable[Step]] | None = None
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.root = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def play(self, *steps: Step) -> None:
        """Play this from now on."""
        self.asked.clear()
        self.dropped.clear()
        self._reply = None
        self._script = lambda: steps

    def answer(self, reply: Callable[[dict[str, Any]], Step | Iterable[Step]]) -> None:
        """Answer each request, from now on, by what it asks for."""
        self.play()
        self.requests.clear()
        self._reply = reply

    def stop(self) -> None:
        self._stopped.set()
        with socket.create_connection(self._listener.getsockname()):
            pass  # wakes the listener
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _listen(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._stopped.is_set():
                connection.close()
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(_STANDSTILL)
            try:
                path, request, self.headers = _read(connection)
                for step in self._steps(path, request):
                    if isinstance(step, bytes):
                        connection.sendall(step)
                        self.sent += len(step)
                    elif not self._wait(step, connection):
                        self.dropped.set()
                        return
            except OSError:
                self.dropped.set()

    def _wait(self, step: threading.Event, connection: socket.socket) -> bool:
        """Wait; false where the other side has closed meanwhile."""
        connection.settimeout(0.02)
        while not step.is_set() and not self._stopped.is_set():
            try:
                if not connection.recv(1):
                    return False
            except TimeoutError:
                continue
        connection.settimeout(_STANDSTILL)
        return True

    def _steps(self, path: str, request: dict[str, Any]) -> Iterable[Step]:
        if path == "/v1/models":
            return [body({"object": "list", "data": [{"id": MODEL}]})]
        if path == "/health":
            return [body({})]
        if request.get("return_prompt_text"):
            return _probed(request) if self.probes else [body({"error": "no"}, 500)]
        self.requests.append(request)
        self.asked.set()
        if self._reply is None:
            return self._script()
        steps = self._reply(request)
        return [steps] if isinstance(steps, bytes | threading.Event) else steps


def _probed(request: dict[str, Any]) -> list[Step]:
    last = request["messages"][-1]
    prompt = "<user><assistant>" + (last["content"] if last["role"] == "assistant" else "")
    first = {"delta": {"role": "assistant"}, "finish_reason": None}
    shown = event({"choices": [first], "prompt_text": prompt})
    return [head(), shown, chunk(reasoning="Paris, I think."), FINISH, DONE]


def _read(connection: socket.socket) -> tuple[str, dict[str, Any], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            raise OSError("no request")
        data += more
    header, _, rest = data.partition(b"\r\n\r\n")
    lines = header.decode().split("\r\n")
    sizes = [int(line[15:]) for line in lines if line.lower().startswith("content-length:")]
    while len(rest) < sum(sizes):
        rest += connection.recv(65536)
    return lines[0].split()[1], json.loads(rest) if rest else {}, header


@contextmanager
def scripted(
    *steps: Step, script: Callable[[], Iterable[Step]] | None = None
) -> Iterator[Scripted]:
    server = Scripted(script or (lambda: steps))
    try:
        yield server
    finally:
        server.stop()
