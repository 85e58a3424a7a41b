"""`mlrm-guard serve` in a process of its own, for what only a process can be told: signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil

from tests.faults.caller import PATIENCE, Caller
from tests.gateway.harness import RULES, metric, nobody, wait_until

SCRIPT = Path(sys.executable).with_name("mlrm-guard")

PRELUDE = ""
"""Python that the gateway's process runs before it starts: how a protection is switched off."""

GRACE = """
import gateway.connection
made = gateway.connection.server_config
gateway.connection.server_config = lambda app, host, port: made(app, host, port, grace=SECONDS)
"""


@dataclass
class Served:
    """A gateway's process, its policy file and what it wrote to stderr."""

    root: str
    process: subprocess.Popen[bytes]
    policy_file: Path
    log: Path

    def call(self, **fields: Any) -> Caller:
        return Caller(self.root, **fields)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def write_policy(self, policy: Mapping[str, Any] | str) -> None:
        """Put another policy in the place of the file, as an editor or a deployment does."""
        text = policy if isinstance(policy, str) else json.dumps(policy)
        new = self.policy_file.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(self.policy_file)

    @property
    def policy_label(self) -> str:
        try:
            return str(httpx.get(f"{self.root}/readyz").json()["policy"])
        except httpx.TransportError:
            raise AssertionError("the gateway is gone") from None

    @property
    def endings(self) -> list[str]:
        """How the generations ended, as its log says."""
        lines = [json.loads(line) for line in self._lines if line.startswith("{")]
        return [line["ended"] for line in lines if line["event"] == "generation"]

    @property
    def _lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()

    def assert_nothing_is_left(self) -> None:
        """It runs on, and holds no generation, passage or connection."""
        process = psutil.Process(self.process.pid)
        for name in ("mlrm_guard_live_generations", "mlrm_guard_judge_queue"):
            wait_until(lambda name=name: metric(self.root, name) == 0, name)  # type: ignore[misc]
        wait_until(lambda: not _connections(process), "sockets left")
        self.assert_no_bug()

    def assert_ended(self) -> None:
        """It ends by itself, as told, without a bug of its own on the way."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError("the process did not end") from None
        assert status in (0, -signal.SIGTERM), f"exit status {status}"
        self.assert_no_bug()

    def assert_no_bug(self) -> None:
        """Its log holds no traceback but uvicorn's, of a request that it ended at a shutdown."""
        text = self.log.read_text(encoding="utf-8")
        assert "internal error" not in text
        ended = text.count("asyncio.exceptions.CancelledError: Task cancelled")
        assert text.count("Traceback") == ended, text[text.index("Traceback") :]


def _connections(process: psutil.Process) -> list[Any]:
    return [row for row in process.net_connections("tcp") if row.raddr]


@contextmanager
def serving(
    upstream: str, policy: Mapping[str, Any] = RULES, prelude: str = ""
) -> Iterator[Served]:
    """The command as a person runs it; through Python where a prelude must come first."""
    prelude += PRELUDE
    start = "from gateway.cli import main\nmain()"
    command = [sys.executable, "-c", f"{prelude}\n{start}"] if prelude else [str(SCRIPT)]
    root = nobody()
    with TemporaryDirectory() as folder:
        file, log = Path(folder) / "policy.yaml", Path(folder) / "log"
        file.write_text(json.dumps(policy), encoding="utf-8")
        command += ["serve", "--upstream", f"{upstream}/v1", "--policy", str(file)]
        command += ["--port", root.rpartition(":")[2]]
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stderr=stderr)
        try:
            wait_until(lambda: _ready(root), "the gateway is not ready", 30)
            yield Served(root, process, file, log)
        finally:
            process.kill()
            process.wait(PATIENCE)


def _ready(root: str) -> bool:
    try:
        return httpx.get(f"{root}/readyz").status_code == 200
    except httpx.TransportError:
        return False
