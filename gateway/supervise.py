"""vLLM as a child process with the gateway in front of it: they begin, serve and end together.

    start vLLM -> it answers /health -> serve -> told to stop, or vLLM ended -> drain -> end vLLM

The child has a session of its own, so that Ctrl-C at a terminal reaches the gateway alone and live
streams can finish before their upstream goes. It is asked to end by SIGTERM; what is left of its
process group after `STOPS_WITHIN` is killed, for an engine process keeps a GPU's memory.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import httpx
import structlog
import uvicorn

from monitors.errors import UserError

log = structlog.get_logger(__name__)

STOPS_WITHIN = 30.0
"""Seconds that vLLM has to end by itself."""

_POLL_SECONDS = 0.25


_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGHUP until the gateway serves and reloads on it: no closed terminal may leave vLLM behind."""


@dataclass(slots=True, frozen=True)
class Child:
    """How to start vLLM, and where it will answer."""

    command: Sequence[str]
    environment: Mapping[str, str]
    root: str
    """Its root URL."""
    starts_within: float
    """Seconds until it must answer /health; loading a model takes minutes, fetching it longer."""
    log: Path | None = None
    """Where its output goes; None: to our standard output."""


class Server(uvicorn.Server):
    """The gateway's server; signals are `supervise`'s."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals alone."""
        yield


async def supervise(child: Child, server: Server, listener: socket.socket) -> int:
    """Run both until told to stop or one of them ends; returns the exit status.

    0: ended by SIGTERM or SIGINT, 1: vLLM or the gateway ended by itself, or vLLM was not ready in
    time. A second signal ends live streams at once.
    """
    told = asyncio.Event()

    def stop() -> None:
        server.force_exit = told.is_set()
        told.set()

    loop = asyncio.get_running_loop()
    for number in _STOPS:
        loop.add_signal_handler(number, stop)
    try:
        async with _running(child) as process, asyncio.TaskGroup() as group:
            ended = group.create_task(process.wait())
            stopped = group.create_task(told.wait())
            ready = group.create_task(_wait_until_healthy(child))
            await _first(ended, stopped, ready)
            if ready.done() and ready.result() and not stopped.done() and not ended.done():
                serving = group.create_task(server.serve(sockets=[listener]))
                await _first(ended, stopped, serving)
                server.should_exit = True
                await serving
            elif ready.done() and not ready.result():
                log.error("vllm not ready in time", seconds=child.starts_within)
            for task in (ready, stopped, ended):
                task.cancel()
            if process.returncode is not None:
                log.error("vllm ended", status=process.returncode)
    finally:
        for number in _STOPS:
            loop.remove_signal_handler(number)
    return 0 if told.is_set() else 1


def find_vllm(program: str) -> Path:
    """The `vllm` executable, by name or path. Raises UserError."""
    found = shutil.which(program)
    if found is None:
        raise UserError(
            f"no {program!r} to run here: install vLLM (https://docs.vllm.ai), or pass --vllm PATH;"
            " `mlrm-guard profile MODEL` prints the command for another machine"
        )
    return Path(found)


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


async def _first(*tasks: asyncio.Task[object]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def _wait_until_healthy(child: Child) -> bool:
    start = monotonic()
    async with httpx.AsyncClient(trust_env=False, timeout=2.0) as client:
        while monotonic() - start < child.starts_within:
            with suppress(httpx.TransportError):
                reply = await client.get(f"{child.root}/health")
                if reply.status_code == httpx.codes.OK:
                    log.info("vllm ready", seconds=round(monotonic() - start, 1))
                    return True
            await asyncio.sleep(_POLL_SECONDS)
    return False


@asynccontextmanager
async def _running(child: Child) -> AsyncIterator[Process]:
    with _output(child.log) as output:
        process = await asyncio.create_subprocess_exec(
            *child.command,
            env=dict(child.environment),
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
            start_new_session=True,
        )
    log.info("vllm started", pid=process.pid, log=str(child.log) if child.log else "stdout")
    try:
        yield process
    finally:
        await _end(process)


@contextmanager
def _output(file: Path | None) -> Generator[int, None, None]:
    """The file descriptor for its output; the child keeps a copy of its own."""
    if file is None:
        yield sys.stdout.fileno()
        return
    try:
        stream = file.open("ab")
    except OSError as error:
        raise UserError(f"--vllm-log {file}: cannot be written: {error.strerror}") from error
    with stream:
        yield stream.fileno()


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    with suppress(TimeoutError):
        async with asyncio.timeout(STOPS_WITHIN):
            await process.wait()
    with suppress(ProcessLookupError):  # its engine may outlive it
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
