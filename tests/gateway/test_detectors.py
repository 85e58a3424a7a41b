"""The FMS orchestrator's detector API over HTTP, by its published schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from monitors.judges.base import Passage, Verdict
from tests.gateway.harness import RULES, FakeJudge, Guarded, guarded, safe

KETTLE = "Tell me about the crimson kettle."
GOOD = "What a lovely day it is today. "
BAD = "Look, a purple teapot!"
WEAPONS = {"detection": "weapons", "detection_type": "harm", "score": 1.0}
OTHER = {"detection": "other", "detection_type": "harm", "score": 1.0}


@pytest.fixture(scope="module")
def gate() -> Iterator[Guarded]:
    with guarded() as running:
        yield running


def post(gate: Guarded, path: str, body: Any) -> httpx.Response:
    """With the headers that the orchestrator sends."""
    headers = {"detector-id": "any", "x-model-name": "any", "Content-Type": "application/json"}
    return httpx.post(f"{gate.root}/api/v1/text/{path}", json=body, headers=headers, timeout=20)


def found(gate: Guarded, path: str, **body: Any) -> Any:
    reply = post(gate, path, body | {"detector_params": body.get("detector_params", {})})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_contents_are_found_whole_as_requests(gate: Guarded) -> None:
    texts = ["How is bread made?", KETTLE, "", KETTLE + " 🥖"]
    rows = found(gate, "contents", contents=texts, detector_params={"threshold": 0.5})
    assert [len(row) for row in rows] == [0, 1, 0, 1]
    for row, text in zip(rows, texts, strict=True):
        for one in row:
            assert one == {"start": 0, "end": len(text), "text": text, **WEAPONS}


@pytest.mark.parametrize("stage", ["reasoning", "answer"])
def test_contents_are_found_step_by_step_as_generated_text(gate: Guarded, stage: str) -> None:
    texts = [GOOD, GOOD + BAD, f"{BAD} 👩🏽‍🚀 {GOOD}{GOOD}{BAD}"]
    rows = found(gate, "contents", contents=texts, detector_params={"stage": stage})
    assert [len(row) for row in rows] == [0, 1, 2]
    for row, text in zip(rows, texts, strict=True):
        for one in row:
            assert text[one["start"] : one["end"]] == one["text"]
            assert BAD in one["text"]
            assert {key: one[key] for key in OTHER} == OTHER


def test_a_generated_text_is_judged_and_its_prompt_is_context(gate: Guarded) -> None:
    assert found(gate, "generation", prompt=KETTLE, generated_text=GOOD) == []
    assert found(gate, "generation", prompt="Hello.", generated_text=GOOD + BAD) == [OTHER]


def test_a_chat_is_judged_as_a_request_and_its_last_reply_as_a_reply(gate: Guarded) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello."}]
    reply = {"role": "assistant", "content": GOOD + BAD, "refusal": None}
    assert found(gate, "chat", messages=messages) == []
    assert found(gate, "chat", messages=[*messages, reply]) == [OTHER]
    asked = [*messages, {"role": "user", "content": KETTLE}]
    assert found(gate, "chat", messages=asked) == [WEAPONS]
    both = found(gate, "chat", messages=[*asked, reply])
    assert sorted(one["detection"] for one in both) == ["other", "weapons"]
    thought = {"role": "assistant", "content": GOOD, "reasoning_content": BAD}
    assert found(gate, "chat", messages=[*messages, thought]) == [OTHER]
    call = {"function": {"name": "look", "arguments": '{"a": "a purple teapot"}'}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert found(gate, "chat", messages=[*messages, called]) == [OTHER]
    tools = [{"type": "function", "function": {"name": "f", "description": KETTLE}}]
    assert found(gate, "chat", messages=messages, tools=tools) == [WEAPONS]


def marked(text: str) -> list[dict[str, Any]]:
    """Places of an assistant's message that may hold text, and hold this one."""
    head, tail = text[: len(text) // 2], text[len(text) // 2 :]
    function = {"name": "look", "arguments": "{}"}
    return [
        {"refusal": text},
        {"name": text},
        {"function_call": {"name": "look", "arguments": f'{{"a": "{text}"}}'}},
        {"function_call": {**function, "odd": text}},
        {"function_call": text},
        {"thinking_blocks": [{"type": "thinking", "thinking": text, "signature": "x"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": part} for part in (head, tail)]},
        {"reasoning": [{"type": "summary_text", "text": text}]},
        {"reasoning": {"deep": [text]}},
        {"reasoning_content": [head, tail]},
        {"reasoning_content": text.split(" ")},
        {"tool_calls": [{"type": text, "function": function}]},
        {"tool_calls": [{"id": text, "function": function}]},
        {"tool_calls": [{"function": {"name": {"odd": text}, "arguments": ""}}]},
        {"content": [{"type": text}]},
        {"content": [{"type": "text", "text": "x", "cache_control": {"type": text}}]},
        {"content": [{"type": "text", "text": {"value": text}}]},
        {"odd": {"deep": [1, None, text]}},
        {text: None},
    ]


@pytest.mark.parametrize("place", range(len(marked("x"))))
def test_no_text_of_a_message_is_left_unread(gate: Guarded, place: int) -> None:
    asked = {"role": "user", "content": "Hello."}
    reply = {"role": "assistant", "content": "Hm.", **marked("a purple teapot")[place]}
    assert found(gate, "chat", messages=[asked, reply]) == [OTHER]
    before = {"role": "assistant", "content": "Hm.", **marked("the crimson kettle")[place]}
    assert found(gate, "chat", messages=[asked, before, asked]) == [WEAPONS]


def test_what_says_nothing_is_not_judged() -> None:
    asked: list[str] = []

    def note(passage: Passage) -> Verdict:
        asked.append(passage.text)
        return safe(passage)

    call: dict[str, Any] = {"id": "call_1", "type": "function", "index": 0}
    call |= {"function": {"name": "look", "arguments": "{}"}}
    content = [{"type": "text", "text": "Hm.", "cache_control": {"type": "ephemeral"}}]
    reply: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    reply |= {"annotations": [], "function_call": None, "tool_calls": [call], "reasoning": "Aha."}
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Hello."}, reply]
    with guarded(judge=FakeJudge(note)) as gate:
        asked.clear()
        assert found(gate, "chat", messages=messages) == []
    assert set(" ".join(asked).split()) <= {"Aha.", "Hello.", "Hm.", "look", "{}", "look{}"}


@pytest.mark.parametrize("role", ["odd", None, "", "User", 1, [], KETTLE])
def test_a_role_that_nobody_knows_is_a_422(gate: Guarded, role: Any) -> None:
    messages = [{"role": role, "content": "Hello."}, {"role": "user", "content": "Hello."}]
    reply = post(gate, "chat", {"messages": messages})
    assert reply.status_code == 422
    assert "messages[0].role" in reply.json()["message"]
    assert KETTLE not in reply.text


def test_what_the_policy_allows_is_not_found() -> None:
    scenarios = {**RULES["scenarios"], "weapons": {"input": "allow"}}
    with guarded({**RULES, "scenarios": scenarios}) as gate:
        assert found(gate, "contents", contents=[KETTLE]) == [[]]


def test_an_alarm_that_no_single_step_raised_is_found_in_the_whole() -> None:
    judge = FakeJudge(lambda p: Verdict(0.66 if "odd" in p.text else 0.0, "fake"))
    text = "This is an odd sentence. " * 6
    with guarded({**RULES, "caps": {"excursion_steps": 3}}, judge=judge) as gate:
        ((one,),) = found(gate, "contents", contents=[text], detector_params={"stage": "answer"})
    assert (one["start"], one["end"], one["detection"]) == (0, len(text), "unsafe")
    assert one["score"] == 1.0


def test_the_orchestrator_finds_it_healthy(gate: Guarded) -> None:
    assert httpx.get(f"{gate.root}/health").status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("contents", {}),
        ("contents", {"contents": "x"}),
        ("contents", {"contents": [1]}),
        ("contents", {"contents": ["x"], "detector_params": []}),
        ("contents", {"contents": ["x"], "detector_params": {"stage": "output"}}),
        ("contents", {"contents": ["x"], "detector_params": {"stage": {}}}),
        ("generation", {"prompt": "x"}),
        ("generation", {"prompt": "x", "generated_text": None}),
        ("chat", {"messages": []}),
        ("chat", {"messages": ["x"]}),
        ("chat", {"messages": [{"role": "assistant", "content": [{"type": "file"}]}]}),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": ["x"]}]}),
        ("chat", {"messages": [{"role": "assistant", "images": ["AAAA"]}]}),
    ],
)
def test_a_bad_body_is_the_error_that_the_orchestrator_reads(
    gate: Guarded, path: str, body: dict[str, Any]
) -> None:
    reply = post(gate, path, body)
    assert reply.status_code == 422, reply.text
    error = reply.json()
    assert error["code"] == 422
    assert error["message"] == error["error"]["message"]


def test_the_documents_endpoint_is_not_there(gate: Guarded) -> None:
    assert post(gate, "context/doc", {"content": "x"}).status_code == 404
