"""A guard model's server over real HTTP: each request is answered by a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class GuardServer:
    """What was asked, and how it is answered."""

    answer: Callable[[dict[str, Any]], Answer]
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


def reply(data: object, status: int = 200, **headers: str) -> Answer:
    """A JSON answer."""
    return status, headers, json.dumps(data).encode()


def chat(text: str | None, finish: str = "stop", **choice: Any) -> Answer:
    """A chat completion that says this."""
    message = {"role": "assistant", "content": text}
    return reply({"choices": [{"index": 0, "message": message, "finish_reason": finish, **choice}]})


def scored(text: str, *top: tuple[str, float]) -> Answer:
    """A chat completion in one token, with its log-probabilities."""
    alternatives = [{"token": token, "logprob": logprob} for token, logprob in top]
    row = {"token": text, "logprob": 0.0, "top_logprobs": alternatives}
    return chat(text, logprobs={"content": [row]})


@contextmanager
def guard_server(answer: Callable[[dict[str, Any]], Answer] | Answer) -> Iterator[GuardServer]:
    """A server at `url`, which ends in /v1."""
    given = answer
    seen = GuardServer(given if callable(given) else lambda _: given)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.asked.append(json.loads(body))
            seen.paths.append(self.path)
            seen.headers.append({k.lower(): v for k, v in self.headers.items()})
            status, headers, content = seen.answer(seen.asked[-1])
            with suppress(OSError):  # who asked has left
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            if headers.get("content-length") is not None:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    seen.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield seen
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
