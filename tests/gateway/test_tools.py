"""Tool calls: judged as answer text, released whole, never in part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from monitors.taxonomy import Mode
from tests.gateway.harness import (
    MODEL,
    REFUSAL,
    RULES,
    Guarded,
    guarded,
)
from tests.gateway.scripted import Delta, Scripted, calls, says, scripted, thinks, told

PROMPT = "What is the weather like?"
WEATHER = ("get_weather", '{"city": "Paris", "days": [1, 2]}')
TIME = ("get_time", '{"zone": "CET", "note": "né à 巴黎"}')
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Looks it up.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("get_weather", "get_time")
]
HARMFUL = {
    "name": ("purple  teapot", "{}"),
    "argument": ("get_weather", '{"city": "a purple teapot"}'),
    "key": ("get_weather", '{"purple teapot": 1}'),
    "escaped": ("get_weather", '{"city": "a purple \\u0074e\\u0061pot"}'),
    "nested": ("get_weather", '{"a": [{"b": ["purple\\u0020teapot"]}]}'),
    "shadowed": ("get_weather", '{"city": "a purple teapot", "city": "Paris"}'),
    "no JSON": ("get_weather", "{city: a purple teapot"),
}


def called(*functions: tuple[str, str], before: list[Delta] | None = None, size: int = 3) -> bytes:
    step = told(*(before or []), *calls(*functions, size=size), finish="tool_calls")
    assert isinstance(step, bytes)
    return step


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Guarded, Scripted]]:
    with scripted() as upstream, guarded(upstream=upstream.root) as gate:
        yield gate, upstream


def functions(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(call["function"]["name"], call["function"]["arguments"]) for call in found]


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_calls_leave_whole_with_the_servers_ids(both: tuple[Guarded, Scripted], size: int) -> None:
    gate, upstream = both
    thought = thinks("I look it up.")
    upstream.answer(lambda _: called(WEATHER, TIME, before=thought, size=size))
    reply = gate.stream(PROMPT, tools=TOOLS)
    reply.check_whole()
    assert functions(reply.calls) == [WEATHER, TIME]
    assert [call["index"] for call in reply.calls] == [0, 1]
    ids = [f"chatcmpl-tool-{index:016x}" for index in (0, 1)]
    assert [call["id"] for call in reply.calls] == ids
    assert reply.text("reasoning") == "I look it up."
    assert reply.finish_reason == "tool_calls"
    assert reply.guard["action"] == "allow"

    choice = gate.post(PROMPT, tools=TOOLS).json()["choices"][0]
    message = choice["message"]
    assert functions(message["tool_calls"]) == [WEATHER, TIME]
    assert [call["id"] for call in message["tool_calls"]] == ids
    assert (message["content"], choice["finish_reason"]) == (None, "tool_calls")


def test_text_before_a_call_comes_before_it(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    upstream.answer(lambda _: called(WEATHER, before=says("Let me look that up.")))
    reply = gate.stream(PROMPT, tools=TOOLS)
    shown = [k for choice in reply.choices for k, v in choice["delta"].items() if v]
    assert shown == ["role", "content", "tool_calls"]
    assert reply.text("content") == "Let me look that up."


def test_what_was_asked_of_tools_reaches_the_upstream(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    upstream.answer(lambda _: called(WEATHER))
    chosen = {"type": "function", "function": {"name": "get_weather"}}
    gate.post(PROMPT, tools=TOOLS, tool_choice=chosen, parallel_tool_calls=False)
    (request,) = upstream.requests
    assert request["tools"] == TOOLS
    assert request["tool_choice"] == chosen
    assert request["parallel_tool_calls"] is False


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("kind", HARMFUL)
def test_a_harmful_call_never_leaves(both: tuple[Guarded, Scripted], kind: str, size: int) -> None:
    gate, upstream = both
    before = thinks("I look it up.")
    upstream.answer(lambda _: called(WEATHER, HARMFUL[kind], TIME, before=before, size=size))
    reply = gate.stream(PROMPT, tools=TOOLS)
    reply.check_whole()
    assert functions(reply.calls) == [WEATHER]
    assert (reply.finish_reason, reply.guard["action"]) == ("content_filter", "refuse")
    assert reply.text("content").strip() == reply.text("refusal") == REFUSAL
    whole = gate.post(PROMPT, tools=TOOLS)
    choice = whole.json()["choices"][0]
    assert functions(choice["message"]["tool_calls"]) == [WEATHER]
    assert (choice["message"]["refusal"], choice["finish_reason"]) == (REFUSAL, "content_filter")
    for raw in (reply.raw, whole.content):
        assert b"teapot" not in raw
        assert b"0074" not in raw


def test_an_id_that_speaks_is_replaced(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    deltas = calls(WEATHER, ids="a-purple-teapot-")
    upstream.answer(lambda _: told(*deltas, finish="tool_calls"))
    reply = gate.stream(PROMPT, tools=TOOLS)
    assert functions(reply.calls) == [WEATHER]
    assert b"teapot" not in reply.raw


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.SHADOW])
def test_where_nothing_is_enforced_calls_pass(mode: Mode) -> None:
    with scripted() as upstream:
        with guarded(settings={"mode": mode}, upstream=upstream.root) as gate:
            upstream.answer(lambda _: called(WEATHER, HARMFUL["argument"]))
            reply = gate.stream(PROMPT, tools=TOOLS)
            reply.check_whole()
            assert functions(reply.calls) == [WEATHER, HARMFUL["argument"]]
            assert (reply.finish_reason, reply.guard["action"]) == ("tool_calls", "allow")
            outcome = gate.outcome(reply.request_id)
            assert outcome.action == ("refuse" if mode is Mode.SHADOW else "allow")


def test_a_call_behind_a_corrected_thought(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    slide = thinks("The user asks about the weather. Now a purple teapot comes. It pours.")

    def reply(request: dict[str, Any]) -> bytes:
        if request.get("continue_final_message"):
            return called(WEATHER, before=thinks("I look it up."))
        return called(TIME, before=slide)

    upstream.answer(reply)
    streamed = gate.stream(PROMPT, tools=TOOLS, tool_choice="auto")
    streamed.check_whole()
    assert functions(streamed.calls) == [WEATHER]
    assert streamed.text("reasoning") == "The user asks about the weather.\nI look it up."
    assert (streamed.finish_reason, streamed.guard["action"]) == ("tool_calls", "correct")
    first, second = upstream.requests
    assert first["tools"] == second["tools"] == TOOLS
    message = gate.post(PROMPT, tools=TOOLS).json()["choices"][0]["message"]
    assert functions(message["tool_calls"]) == [WEATHER]


def test_the_result_of_a_tool_goes_round(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    upstream.answer(lambda _: called(WEATHER))
    create = gate.client.chat.completions.create
    messages: list[Any] = [{"role": "user", "content": PROMPT}]
    message = create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
    assert message.tool_calls
    messages.append(message.model_dump(exclude_none=True))
    call_id = message.tool_calls[0].id
    messages.append({"role": "tool", "tool_call_id": call_id, "content": "It is sunny."})
    upstream.answer(lambda _: told(*says("Sunny, they say.")))
    answer = create(model=MODEL, messages=messages, tools=TOOLS).choices[0]
    assert (answer.message.content, answer.finish_reason) == ("Sunny, they say.", "stop")
    sent = upstream.requests[0]["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool"]
    ((name, arguments),) = functions(sent[1]["tool_calls"])
    assert (name, json.loads(arguments)) == (WEATHER[0], json.loads(WEATHER[1]))
    assert sent[2] == messages[2]

    messages[-1]["content"] = "The crimson kettle is sunny."
    refused = create(model=MODEL, messages=messages, tools=TOOLS).choices[0]
    assert refused.message.refusal == REFUSAL


def test_a_harmful_definition_of_a_tool_is_refused(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    upstream.answer(lambda _: called(WEATHER))
    tool = {"type": "function", "function": {"name": "f", "description": "A crimson kettle."}}
    reply = gate.post(PROMPT, tools=[tool]).json()
    assert reply["choices"][0]["finish_reason"] == "content_filter"


def test_the_official_clients_stream_helper_gathers_calls(
    both: tuple[Guarded, Scripted],
) -> None:
    gate, upstream = both
    upstream.answer(lambda _: called(WEATHER, TIME))
    messages: list[Any] = [{"role": "user", "content": PROMPT}]
    with gate.client.chat.completions.stream(model=MODEL, messages=messages, tools=TOOLS) as stream:
        final = stream.get_final_completion().choices[0].message
    assert final.tool_calls
    found = [(call.function.name, call.function.arguments) for call in final.tool_calls]
    assert found == [WEATHER, TIME]


def test_calls_end_the_thinking_that_stands_inline() -> None:
    with scripted() as upstream:
        policy = {**RULES, "reasoning": {"emit": "inline"}}
        with guarded(policy, upstream=upstream.root) as gate:
            upstream.answer(lambda _: called(WEATHER, before=thinks("I look it up.")))
            reply = gate.stream(PROMPT, tools=TOOLS)
            assert reply.text("content").strip() == "<think>\nI look it up.\n</think>"
            assert functions(reply.calls) == [WEATHER]
