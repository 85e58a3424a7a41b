"""What the probe finds out about an upstream, and that corrections then go that way."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.background import serve
from gateway.errors import UpstreamHTTPError
from gateway.probe import ProbeReport, probe
from gateway.simulate import SimulatorOptions, simulator
from gateway.state import Probes
from gateway.upstream import Upstream
from monitors.errors import GuardError
from monitors.formats import AUTO, FORMATS, SEPARATED, THINK, THINK_OPEN, Format
from monitors.task import ResumeMethod
from monitors.wire import Choice, Chunk, Delta
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
        ("reasoning", SEPARATED),
        ("reasoning_content", SEPARATED),
        ("inline", THINK),
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


@pytest.mark.parametrize(
    ("content", "format_"),
    [
        ("Paris, I think.</think>It is Paris.", THINK_OPEN),
        ("<think>Paris.</think>It is Paris.", THINK),
        ("I say <think> and </think> now.", AUTO),
    ],
)
async def test_a_block_that_the_template_opened_shows_at_its_end(
    content: str, format_: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [head(), chunk(content=content, finish="stop"), b"data: [DONE]\n\n"]
    monkeypatch.setattr(Scripted, "_steps", lambda *_: said)
    with scripted() as upstream:
        assert (await report_on(upstream.root)).format is format_


class FakeModel:
    """Renders a prompt as a chat template does, goes on from a prefix, and always says the same."""

    def __init__(self, reply: str = "", *, reasoning: str = "", opens: str = "") -> None:
        self.reply, self.reasoning, self.opens = reply, reasoning, opens
        self.prefixes: list[str] = []

    async def complete(self, body: dict[str, Any]) -> list[Chunk]:
        prompt = "<user>What is the capital of France?<assistant>"
        last = body["messages"][-1]
        if body.get("continue_final_message"):
            self.prefixes.append(last["content"])
            prompt += str(last["content"])
        else:
            prompt += self.opens
        delta = Delta(content=self.reply, reasoning=self.reasoning)
        return [Chunk(prompt_text=prompt), Chunk(choices=[Choice(delta=delta)])]

    async def report(self, model: str, told: Format | None = None) -> ProbeReport:
        return await probe(cast("Upstream", self), model, told)


MULBERRY = "### Rationales:\nParis, I think.\n### The final answer is: Paris"


@pytest.mark.parametrize(
    ("fake", "model", "told", "found"),
    [
        # what the operator says comes first
        (FakeModel("<think>Paris.</think>"), "any", "glm", "glm"),
        (FakeModel("Paris.", reasoning="Paris."), "Mulberry_qwen2vl_7b", "kimi-vl", "kimi-vl"),
        # then a reasoning field, with the tags that the registry or the prompt names
        (FakeModel("Paris.", reasoning="Paris."), "any", None, "separated"),
        (FakeModel("Paris.", reasoning="Paris."), "R1-Onevision-7B", None, "separated"),
        (FakeModel("Paris.", reasoning="Paris."), "LlamaV-o1", None, "separated"),
        (FakeModel("Paris.", reasoning="Paris."), "org/gemma-4-it-FP8", None, "gemma4-separated"),
        (
            FakeModel("Paris.", reasoning="Paris.", opens="<seed:think>"),
            "any",
            None,
            "seed-oss-separated",
        ),
        # then the registry
        (FakeModel("Paris."), "GLM-4.5V", None, "glm"),
        (FakeModel("<think>Paris.</think>"), "GLM-4.5V-AWQ", None, "glm"),
        (FakeModel("Paris.</think>Paris"), "GLM-4.5V", None, "glm-open"),
        (FakeModel("Paris.", opens="<think>\n"), "GLM-4.5V", None, "glm-open"),
        (FakeModel(MULBERRY), "Mulberry_qwen2vl_7b", None, "mulberry"),
        # then what shows
        (FakeModel(MULBERRY), "any", None, "auto"),
        (FakeModel("[THINK]Paris.[/THINK]Paris."), "any", None, "mistral"),
        (FakeModel("Paris.</mm:think>Paris."), "any", None, "minimax-m3-open"),
        (FakeModel("Paris.", opens="<|channel>thought\n"), "any", None, "gemma4-open"),
        (FakeModel("<think>Paris.</think>"), "LlamaV-o1", None, "think"),
        (FakeModel("Paris."), "any", None, "auto"),
        (FakeModel("Paris."), "LlamaV-o1", None, "auto"),
    ],
)
async def test_the_format_is_told_separated_registered_or_seen_in_this_order(
    fake: FakeModel, model: str, told: str | None, found: str
) -> None:
    report = await fake.report(model, FORMATS[told] if told else None)
    assert report.as_dict()["format"] == found
    assert report.format is FORMATS[found]


async def test_a_thought_is_continued_behind_the_models_own_opener() -> None:
    fake = FakeModel("[THINK]Paris.[/THINK]Paris.")
    report = await fake.report("any")
    assert report.method is ResumeMethod.CONTINUE
    assert fake.prefixes[0].startswith("[THINK]\nThe user asks")


async def test_an_empty_block_of_any_format_before_the_prefix_shows() -> None:
    class Wrapping(FakeModel):
        async def complete(self, body: dict[str, Any]) -> list[Chunk]:
            chunks = await super().complete(body)
            if self.prefixes:
                prompt = str(chunks[0].prompt_text)
                chunks[0].prompt_text = prompt.replace("[THINK]", "[THINK]\n\n[/THINK]\n\n[THINK]")
            return chunks

    report = await Wrapping("[THINK]Paris.[/THINK]Paris.").report("any")
    assert report.method is ResumeMethod.RESTART
    assert any("empty think block" in finding for finding in report.findings)


def test_the_operators_format_is_the_gateways() -> None:
    with guarded(settings={"format": THINK}) as gate:
        (model,) = httpx.get(f"{gate.root}/readyz").json()["models"]
        assert model["format"] == "think"


def test_a_malformed_status_line_while_starting_leaves_the_gateway_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.state.RETRY_SECONDS", 0.05)
    sane, broken = Scripted._steps, True

    def steps(server: Scripted, path: str, request: dict[str, Any]) -> Any:
        if broken:
            return [b"HTTP/1.1 200 caf\xe9\r\nConnection: close\r\n\r\n{}"]
        return sane(server, path, request)

    monkeypatch.setattr(Scripted, "_steps", steps)
    with scripted(head(), chunk(content="Fine. ", finish="stop"), b"data: [DONE]\n\n") as upstream:
        with guarded(upstream=upstream.root, ready=False) as gate:
            assert gate.post(BREAD.prompt).status_code == 502
            assert httpx.get(f"{gate.root}/readyz").status_code == 503
            broken = False
            wait_until(lambda: httpx.get(f"{gate.root}/readyz").status_code == 200, "stays away")
            gate.stream(BREAD.prompt).check_whole()


class FakeUpstream:
    """Lists what it is told to; a listing that is an error is raised."""

    def __init__(self, *listings: list[dict[str, Any]] | Exception) -> None:
        self.listings = list(listings)

    async def models(self) -> list[dict[str, Any]]:
        if not self.listings:
            raise asyncio.CancelledError
        listing = self.listings.pop(0)
        if isinstance(listing, Exception):
            raise listing
        return listing


async def keep_up(probes: Probes) -> None:
    with pytest.raises(asyncio.CancelledError):
        await probes.keep_up()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names probed; a model of any name is there, but for `gone`."""
    names: list[str] = []

    async def probed(_: Upstream, model: str, told: Format | None) -> ProbeReport:
        names.append(model)
        if model == "gone":
            raise UpstreamHTTPError(404, "The model `gone` does not exist", "t")
        return ProbeReport(model, ResumeMethod.CONTINUE, AUTO)

    monkeypatch.setattr("gateway.state.probe", probed)
    monkeypatch.setattr("gateway.state.RETRY_SECONDS", 0)
    monkeypatch.setattr("gateway.state.REFRESH_SECONDS", 0)
    return names


async def test_a_bug_does_not_end_the_keeper(asked: list[str]) -> None:
    probes = Probes(cast("Upstream", FakeUpstream(RuntimeError("bug"), [{"id": "a"}])))
    await keep_up(probes)
    assert probes.ready
    assert asked == ["a"]


async def test_models_that_are_not_listed_take_no_place_of_those_that_are(
    asked: list[str],
) -> None:
    probes = Probes(cast("Upstream", FakeUpstream([{"id": "a"}, {"id": "b"}])))
    await keep_up(probes)
    for index in range(100):
        await probes.of(f"x{index}")
        await probes.of("x0")
    kept = [report.model for report in probes.reports]
    assert len(kept) == 2 + 16
    assert {"a", "b", "x0", "x99"} <= set(kept)
    assert asked.count("x0") == asked.count("a") == 1
    await probes.of("x5")
    assert asked.count("x5") == 2


async def test_any_name_is_the_one_model_that_is_listed(asked: list[str]) -> None:
    probes = Probes(cast("Upstream", FakeUpstream([{"id": "a"}])))
    await keep_up(probes)
    assert (await probes.of("alias")).model == "a"
    assert asked == ["a"]


async def test_logs_hold_no_names_that_clients_made_up(asked: list[str]) -> None:
    refused = UpstreamHTTPError(404, "secret words", "t")
    probes = Probes(cast("Upstream", FakeUpstream(refused, [{"id": "a"}, {"id": "b"}])))
    with capture_logs() as logs:
        await keep_up(probes)
        await probes.of("secret")
        await probes.of("gone")
    rows = [(row["event"], row.get("model"), row.get("error")) for row in logs]
    assert rows == [
        ("upstream not ready", None, "the upstream answered 404"),
        ("probed", "a", None),
        ("probed", "b", None),
        ("probed", None, None),
        ("probe failed", None, "the upstream answered 404"),
    ]


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
