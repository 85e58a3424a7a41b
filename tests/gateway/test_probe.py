"""What the probe finds out about an upstream, and that corrections then go that way."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gateway.background import serve
from gateway.probe import ProbeReport, probe
from gateway.simulate import SimulatorOptions, simulator
from gateway.upstream import Upstream
from monitors.errors import GuardError
from monitors.formats import Format
from monitors.task import ResumeMethod
from tests.gateway.harness import (
    BREAD,
    KEPT,
    MODEL,
    SLIDE,
    THOUGHT,
    TRACES,
    guarded,
    nobody,
    wait_until,
)
from tests.gateway.scripted import Scripted, Step, chunk, event, head, scripted

WRAPS: dict[str, Any] = {"wrap_empty_think": True}
KWARG: dict[str, Any] = {"wrap_empty_think": True, "template_kwarg": "think_prefix"}


async def report_on(root: str, model: str = MODEL) -> ProbeReport:
    async with Upstream(f"{root}/v1") as upstream:
        return await probe(upstream, model)


@pytest.mark.parametrize(
    ("options", "method", "finding"),
    [
        ({}, ResumeMethod.CONTINUE, "ends with the prefix exactly"),
        (WRAPS, ResumeMethod.RESTART, "empty think block"),
        (KWARG, ResumeMethod.TEMPLATE_KWARG, "the template kwarg think_prefix"),
        ({"template_kwarg": "other"}, ResumeMethod.CONTINUE, "exactly"),
    ],
)
async def test_it_chooses_how_to_resume(
    options: dict[str, Any], method: ResumeMethod, finding: str
) -> None:
    with serve(simulator(TRACES, SimulatorOptions(**options))) as root:
        report = await report_on(root)
    assert report.method is method
    assert any(finding in found for found in report.findings)


@pytest.mark.parametrize(
    ("field", "format_"),
    [
        ("reasoning", Format.SEPARATED),
        ("reasoning_content", Format.SEPARATED),
        ("inline", Format.THINK),
    ],
)
async def test_it_finds_the_reasoning_format(field: Any, format_: Format) -> None:
    with serve(simulator(TRACES, SimulatorOptions(reasoning_field=field))) as root:
        assert (await report_on(root)).format is format_


@pytest.mark.parametrize(
    "options", [{}, WRAPS, KWARG, {**WRAPS, "reasoning_field": "inline"}], ids=str
)
def test_corrections_work_whichever_way_was_found(options: dict[str, Any]) -> None:
    with guarded(**options) as gate:
        reply = gate.stream(SLIDE.prompt)
        reply.check_whole()
        assert reply.guard["action"] == "correct"
        assert "teapot" not in reply.raw.decode()
        assert KEPT in reply.text("reasoning") + reply.text("content")
        assert reply.text("content").endswith("Dear reader!")
        resumed = gate.asked[-1]
        if options is KWARG:
            assert resumed["chat_template_kwargs"]["think_prefix"] == f"{KEPT}\n{THOUGHT}"
        elif options:
            assert resumed["messages"][0] == {"role": "system", "content": THOUGHT}


def test_a_restart_joins_the_system_message_that_there_is() -> None:
    with guarded(**WRAPS) as gate:
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": SLIDE.prompt},
        ]
        assert gate.post("", messages=messages).json()["guard"]["action"] == "correct"
        system = gate.asked[-1]["messages"][0]
        assert system == {"role": "system", "content": f"Be brief.\n\n{THOUGHT}"}


@pytest.mark.parametrize(
    "steps",
    [
        [head(500)],
        [head(), event({"error": {"message": "no", "code": 400}})],
        [head(), b"data: garbage\n\n"],
        [head(), chunk(content="cut")],
    ],
)
async def test_an_upstream_that_cannot_be_asked_raises(
    steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scripted, "_steps", lambda *_: steps)
    with scripted() as upstream:
        with pytest.raises(GuardError):
            await report_on(upstream.root)
    with pytest.raises(GuardError):
        await report_on(nobody())


def test_garbage_while_probing_leaves_the_gateway_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sane = Scripted._steps

    def steps(server: Scripted, path: str, request: dict[str, Any]) -> Any:
        if request.get("return_prompt_text"):
            return [head(), b"data: garbage\n\n"]
        return sane(server, path, request)

    monkeypatch.setattr(Scripted, "_steps", steps)
    with scripted(head(), chunk(content="Fine. ", finish="stop"), b"data: [DONE]\n\n") as upstream:
        with guarded(upstream=upstream.root, ready=False) as gate:
            for _ in range(2):
                reply = gate.stream(BREAD.prompt)
                assert reply.text("content") == "Fine. "
            assert httpx.get(f"{gate.root}/readyz").status_code == 503


def test_an_upstream_that_comes_back_is_probed_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.state.RETRY_SECONDS", 0.05)
    root = nobody()
    port = int(root.rpartition(":")[2])

    def status() -> int:
        return httpx.get(f"{gate.root}/readyz").status_code

    with guarded(upstream=root, ready=False) as gate:
        assert gate.post(SLIDE.prompt).status_code == 502
        for _ in range(2):
            with serve(simulator(TRACES), port):
                wait_until(lambda: status() == 200, "stays away")
                assert gate.post(SLIDE.prompt).json()["guard"]["action"] == "correct"
            wait_until(lambda: status() == 503, "stays ready")
