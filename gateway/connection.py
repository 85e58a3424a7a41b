"""A client's connection, as uvicorn serves it, and its end where the client reads no more.

What was written and not yet sent stays with uvicorn until the client takes it, also when the reply
was given up: one that neither reads nor leaves would keep its socket for ever. So the kernel is
asked to end such a connection (TCP_USER_TIMEOUT, RFC 5482, Linux).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

UNREAD_SECONDS = 60.0
"""How long bytes may wait for a client that takes none."""

_OPTION: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)


class Connection(HttpToolsProtocol):
    """For uvicorn's `http`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set the time-out, then go on as uvicorn does."""
        if _OPTION is not None:
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.IPPROTO_TCP, _OPTION, int(UNREAD_SECONDS * 1000))
        super().connection_made(transport)
