"""A client down to its bytes: one request over a socket of its own, and all that came back."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.gateway.harness import MODEL, Streamed, assert_error_body

PATIENCE = 8.0
"""Seconds for what should come at once; a fault must not make a client wait longer."""


@dataclass
class Reply(Streamed):
    """A reply to its last byte; `whole`: it ended as HTTP says, not by a lost connection."""

    whole: bool = False

    @property
    def json(self) -> dict[str, Any]:
        """The body of a reply in one piece."""
        body: dict[str, Any] = json.loads(self.raw)
        return body

    @property
    def comments(self) -> int:
        return self.raw.count(b": keep-alive\n\n")

    def assert_error(self, status: int, code: str | None = None, says: str = "") -> None:
        """An HTTP error in OpenAI's shape."""
        assert self.status == status, f"status {self.status}, not {status}: {self.raw[:200]!r}"
        assert self.headers["content-type"] == "application/json", self.headers["content-type"]
        _assert_says(self.json, code, says)

    def assert_broken_off(self, code: str | None = None, says: str = "") -> None:
        """A stream that ends with an error event, which clients raise, and without an end mark."""
        assert self.status == 200, f"status {self.status}"
        assert self.whole, "the connection was lost"
        assert b"[DONE]" not in self.raw, "an end mark behind half a reply"
        assert self.events, "nothing came"
        assert "error" in self.events[-1], f"no error event at the end: {self.events[-1]}"
        _assert_says(self.events[-1], code, says)

    def assert_complete(self, *, reasoning: str | None = None, content: str | None = None) -> None:
        """One id, one end mark, at the end; and this text."""
        assert self.whole, "the connection was lost"
        assert self.raw.endswith(b"data: [DONE]\n\n"), f"no end mark: {self.raw[-200:]!r}"
        self.check_whole()
        for name, wanted in (("reasoning", reasoning), ("content", content)):
            if wanted is not None:
                found = self.text(name)
                assert found == wanted, f"{name}: {_short(found)}, not {_short(wanted)}"


def _assert_says(body: dict[str, Any], code: str | None, says: str) -> None:
    message = assert_error_body(body)
    found = body["error"]["code"]
    assert code in (None, found), f"code {found}, not {code}: {message}"
    assert says in message, message


def _short(text: str) -> str:
    return repr(text) if len(text) < 90 else f"{text[:60]!r}.. ({len(text)} characters)"


class Caller:
    """Sends one chat request at once; then reads as it is told."""

    def __init__(
        self,
        root: str,
        *,
        stream: bool = True,
        receive_buffer: int = 0,
        withheld: int = 0,
        **fields: Any,
    ) -> None:
        """`receive_buffer` in bytes (0: the system's); `withheld`: bytes that are never sent."""
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.connect(("127.0.0.1", int(root.rpartition(":")[2])))
        self._raw = bytearray()
        self._ended = False
        messages = [{"role": "user", "content": "How is bread made?"}]
        body = {"model": MODEL, "stream": stream, "messages": messages, **fields}
        data = json.dumps(body).encode()
        self._socket.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: guard\r\nConnection: close\r\n"
            + b"Content-Type: application/json\r\n"
            + f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data[: len(data) - withheld]
        )

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def read_until(self, mark: str, seconds: float = PATIENCE, times: int = 1) -> None:
        """Read until these words have come."""
        wanted = mark.encode()
        self._read(lambda: self._raw.count(wanted) >= times, seconds, f"{mark!r} did not come")

    def read_some(self, size: int, seconds: float = PATIENCE) -> None:
        """Read so many bytes more."""
        wanted = len(self._raw) + size
        self._read(lambda: len(self._raw) >= wanted, seconds, f"{size} bytes more did not come")

    def reply(self, seconds: float = PATIENCE) -> Reply:
        """Read to the end."""
        self._read(lambda: False, seconds, "the reply did not end")
        return self.so_far

    @property
    def so_far(self) -> Reply:
        header, _, body = bytes(self._raw).partition(b"\r\n\r\n")
        assert header, "the connection was closed without a reply"
        first, *rest = header.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in rest)
        if headers.get("transfer-encoding") == "chunked":
            data, whole = _unchunked(body)
        else:
            data, whole = body, len(body) == int(headers.get("content-length", -1))
        return Reply(int(first.split()[1]), headers, data, whole)

    @property
    def nothing_came(self) -> bool:
        return not self._raw

    def leave(self) -> None:
        self._socket.close()

    def close_half(self) -> None:
        """Say that nothing more will be sent, and stay to read."""
        self._socket.shutdown(socket.SHUT_WR)

    def _read(self, enough: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not self._ended and not enough():
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._socket.recv(1 << 18)
            except TimeoutError:
                raise AssertionError(f"{what} within {seconds:g} s") from None
            except ConnectionResetError:
                data = b""
            self._raw += data
            self._ended = not data
        if what.startswith("the reply"):
            return
        assert enough(), f"{what} before the end: {bytes(self._raw[-200:])!r}"


def _unchunked(body: bytes) -> tuple[bytes, bool]:
    """The payload of a chunked body, and whether its last chunk came."""
    parts: list[bytes] = []
    at = 0
    while (line := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:line], 16)
        if size == 0:
            return b"".join(parts), body[line:] == b"\r\n\r\n"
        parts.append(body[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
    return b"".join(parts), False
