"""The processes under measurement: how each is started, what it costs, when it is ready."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
POLICY = ROOT / "deploy" / "policies" / "default.yaml"
PEERS = ROOT / ".venv-bench" / "bin"
MODEL = "bench"
_STARTS_WITHIN = 120.0


@dataclass(slots=True, frozen=True)
class Program:
    """A command that serves on {port} before {upstream}, and where it says that it is ready."""

    command: Sequence[str]
    ready: str = "/readyz"
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        return Path(self.command[0]).exists()


def gateway(*options: str, policy: Path = POLICY, streams: int = 256) -> Program:
    """Ours, as `mlrm-guard serve` runs it; tests.bench.instrumented adds what is said there."""
    command = [sys.executable, "-m", "tests.bench.instrumented", "serve", "--port", "{port}"]
    command += ["--upstream", "{upstream}/v1", "--policy", str(policy), "--log-level", "error"]
    return Program([*command, "--max-streams", str(streams), *options])


_UVICORN = ("--port", "{port}", "--log-level", "warning", "--no-access-log", "--factory")

BARE = Program(
    [sys.executable, "-m", "uvicorn", *_UVICORN, "tests.bench.bare:create_app"],
    env={"BENCH_UPSTREAM": "{upstream}/v1"},
)


def litellm(config: str) -> Program:
    """LiteLLM's proxy; its model list comes from its package, not from the network."""
    return Program(
        [
            *(str(PEERS / "litellm"), "--config", str(HERE / "peers" / config)),
            *("--host", "127.0.0.1", "--port", "{port}", "--telemetry", "False"),
        ],
        ready="/health/liveliness",
        env={
            "BENCH_UPSTREAM": "{upstream}/v1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            # As ours here: loopback, and no key to check.
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        },
    )


NEMO = Program(
    [str(PEERS / "python"), "-m", "uvicorn", *_UVICORN, "tests.bench.peers.nemo_app:create_app"],
    env={
        "BENCH_UPSTREAM": "{upstream}/v1",
        "OPENAI_API_KEY": "none",
        "NEMO_GUARDRAILS_NO_USAGE_STATS": "1",
    },
)


class Server:
    """One running program."""

    def __init__(self, program: Program, base: str, process: subprocess.Popen[bytes], log: Path):
        self.program, self.base, self.log = program, base, log
        self._popen = process
        self.process = psutil.Process(process.pid)

    def wait(self) -> None:
        """Until it is ready. Raises SystemExit with the end of its log when it never is."""
        deadline = time.monotonic() + _STARTS_WITHIN
        while not self._ready():
            if self._popen.poll() is not None or time.monotonic() > deadline:
                end = self.log.read_text(errors="replace")[-3000:]
                command = " ".join(self.program.command)
                raise SystemExit(f"did not start: {command}\n{end}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        with suppress(httpx.HTTPError):
            reply = httpx.get(self.base + self.program.ready, timeout=5, trust_env=False)
            return reply.status_code == httpx.codes.OK
        return False

    def cpu_seconds(self) -> float:
        """User and system time of the process and its children, all threads."""
        return sum(_cpu_seconds(process) for process in self._tree())

    def rss(self) -> int:
        """Resident bytes of the process and its children."""
        return sum(process.memory_info().rss for process in self._tree())

    def _tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def stop(self) -> None:
        """End it and what it started."""
        tree = self._tree() if self._popen.poll() is None else []
        self._popen.terminate()
        try:
            self._popen.wait(20)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        for process in tree[1:]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _cpu_seconds(process: psutil.Process) -> float:
    """By the scheduler's nanoseconds where the kernel shows them: clock ticks are 10 ms."""
    total = 0.0
    try:
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError):  # no such file on this kernel, or a thread that just ended
        times = process.cpu_times()
        total = times.user + times.system
    return total


@contextmanager
def serving(
    programs: Mapping[str, Program], upstream: str, settings: Path | None = None
) -> Iterator[dict[str, Server]]:
    """Start all of them side by side; yields them when all are ready, ends them behind.

    `settings` is where commands find {settings}.
    """
    servers: dict[str, Server] = {}
    with TemporaryDirectory(prefix="mlrm-guard-bench-") as name:
        try:
            for number, (title, program) in enumerate(programs.items()):
                log = Path(name) / f"{number}.log"
                servers[title] = _start(program, upstream, log, settings or Path(name))
            for server in servers.values():
                server.wait()
            yield servers
        finally:
            for server in servers.values():
                server.stop()


def _start(program: Program, upstream: str, log: Path, settings: Path) -> Server:
    port = free_port()
    values = {"port": str(port), "upstream": upstream, "settings": str(settings)}
    command = [part.format(**values) for part in program.command]
    env = {name: value.format(**values) for name, value in program.env.items()}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **env}, cwd=ROOT, stdout=output, stderr=output
        )
    return Server(program, f"http://127.0.0.1:{port}", process, log)


@contextmanager
def upstream_server() -> Iterator[Server]:
    """tests.bench.upstream."""
    program = Program([sys.executable, "-m", "tests.bench.upstream", "{port}"], ready="/health")
    with serving({"upstream": program}, "") as servers:
        yield servers["upstream"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def raise_file_limit() -> int:
    """Open files up to the hard limit, here and in what is started from here; the new limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
