"""Policies change, and gateways stop, while replies are under way: seen over HTTP."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.access import key_hash
from monitors.judges.base import Passage, Verdict
from monitors.taxonomy import Stage
from monitors.trace import Trace
from tests.gateway.harness import (
    BREAD,
    CONSTANT,
    KETTLE,
    MODEL,
    REFUSAL,
    RULES,
    SLIDE,
    FakeJudge,
    Guarded,
    assert_error_body,
    assert_openai_error,
    guarded,
    nobody,
    wait_until,
)
from tests.gateway.scripted import (
    DONE,
    FINISH,
    ROLE,
    Scripted,
    Step,
    body,
    chunk,
    head,
    says,
    scripted,
    told,
)

OPEN = {
    **RULES,
    "name": "open",
    "rules": [{"name": "lantern", "literal": "copper lantern", "scenario": "weapons"}],
}
LONG = Trace(id="long", prompt="Think long.", reasoning="One more plain sentence. " * 400)


def write(file: Path, policy: Mapping[str, Any] | str) -> None:
    """As editors do: renamed into its place."""
    new = file.with_suffix(".new")
    new.write_text(policy if isinstance(policy, str) else json.dumps(policy), encoding="utf-8")
    new.replace(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    write(file, RULES)
    return file


def ready(root: str) -> dict[str, Any]:
    body: dict[str, Any] = httpx.get(f"{root}/readyz").json()
    return body


def asking(go_on: threading.Event) -> list[Step]:
    """A reply that says a sentence, then waits, then names what the policies disagree on."""
    rest = chunk(content=" Then, a crimson kettle! And a copper lantern. ")
    return [head(), ROLE, chunk(content="What a lovely day it is today. And"), go_on, rest, FINISH]


def check_change(gate: Guarded, upstream: Scripted, change: Any) -> None:
    """A running stream keeps its policy, a new one has the new."""
    go_on = threading.Event()
    upstream.answer(lambda _: [*asking(go_on), DONE])
    with gate.open(BREAD.prompt) as old:
        lines = old.iter_lines()
        first = next(line for line in lines if "lovely" in line)
        assert "kettle" not in first
        change()
        wait_until(lambda: ready(gate.root)["policy"].startswith("open@"), "no reload", 20)
        go_on.set()
        rest = "".join(lines)
    assert old.headers["x-guard-policy"].startswith("test@")
    assert REFUSAL in rest
    assert "kettle" not in rest
    new = gate.stream(BREAD.prompt)
    assert new.headers["x-guard-policy"].startswith("open@")
    assert "kettle" in new.text("content")
    assert "lantern" not in new.text("content")
    assert (new.finish_reason, new.guard["action"]) == ("content_filter", "refuse")


def test_a_changed_file_rules_new_streams_and_no_running_one(file: Path) -> None:
    with scripted() as upstream, guarded(file, upstream=upstream.root) as gate:
        assert ready(gate.root)["policy_error"] is None
        check_change(gate, upstream, lambda: write(file, OPEN))


def test_a_bad_file_keeps_the_old_policy_and_readyz_says_so(file: Path) -> None:
    with scripted() as upstream, guarded(file, upstream=upstream.root) as gate:
        upstream.answer(lambda _: told(*says("First, mix.")))
        before = ready(gate.root)["policy"]
        write(file, "name: x\nmode: enforced\nscenarios: {}\n")
        wait_until(lambda: ready(gate.root)["policy_error"] is not None, "not noticed", 20)
        assert "policy.yaml:2: mode" in ready(gate.root)["policy_error"]
        assert httpx.get(f"{gate.root}/readyz").status_code == 200
        reply = gate.stream(KETTLE.prompt)
        assert reply.guard["action"] == "refuse"
        assert reply.headers["x-guard-policy"] == ready(gate.root)["policy"] == before
        write(file, OPEN)
        wait_until(lambda: ready(gate.root)["policy_error"] is None, "not noticed", 20)
        assert ready(gate.root)["policy"].startswith("open@")


def test_why_a_policy_is_not_in_force_is_for_those_with_a_key(file: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(f"ann {key_hash('mg-' + 'a' * 43)}\n")
    settings = {"keys_file": keys}
    with scripted() as upstream, guarded(file, upstream=upstream.root, settings=settings) as gate:
        assert ready(gate.root) == {"ready": True}
        write(file, "nonsense")
        headers = {"Authorization": "Bearer mg-" + "a" * 43}

        def error() -> Any:
            return httpx.get(f"{gate.root}/readyz", headers=headers).json()["policy_error"]

        wait_until(lambda: error() is not None, "not noticed", 20)
        assert ready(gate.root) == {"ready": True}


# --- the process ------------------------------------------------------------------------------


@dataclass
class Served:
    """A gateway in a process of its own."""

    process: subprocess.Popen[str]
    gate: Guarded


@contextmanager
def served(file: Path, upstream: str) -> Iterator[Served]:
    root = nobody()
    script = Path(sys.executable).with_name("mlrm-guard")
    command = [str(script), "serve", "--upstream", f"{upstream}/v1", "--policy", str(file)]
    command += ["--port", root.rpartition(":")[2], "--log-level", "error"]

    def up() -> bool:
        try:
            return httpx.get(f"{root}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    with subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            wait_until(up, "does not get ready", 40)
            yield Served(process, Guarded(root))
        finally:
            process.kill()


def test_sighup_reloads_and_sigterm_lets_a_live_stream_finish(file: Path) -> None:
    with scripted() as upstream, served(file, upstream.root) as one:

        def change() -> None:
            write(file, OPEN)
            one.process.send_signal(signal.SIGHUP)

        check_change(one.gate, upstream, change)

        go_on = threading.Event()
        upstream.answer(lambda _: [*asking(go_on)[:-2], chunk(content=" Enjoy it."), FINISH, DONE])
        with one.gate.open(BREAD.prompt) as reply:
            lines = reply.iter_lines()
            next(line for line in lines if "lovely" in line)
            one.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not accepts(one.gate.root), "goes on accepting", 20)
            go_on.set()
            rest = [line for line in lines if line]
        assert any("Enjoy it." in line for line in rest)
        assert rest[-1] == "data: [DONE]"
        assert one.process.wait(20) in (0, -signal.SIGTERM)


def accepts(root: str) -> bool:
    try:
        httpx.get(f"{root}/healthz", timeout=2)
    except httpx.TransportError:
        return False
    return True


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_that_outlives_the_grace_period_ends_with_an_error_event(n: int) -> None:
    lines: list[str] = []
    begun = threading.Event()

    def read() -> None:
        try:
            with gate.open(LONG.prompt, n=n) as reply:
                for line in reply.iter_lines():
                    lines.append(line)
                    if "plain" in line:
                        begun.set()
        except httpx.TransportError as error:
            lines.append(f"broken: {error}")
        finally:
            begun.set()

    thread = threading.Thread(target=read)
    with guarded(CONSTANT, [LONG], tokens_per_second=50) as gate:
        thread.start()
        assert begun.wait(10)
    thread.join(20)
    last = [line for line in lines if line][-1]
    assert last.startswith("data: {"), last
    message = assert_error_body(json.loads(last.removeprefix("data: ")))
    assert "shutting down" in message
    assert "data: [DONE]" not in lines


def test_a_reply_in_one_piece_that_outlives_the_grace_period_is_a_503() -> None:
    replies: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: replies.append(gate.post(LONG.prompt)))
    with guarded(CONSTANT, [LONG], tokens_per_second=50) as gate:
        thread.start()
        wait_until(lambda: bool(gate.asked), "not asked")
    thread.join(20)
    assert_openai_error(replies[0], 503, "overloaded")


# --- heartbeat --------------------------------------------------------------------------------


def held(go_on: threading.Event) -> FakeJudge:
    def verdict(passage: Passage) -> Verdict:
        if passage.stage is not Stage.INPUT:
            go_on.wait(10)
        return Verdict(float("purple teapot" in passage.text), "slow")

    return FakeJudge(verdict)


BEATS = {**RULES, "limits": {"heartbeat_after_seconds": 1.0, "keep_alive_seconds": 1.0}}


@pytest.mark.parametrize("trace", [BREAD, SLIDE])
def test_whitespace_keeps_a_held_reply_alive(trace: Trace) -> None:
    go_on = threading.Event()
    go_on.set()
    with guarded(BEATS, judge=held(go_on)) as gate:
        go_on.clear()
        with gate.open(trace.prompt, stream=False) as reply:
            assert reply.status_code == 200
            parts: list[bytes] = []
            for part in reply.iter_raw():
                parts.append(part)
                go_on.set()
        assert parts[0].strip() == b""
        whole = json.loads(b"".join(parts))
        assert whole["guard"]["action"] == ("allow" if trace is BREAD else "correct")
        assert reply.headers["content-type"] == "application/json"
        choice = gate.client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": trace.prompt}]
        ).choices[0]
        assert choice.message.content == whole["choices"][0]["message"]["content"]


def test_a_failure_behind_a_heartbeat_is_an_error_body() -> None:
    go_on = threading.Event()
    with scripted() as upstream, guarded(BEATS, upstream=upstream.root) as gate:
        said = chunk(content="What a lovely day it is today. And")
        upstream.answer(lambda _: [head(), ROLE, said, go_on, b"data: nonsense\n\n"])
        with gate.open(BREAD.prompt, stream=False) as reply:
            parts: list[bytes] = []
            for part in reply.iter_raw():
                parts.append(part)
                go_on.set()
        assert parts[0].strip() == b""
        assert reply.status_code == 200
        assert_error_body(json.loads(b"".join(parts)))


def test_no_heartbeat_hides_the_status_of_an_upstream_that_has_not_answered() -> None:
    slow = threading.Event()
    limits = {**BEATS["limits"], "upstream_idle_seconds": 2.0}
    policy = {**BEATS, "limits": limits}
    with scripted() as upstream, guarded(policy, upstream=upstream.root) as gate:
        upstream.answer(lambda _: [slow, body({})])
        assert_openai_error(gate.post(BREAD.prompt), 504, "upstream_unavailable")
