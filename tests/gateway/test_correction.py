"""Corrections in the answer stage, and what becomes of a request on its way round."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from monitors.trace import Trace
from tests.gateway.harness import (
    REFUSAL,
    RULES,
    THOUGHT,
    Guarded,
    guarded,
)
from tests.gateway.scripted import says, scripted, thinks, told

CORRECTS = {
    **RULES,
    "scenarios": {"default": {"input": "flag", "reasoning": "correct", "answer": "correct"}},
}
PROMPT = "Say something nice."
LOVELY = "Something nice is easily said, I think."
AT_ONCE = Trace(
    id="at-once",
    prompt=PROMPT,
    reasoning=LOVELY,
    answer="Look, a purple teapot! It pours and pours.",
    safe_continuation="I would rather be kind.</think>You are kind.",
)
HARM = (b"teapot", b"pours")


def reply_of(gate: Guarded, *, stream: bool, **fields: Any) -> tuple[str, str, str, bytes]:
    """(reasoning, content, action, raw)."""
    if stream:
        reply = gate.stream(PROMPT, **fields)
        reply.check_whole()
        return reply.text("reasoning"), reply.text("content"), reply.guard["action"], reply.raw
    whole = gate.post(PROMPT, **fields)
    message = whole.json()["choices"][0]["message"]
    action = whole.json()["guard"]["action"]
    return message["reasoning"] or "", message["content"], action, whole.content


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("chunking", ["token", "whole"])
def test_an_answer_of_which_nothing_left_goes_back_to_thinking(chunking: Any, stream: bool) -> None:
    with guarded(CORRECTS, [AT_ONCE], chunking=chunking) as gate:
        thought, said, action, raw = reply_of(gate, stream=stream)
        assert thought.split() == f"{LOVELY} I would rather be kind.".split()
        assert (said, action) == ("You are kind.", "correct")
        assert not [word for word in HARM if word in raw]
        prefix = gate.asked[-1]["messages"][-1]["content"]
        assert prefix == f"<think>\n{LOVELY}\n{THOUGHT}"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("emit", ["upstream", "field", "hidden"])
def test_inline_thinking_is_reopened_and_closed_once(emit: str, stream: bool) -> None:
    policy = {**CORRECTS, "reasoning": {"emit": emit}}
    with guarded(policy, [AT_ONCE], reasoning_field="inline") as gate:
        thought, said, action, raw = reply_of(gate, stream=stream)
        assert action == "correct"
        assert not [word for word in HARM if word in raw]
        if emit == "upstream":
            assert said.count("<think>") == said.count("</think>") == 1
            before, _, said = said.partition("</think>")
            thought = before.removeprefix("<think>")
        assert "think>" not in said + thought
        wanted = "" if emit == "hidden" else f"{LOVELY} I would rather be kind."
        assert thought.split() == wanted.split()
        assert said.strip() == "You are kind."


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("where", ["reasoning", "inline"])
def test_where_nothing_can_be_continued_the_answer_begins_anew(where: Any, stream: bool) -> None:
    options: dict[str, Any] = {"reasoning_field": where, "wrap_empty_think": True}
    with guarded(CORRECTS, [AT_ONCE], **options) as gate:
        thought, said, action, raw = reply_of(gate, stream=stream)
        assert action == "correct"
        assert not [word for word in HARM if word in raw]
        assert said.endswith("You are kind.")
        assert (thought + said).count("<think>") == (thought + said).count("</think>")
        assert (thought + said).count("<think>") == (where == "inline")
        assert "I would rather be kind." in thought + said
        assert gate.asked[-1]["messages"][0] == {"role": "system", "content": THOUGHT}


@pytest.mark.parametrize("stream", [True, False])
def test_who_thinks_nothing_is_asked_anew(stream: bool) -> None:
    quiet = Trace(id="quiet", prompt=PROMPT, answer=AT_ONCE.answer, safe_continuation="</think>Hi!")
    with guarded(CORRECTS, [quiet]) as gate:
        thought, said, action, raw = reply_of(gate, stream=stream)
        assert (thought, said, action) == ("", "Hi!", "correct")
        assert not [word for word in HARM if word in raw]
        assert gate.asked[-1]["messages"][0] == {"role": "system", "content": THOUGHT}
        assert "continue_final_message" not in gate.asked[-1]


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_of_which_a_part_left_is_refused_from_there(stream: bool) -> None:
    late = AT_ONCE.model_copy(update={"answer": f"What a lovely day it is today. {AT_ONCE.answer}"})
    with guarded(CORRECTS, [late]) as gate:
        _, said, action, raw = reply_of(gate, stream=stream)
        assert said == f"What a lovely day it is today.\n\n{REFUSAL}"
        assert action == "refuse"
        assert not [word for word in HARM if word in raw]
        assert len(gate.asked) == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("where", ["reasoning", "inline"])
def test_a_budget_that_is_used_up_is_a_refusal(where: Any, stream: bool) -> None:
    options: dict[str, Any] = {"ignore_correction": 1.0, "reasoning_field": where}
    with guarded(CORRECTS, [AT_ONCE], **options) as gate:
        thought, said, action, raw = reply_of(gate, stream=stream)
        assert len(gate.asked) == 3
        assert action == "refuse"
        assert said.endswith(REFUSAL)
        assert (thought + said).count("<think>") == (thought + said).count("</think>")
        assert not [word for word in HARM if word in raw]


def test_tokens_that_are_used_up_leave_one_for_the_correction() -> None:
    with scripted() as upstream, guarded(CORRECTS, upstream=upstream.root) as gate:
        first = told(*thinks(LOVELY), *says("Look, a purple teapot!"))
        then = told(*thinks("I"), finish="length")
        upstream.answer(lambda request: then if "continue_final_message" in request else first)
        kept = len(thinks(LOVELY))
        reply = gate.stream(PROMPT, max_tokens=kept)
        assert upstream.requests[-1]["max_tokens"] == 1
        assert reply.finish_reason == "length"
        assert b"teapot" not in reply.raw


def png(colour: str) -> str:
    data = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_the_same_image_goes_upstream_again(stream: bool, restart: bool) -> None:
    parts = [
        {"type": "text", "text": PROMPT},
        {"type": "image_url", "image_url": {"url": png("teal")}},
    ]
    history = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": png("red")}}]},
        {"role": "assistant", "content": "A red one."},
        {"role": "user", "content": parts},
    ]
    with guarded(CORRECTS, [AT_ONCE], wrap_empty_think=restart) as gate:
        _, said, action, _ = reply_of(gate, stream=stream, messages=history)
        assert (said, action) == ("You are kind.", "correct")
        first, second = gate.asked
        asked = [m for m in second["messages"] if m["role"] == "user"]
        assert asked == [m for m in first["messages"] if m["role"] == "user"]
        for message, colour in zip(asked, [(255, 0, 0), (0, 128, 128)], strict=True):
            url = message["content"][-1]["image_url"]["url"]
            pixels = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
            assert pixels.convert("RGB").getpixel((0, 0)) == colour
