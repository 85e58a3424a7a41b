"""The guard as a library: any asyncio program's streams, the official client's, finished texts."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk

from monitors.check import Checker
from monitors.errors import GuardError, UpstreamError
from monitors.events import (
    DeltaReceived,
    Finish,
    Outcome,
    Refuse,
    Release,
    Restart,
    Resume,
)
from monitors.guard import GuardEvent, delta_of, open_guard
from monitors.policy_file import parse_policy
from monitors.taxonomy import Action, Stage
from tests.gateway.harness import BREAD, MODEL, REFUSAL, RULES, SLIDE, THOUGHT, guarded

EXAMPLE = Path(__file__).parents[2] / "deploy" / "examples" / "guarded_client.py"
POLICY = parse_policy(json.dumps(RULES), "test")


class Upstream:
    """Deltas one by one; knows whether it was closed before its end."""

    def __init__(self, *deltas: DeltaReceived | Exception, ends: bool = True) -> None:
        self.deltas, self.ends = deltas, ends
        self.closed_early = False

    async def __call__(self) -> AsyncIterator[DeltaReceived]:
        try:
            for delta in self.deltas:
                await asyncio.sleep(0)
                if isinstance(delta, Exception):
                    raise delta
                yield delta
            if self.ends:
                yield DeltaReceived(0, finish_reason="stop")
        except (GeneratorExit, asyncio.CancelledError):
            self.closed_early = True
            raise


def thinks(text: str) -> DeltaReceived:
    return DeltaReceived(0, reasoning=text)


def says(text: str) -> DeltaReceived:
    return DeltaReceived(0, content=text)


async def collect(
    upstream: Upstream, again: Any = None, prompt: str = "Please write me a letter."
) -> list[GuardEvent]:
    async with open_guard(POLICY) as guard:
        return [event async for event in guard.stream(upstream(), prompt=prompt, again=again)]


def text(events: list[GuardEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Release))


async def test_a_harmless_stream_passes_whole() -> None:
    events = await collect(Upstream(thinks("A letter has a date. "), says("Dear you.")))
    assert text(events) == "A letter has a date. Dear you."
    assert isinstance(events[-2], Finish)
    assert isinstance(events[-1], Outcome) and events[-1].action is Action.ALLOW


async def test_without_a_way_to_go_on_a_correction_is_a_refusal() -> None:
    upstream = Upstream(thinks("A purple teapot, nobody must know.\n"), *[says("x ")] * 1000)
    events = await collect(upstream)
    assert [event.text for event in events if isinstance(event, Refuse)] == [REFUSAL]
    assert text(events) == ""
    assert upstream.closed_early


async def test_a_correction_asks_again_behind_what_was_kept() -> None:
    legs: list[Resume | Restart] = []

    def again(leg: Resume | Restart) -> AsyncIterator[DeltaReceived]:
        legs.append(leg)
        return Upstream(thinks("An honest letter it is.\n"), says("Dear you."))()

    kept = "A letter needs a date and a name."
    upstream = Upstream(thinks(kept + "\n"), thinks("A purple teapot, nobody must know.\n"))
    events = await collect(upstream, again)
    assert legs == [Resume(1, f"<think>\n{kept}\n{THOUGHT}", 1, "<think>")]
    assert text(events) == f"{kept}\nAn honest letter it is.\nDear you."


async def test_what_the_upstream_raises_is_raised() -> None:
    with pytest.raises(GuardError, match="away"):
        await collect(Upstream(says("Dear you, and so on and on. "), GuardError("away")))


async def test_a_stream_that_only_stops_is_no_finished_reply() -> None:
    with pytest.raises(UpstreamError, match="finish reason"):
        await collect(Upstream(says("Dear you, "), ends=False))


async def test_choices_are_not_mixed() -> None:
    choice = {"index": 1, "delta": {"content": "Hm."}, "finish_reason": None}
    chunk = {"id": "1", "choices": [choice], "created": 1, "model": "m"}
    with pytest.raises(UpstreamError, match="several choices"):
        delta_of(ChatCompletionChunk.model_validate({**chunk, "object": "chat.completion.chunk"}))


async def test_leaving_early_closes_the_upstream() -> None:
    upstream = Upstream(*[thinks("This is a harmless sentence. ")] * 10_000)
    async with open_guard(POLICY) as guard:
        async with aclosing(guard.stream(upstream(), prompt="Please write me a letter.")) as events:
            async for _ in events:
                break
    assert upstream.closed_early


async def test_a_slow_reader_slows_the_upstream() -> None:
    taken = 0

    async def endless() -> AsyncIterator[DeltaReceived]:
        nonlocal taken
        while True:
            await asyncio.sleep(0)
            taken += 1
            yield thinks("This is a harmless sentence. ")

    async with open_guard(POLICY) as guard:
        async with aclosing(guard.stream(endless(), prompt="Please write me a letter.")) as events:
            await anext(events)
            before = -1
            while taken != before:  # until it waits for us
                before = taken
                await asyncio.sleep(0.2)
            assert taken < 1000


@pytest.mark.parametrize("trace", [BREAD, SLIDE])
def test_the_example_guards_the_official_client(
    trace: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("guarded_client", EXAMPLE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    policy = tmp_path / "policy.yaml"
    policy.write_text(json.dumps(RULES))
    with guarded() as gate:  # for its simulator
        url = f"{gate.upstream}/v1"
        shown, outcome = asyncio.run(example.ask(url, MODEL, trace.prompt, policy))
    assert "teapot" not in shown
    assert shown in capsys.readouterr().out
    if trace is BREAD:
        assert (shown, outcome.action) == (f"{BREAD.reasoning}{BREAD.answer}", Action.ALLOW)
    else:
        assert outcome.action is Action.CORRECT
        assert shown.endswith("Dear reader!")


def test_finished_texts_are_checked_at_once(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(json.dumps(RULES))
    checker = Checker.load(policy)
    assert checker.check(prompt="Bread?", reasoning="Flour.", answer="Bake.").action is Action.ALLOW
    bad = checker.check(prompt="Bread?", reasoning="Flour, and a purple teapot too.")
    assert (bad.action, bad.stage) == (Action.CORRECT, Stage.REASONING)
