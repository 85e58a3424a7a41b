"""A real vLLM on the CPU, started by deploy/vllm-cpu/serve.py, and the gateway in front of it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.background import serve
from gateway.settings import Settings
from monitors.events import Recorded

ROOT = Path(__file__).parents[2]
MODEL = "think-smol"
STARTS_WITHIN = 240.0

POLICY = """
name: markers
judges: {input: [rules], reasoning: [rules], answer: [rules]}
rules: [{name: teapot, literal: purple teapot, scenario: other}]
scenarios:
  default: {input: allow, reasoning: %s, answer: refuse}
"""


@contextmanager
def vllm(port: int, template: str, parser: str, model: str = "text") -> Iterator[str]:
    """A vLLM server of the text model or the vision-language one; yields its root URL."""
    script = ROOT / "deploy" / "vllm-cpu" / "serve.py"
    options = ["--port", str(port), "--template", template, "--reasoning-parser", parser]
    options += ["--model", model]
    log = Path(ROOT / "vllm.log").open("ab")  # noqa: SIM115 - lives as long as the server
    server = subprocess.Popen([sys.executable, str(script), *options], stdout=log, stderr=log)
    root = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + STARTS_WITHIN
        while not _healthy(root):
            assert server.poll() is None, f"vLLM ended while starting, see {log.name}"
            assert time.monotonic() < deadline, f"vLLM did not start in time, see {log.name}"
            time.sleep(0.5)
        yield root
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(10)
        log.close()


def _healthy(root: str) -> bool:
    try:
        return httpx.get(f"{root}/health", timeout=2).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The usual set-up: the model writes <think> itself, the qwen3 parser separates."""
    with vllm(8131, "open", "qwen3") as root:
        yield root


class Gate:
    """A gateway in front of a vLLM, and what it decided."""

    def __init__(self, url: str, records: list[Recorded]) -> None:
        self.url = url
        self.records = records


Guarding = Callable[..., AbstractContextManager[Gate]]


@pytest.fixture
def guarding(tmp_path: Path) -> Guarding:
    """`with guarding(upstream_root, action) as gate`: a ready gateway with a rules policy."""

    @contextmanager
    def start(root: str, action: str = "correct", **settings: bool) -> Iterator[Gate]:
        policy = tmp_path / "policy.yaml"
        policy.write_text(POLICY % action)
        records: list[Recorded] = []
        app = create_app(
            Settings(
                upstream=f"{root}/v1",
                policy_file=policy,
                expose="detail",
                **settings,  # type: ignore[arg-type]
            ),
            lambda _, what: records.append(what),
        )
        with serve(app) as url:
            deadline = time.monotonic() + 60
            while httpx.get(f"{url}/readyz", timeout=10).status_code != httpx.codes.OK:
                assert time.monotonic() < deadline, "the gateway did not become ready"
                time.sleep(0.1)
            yield Gate(url, records)

    return start


def gauge(root: str, name: str) -> float:
    """The sum of one of vLLM's metrics."""
    lines = httpx.get(f"{root}/metrics", timeout=10).text.splitlines()
    values = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:{name}{{")]
    assert values, f"vLLM has no metric {name}"
    return sum(values)
