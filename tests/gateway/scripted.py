"""An upstream that misbehaves as told: plain sockets, so that it can break any rule of HTTP."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

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


ROLE = chunk(role="assistant", content="")
FINISH = chunk(finish="stop")
DONE = b"data: [DONE]\n\n"


class Scripted:
    """Answers the probe as vLLM would, and every other chat request by the script."""

    def __init__(self, script: Callable[[], Iterable[Step]]) -> None:
        self.sent = 0
        self.asked = threading.Event()
        """A chat request came."""
        self.dropped = threading.Event()
        """The gateway closed a connection that the script was not done with."""
        self.headers = b""
        """Of the last request."""
        self._script = script
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.root = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def play(self, *steps: Step) -> None:
        """Play this from now on."""
        self.asked.clear()
        self.dropped.clear()
        self._script = lambda: steps

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
            return _probed(request)
        self.asked.set()
        return self._script()


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
