"""The clients under test: how each is run, and by what name it shows what the gateway says."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from tests.clients.driver import Action, Ask, Seen

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / "tests" / "clients" / "js" / "node_modules" / ".synced"
"""Written by `make test-clients` when all clients are there."""

_BIN = ROOT / ".venv-clients" / "bin"
_JS = "tests/clients/js"
_WITHIN = 40.0
ENVIRONMENT = {
    # The clients get no proxies, keys or base URLs of ours, and need no network but the loopback.
    "PATH": f"{_BIN}{os.pathsep}{os.defpath}",
    "PYTHONPATH": str(ROOT),
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
}


@dataclass(frozen=True, slots=True)
class Client:
    """A client, and what is its own in how it shows things. Pairs are (streamed, not streamed)."""

    command: tuple[str, ...]
    thinking: tuple[str, str] | None
    """Names under which the user finds the reasoning; None: nowhere."""
    guard: tuple[str | None, str | None]
    refusal: tuple[bool, bool]
    """Whether the refusal is also to be had by itself."""
    denied: str
    """What `refuse_as: error` raises."""
    unformed: str
    """What a refused structured output raises."""
    broken: str
    """What a failure in the middle of a stream raises."""
    filtered: str = "content_filter"
    shows_refusal: int = 1
    """How often the refusal stands in the text."""


_PYTHON = str(_BIN / "python")
_module = partial("tests.clients.drive_{}".format)
_OPENAI: dict[str, Any] = {
    "thinking": ("delta.reasoning", "message.reasoning"),
    "guard": ("chunk.guard", "completion.guard"),
    "refusal": (True, True),
    "denied": "BadRequestError",
    "unformed": "ContentFilterFinishReasonError",
    "broken": "APIError",
}
_LITELLM: dict[str, Any] = {
    "thinking": ("delta.reasoning_content", "message.reasoning_content"),
    "refusal": (True, True),
    "denied": "ContentPolicyViolationError",
    "unformed": "ValidationError",
    "broken": "MidStreamFallbackError",
}
CLIENTS = {
    "openai-python": Client((sys.executable, "-m", _module("openai")), **_OPENAI),
    "openai-python-2": Client((_PYTHON, "-m", _module("openai")), **_OPENAI),
    "openai-js": Client((str(_BIN / "node"), f"{_JS}/openai.mjs"), **_OPENAI),
    "langchain": Client(
        (_PYTHON, "-m", _module("langchain")),
        thinking=None,
        guard=(None, None),
        refusal=(False, True),
        denied="OpenAIInvalidRequestError",
        unformed="ContentFilterFinishReasonError",
        broken="APIError",
    ),
    "litellm-openai": Client(
        (_PYTHON, "-m", _module("litellm"), "openai"),
        guard=("chunk.guard", "response.guard"),
        **_LITELLM,
    ),
    "litellm-vllm": Client(
        (_PYTHON, "-m", _module("litellm"), "hosted_vllm"),
        guard=(None, "response.guard"),
        **_LITELLM,
    ),
    "ai-sdk": Client(
        (str(_BIN / "node"), f"{_JS}/ai.mjs"),
        thinking=("reasoning part", "reasoning part"),
        guard=("raw part", "response.body.guard"),
        refusal=(False, False),
        denied="APICallError",
        unformed="NoObjectGeneratedError",
        broken="StreamProviderError",
        filtered="content-filter",
        shows_refusal=2,
    ),
}


class Running:
    """A client's process, started when it is asked, and anew after one that did not answer."""

    def __init__(self, client: Client, log: IO[bytes]) -> None:
        self._client, self._log = client, log
        self._process: subprocess.Popen[bytes] | None = None
        self._name = ""

    @property
    def name(self) -> str:
        """With its version."""
        if not self._name:
            self._start()
        return self._name

    def ask(self, url: str, action: Action, prompt: str, *, stream: bool) -> Seen:
        """Have it do something; returns what its user saw."""
        process = self._process or self._start()
        return Seen(**self._exchange(process, asdict(Ask(url, action, prompt, stream))))

    def stop(self) -> None:
        """End the process, and what it started."""
        if self._process is not None:
            with self._process as process, suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            self._client.command,
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # PyPI's node is a child of its Python wrapper
        )
        self._name = str(self._exchange(self._process)["client"])
        return self._process

    def _exchange(
        self, process: subprocess.Popen[bytes], ask: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        assert process.stdin and process.stdout
        if ask is not None:
            process.stdin.write(json.dumps(ask).encode() + b"\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], _WITHIN)
        line = process.stdout.readline() if ready else b""
        if not line:
            self.stop()  # a late answer would be taken for the next
            self._log.seek(0)
            raise AssertionError(f"no answer: {self._log.read().decode(errors='replace')[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def running(client: Client) -> Iterator[Running]:
    """Run a client's driver."""
    with TemporaryFile() as log:
        driver = Running(client, log)
        try:
            yield driver
        finally:
            driver.stop()
