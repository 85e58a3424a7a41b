"""An ASGI app served over real HTTP from a thread, for the demo and for tests."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from gateway.connection import server_config
from monitors.errors import GuardError

STARTS_WITHIN = 20.0
STOPS_WITHIN = 10.0


@contextmanager
def serve(app: ASGIApp, port: int = 0) -> Iterator[str]:
    """Serve `app` on 127.0.0.1 (port 0: a free one); yields the base URL, without a slash.

    Raises GuardError when it does not start or stop in time, OSError when the port is taken.
    """
    with socket.create_server(("127.0.0.1", port)) as listener:
        server = uvicorn.Server(server_config(app, grace=1))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            _wait_until_started(server, thread)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(STOPS_WITHIN)
    if thread.is_alive():
        raise GuardError("the server did not stop")


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while not server.started:
        if not thread.is_alive():
            raise GuardError("the server ended while starting: see the log")
        if time.monotonic() > deadline:
            raise GuardError("the server did not start in time")
        time.sleep(0.005)
