"""A client's connection, as uvicorn serves it, and its end where the client reads no more.

What was written and not yet sent stays with uvicorn until the client takes it, also when the reply
was given up: one that neither reads nor leaves would keep its socket for ever. So the kernel is
asked to end such a connection (TCP_USER_TIMEOUT, RFC 5482, Linux).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

UNREAD_SECONDS = 60.0
"""How long bytes may wait for a client that takes none."""

_OPTION: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)


GRACE_SECONDS = 30
"""At shutdown, for live streams to finish."""


def server_config(
    app: ASGIApp, host: str = "127.0.0.1", port: int = 8000, *, grace: int = GRACE_SECONDS
) -> uvicorn.Config:
    """How the gateway is served, wherever it is."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        host=host,
        port=port,
        log_config=None,  # ours: `configure_logs`
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace,
    )


class Connection(HttpToolsProtocol):
    """For uvicorn's `http`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set the time-out, then go on as uvicorn does."""
        if _OPTION is not None:
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.IPPROTO_TCP, _OPTION, int(UNREAD_SECONDS * 1000))
        super().connection_made(transport)
