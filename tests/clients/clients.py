"""The clients under test: how each is run, and by what name it shows what the gateway says."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from tests.clients.driver import Action, Ask, Seen

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / ".venv-clients" / ".synced"
"""Written by `make test-clients` when all clients are there."""

_BIN = ROOT / ".venv-clients" / "bin"
_JS = "tests/clients/js"
_WITHIN = 40.0
_ENVIRONMENT = {
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
    called: str = "tool_calls"
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
        called="tool-calls",
        shows_refusal=2,
    ),
}


class Running:
    """A client's process."""

    def __init__(self, client: Client, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self._process, self._log = process, log
        self.client = client
        self.name = str(self._answer()["client"])
        """With its version."""

    def ask(self, url: str, action: Action, prompt: str, *, stream: bool) -> Seen:
        """Have it do something; returns what its user saw."""
        assert self._process.stdin
        line = json.dumps(asdict(Ask(url, action, prompt, stream)))
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        return Seen(**self._answer())

    def _answer(self) -> dict[str, Any]:
        out = self._process.stdout
        assert out
        ready, _, _ = select.select([out], [], [], _WITHIN)
        if not ready:
            os.killpg(self._process.pid, signal.SIGKILL)  # its answer would be taken for the next
        line = out.readline()
        assert line, f"no answer: {self._complaint()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _complaint(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]


@contextmanager
def running(client: Client) -> Iterator[Running]:
    """Run a client's driver."""
    with TemporaryFile() as log:
        process = subprocess.Popen(
            client.command,
            cwd=ROOT,
            env=_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # PyPI's node is a child of its Python wrapper
        )
        with process:
            try:
                yield Running(client, process, log)
                assert process.stdin
                process.stdin.close()  # the driver ends with its input
                process.wait(10)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
