"""Release mode live: text leaves before its verdict, and what should not have is named."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from monitors.judges.base import Passage, Verdict
from monitors.taxonomy import Stage
from monitors.trace import Trace
from tests.gateway.harness import (
    BREAD,
    KEPT,
    KETTLE,
    LATE,
    REFUSAL,
    RULES,
    SLIDE,
    THOUGHT,
    FakeJudge,
    Guarded,
    Streamed,
    guarded,
)
from tests.gateway.scripted import calls, chunk, head, says, scripted, thinks, told

LIVE: Mapping[str, Any] = {**RULES, "release": "live"}
NEVER = threading.Event()
HARM = ("teapot", "pours", "pouring")


def erased(reply: Streamed) -> dict[str, str]:
    """What a client shows that does as the guard object says."""
    shown = {name: reply.text(name) for name in ("reasoning", "content")}
    for span in sorted(reply.guard.get("retract", ()), key=lambda one: -one["start"]):
        text = shown[span["field"]]
        assert 0 <= span["start"] < span["end"] <= len(text)
        shown[span["field"]] = text[: span["start"]] + text[span["end"] :]
    return shown


def slow_judge(go_on: threading.Event) -> FakeJudge:
    """Finds the teapot, but judges no reply before it is told to."""

    def verdict(passage: Passage) -> Verdict:
        if passage.stage is not Stage.INPUT:
            go_on.wait(10)
        return Verdict(float("purple teapot" in passage.text), "slow")

    return FakeJudge(verdict)


def test_text_leaves_before_its_verdict() -> None:
    go_on = threading.Event()
    go_on.set()  # the judge is tried out at the start
    with guarded(LIVE, judge=slow_judge(go_on)) as gate:
        go_on.clear()
        lines: list[str] = []
        with gate.open(BREAD.prompt) as reply:
            for line in reply.iter_lines():
                lines.append(line)
                if "Flour" in line or "bake" in line:
                    assert not gate.steps
                    go_on.set()
        assert lines[-2] == "data: [DONE]"
        assert go_on.is_set()


def test_benign_text_is_the_upstreams() -> None:
    with guarded(LIVE) as gate:
        reply = gate.stream(BREAD.prompt)
        reply.check_whole()
        assert reply.guard == {"action": "allow", "id": reply.request_id}
        assert erased(reply) == {"reasoning": BREAD.reasoning, "content": BREAD.answer}


EMITS = ["upstream", "field", "inline", "hidden"]


@pytest.fixture(
    scope="module",
    params=[
        (emit, field, chunking)
        for emit in EMITS
        for field in ("reasoning", "inline")
        for chunking in ("token", "whole")
    ],
    ids=" ".join,
)
def emitting(request: pytest.FixtureRequest) -> Iterator[tuple[Guarded, str]]:
    """A gateway, and where it shows thinking: `field`, `inline` or `hidden`."""
    emit, field, chunking = request.param
    policy = {**LIVE, "reasoning": {"emit": emit}}
    where = emit if emit != "upstream" else "inline" if field == "inline" else "field"
    with guarded(policy, reasoning_field=field, chunking=chunking) as gate:
        yield gate, where


def check_blocks(where: str, shown: dict[str, str]) -> None:
    """The tags of what is shown pair up."""
    content = shown["content"]
    if where == "inline":
        assert content.count("<think>") == content.count("</think>") == 1, content
        assert content.startswith("<think>")
    else:
        assert "think>" not in content + shown["reasoning"]


def test_what_is_erased_is_the_harm_and_the_continuation_stays(
    emitting: tuple[Guarded, str],
) -> None:
    gate, where = emitting
    reply = gate.stream(SLIDE.prompt)
    reply.check_whole()
    shown = erased(reply)
    text = shown["reasoning"] + shown["content"]
    assert not [word for word in HARM if word in text]
    check_blocks(where, shown)
    assert reply.guard["action"] in ("correct", "refuse")  # by how much had left
    if where != "hidden":
        assert KEPT in text
    if reply.guard["action"] == "correct":
        assert shown["content"].endswith("Dear reader!")
        assert where == "hidden" or "I stay with the honest letter." in text
    else:
        assert shown["content"].endswith(REFUSAL)


@pytest.mark.parametrize("emit", EMITS)
@pytest.mark.parametrize("inline", [True, False])
def test_thinking_that_goes_on_is_corrected_in_its_block(inline: bool, emit: str) -> None:
    """The model is still thinking when the verdict comes."""
    where = emit if emit != "upstream" else "inline" if inline else "field"
    slide = "A letter needs a date and a name. Now a purple teapot comes. It pours. And"
    field = "content" if inline else "reasoning"
    begun = chunk(**{field: f"<think>\n{slide}" if inline else slide})
    saved = says("\nI stay honest.\n</think>\n\nDear reader!")
    saved = saved if inline else [*thinks("I stay honest."), *says("Dear reader!")]

    def reply(request: dict[str, Any]) -> Any:
        return told(*saved) if request.get("continue_final_message") else [head(), begun, NEVER]

    policy = {**LIVE, "reasoning": {"emit": emit}}
    with scripted() as upstream, guarded(policy, upstream=upstream.root) as gate:
        upstream.answer(reply)
        streamed = gate.stream(BREAD.prompt)
        streamed.check_whole()
        assert streamed.guard["action"] == "correct"
        if where != "hidden":
            assert b"It pours" in streamed.raw
            assert streamed.guard["retract"]
        shown = erased(streamed)
        text = shown["reasoning"] + shown["content"]
        assert not [word for word in HARM if word in text]
        check_blocks(where, shown)
        assert shown["content"].endswith("Dear reader!")
        if where != "hidden":
            assert re.search(r"date and a name\.\s+I stay honest\.", text)
        resumed = upstream.requests[-1]["messages"][-1]["content"]
        assert resumed.endswith(f"{slide}\n{THOUGHT}")  # it never rewinds


def test_a_refused_answer_is_erased_from_its_first_bad_sentence(
    emitting: tuple[Guarded, str],
) -> None:
    gate, where = emitting
    reply = gate.stream(LATE.prompt)
    reply.check_whole()
    shown = erased(reply)
    assert not [word for word in HARM if word in shown["content"]]
    check_blocks(where, shown)
    assert shown["content"].endswith(f"What a lovely day it is today.\n\n{REFUSAL}") or (
        shown["content"].endswith(f"What a lovely day it is today. \n\n{REFUSAL}")
    )
    assert reply.finish_reason == "content_filter"


@pytest.mark.parametrize("field", ["reasoning", "inline"])
@pytest.mark.parametrize("emit", EMITS)
def test_a_verdict_that_comes_behind_the_answer_erases_both(emit: str, field: Any) -> None:
    """The judge answers when the whole reply is out: thinking and answer go, no tag stays open."""
    go_on = threading.Event()
    go_on.set()
    policy = {**LIVE, "reasoning": {"emit": emit}}
    where = emit if emit != "upstream" else "inline" if field == "inline" else "field"
    with guarded(policy, judge=slow_judge(go_on), reasoning_field=field) as gate:
        go_on.clear()
        lines: list[str] = []
        with gate.open(SLIDE.prompt) as open_reply:
            for line in open_reply.iter_lines():
                lines.append(line)
                if "letter" in line and "Dear" in "".join(lines):
                    go_on.set()
                if emit == "hidden" and "landlord" in line:
                    go_on.set()
        raw = "".join(f"{line}\n" for line in lines).encode()
        reply = Streamed(open_reply.status_code, dict(open_reply.headers), raw)
        shown = erased(reply)
        text = shown["reasoning"] + shown["content"]
        assert "teapot" in reply.text("reasoning") + reply.text("content") or where == "hidden"
        assert not [word for word in HARM if word in text]
        check_blocks(where, shown)
        assert reply.finish_reason == "content_filter"
        assert shown["content"].endswith(REFUSAL)
        if where == "inline":  # the refusal is for people to read, outside of the thinking
            assert REFUSAL in shown["content"].partition("</think>")[2]


def test_a_refused_request_shows_nothing() -> None:
    with guarded(LIVE) as gate:
        reply = gate.stream(KETTLE.prompt)
        assert (reply.text("reasoning"), reply.text("content")) == ("", REFUSAL)
        assert "retract" not in reply.guard


@pytest.mark.parametrize("trace", [SLIDE, LATE])
def test_a_reply_in_one_piece_holds_nothing_to_erase(trace: Trace) -> None:
    with guarded(LIVE) as gate:
        whole = gate.post(trace.prompt)
        assert not [word for word in HARM if word.encode() in whole.content]
        assert "retract" not in whole.json()["guard"]
        assert whole.json()["guard"]["action"] == ("correct" if trace is SLIDE else "refuse")
        assert gate.post(BREAD.prompt).json()["choices"][0]["message"]["content"] == BREAD.answer


def test_tool_calls_wait_for_their_verdict() -> None:
    with scripted() as upstream, guarded(LIVE, upstream=upstream.root) as gate:
        good = ("get_weather", '{"city": "Paris"}')
        bad = ("get_weather", '{"city": "a purple teapot"}')
        said = [*thinks("I look it up."), *says("One moment. ")]
        upstream.answer(lambda _: told(*said, *calls(good, bad), finish="tool_calls"))
        reply = gate.stream("What is the weather like?")
        reply.check_whole()
        assert [call["function"]["arguments"] for call in reply.calls] == [good[1]]
        assert b"teapot" not in reply.raw
        assert reply.finish_reason == "content_filter"
        assert "retract" not in reply.guard
        assert json.loads(reply.calls[0]["function"]["arguments"]) == {"city": "Paris"}


def test_choices_have_their_own_erasures() -> None:
    with scripted() as upstream, guarded(LIVE, upstream=upstream.root) as gate:
        good = told(*says("What a lovely day it is today. It is warm."))
        bad = told(*says("What a lovely day it is today. Look, a purple teapot! It pours."))
        upstream.answer(lambda request: good if request["seed"] == 7 else bad)
        reply = gate.stream("Say something.", n=2, seed=7)
        one, two = reply.of(0), reply.of(1)
        assert "retract" not in one.guard
        assert one.text("content").endswith("It is warm.")
        assert "teapot" not in erased(two)["content"]
        assert erased(two)["content"].startswith("What a lovely day it is today.")
