"""The rest of chat completions: log probabilities, usage, where thinking is shown, limits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.gateway.harness import (
    BREAD,
    KEPT,
    KETTLE,
    LATE,
    MODEL,
    REFUSAL,
    RULES,
    SLIDE,
    THOUGHT,
    Guarded,
    Streamed,
    assert_openai_error,
    guarded,
)
from tests.gateway.scripted import ANOTHER, Scripted, Step, says, scripted, thinks, told

NEVER = (b"teapot", b"pours", b"pouring")
THINKING = "A letter needs a date and a name. "
SLIDES = [*thinks(f"{THINKING}Now a purple teapot comes."), *says("It pours.")]
SAVED = [*thinks("I stay honest."), *says("Dear reader!")]
LATES = [*thinks("Said easily."), *says("What a lovely day it is today. Look, a purple teapot!")]


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Guarded, Scripted]]:
    with scripted() as upstream, guarded(upstream=upstream.root) as gate:
        yield gate, upstream


def corrected(first: Step, then: Step) -> Any:
    return lambda request: then if request.get("continue_final_message") else first


# --- log probabilities ------------------------------------------------------------------------


def tokens(reply: Streamed) -> list[str]:
    """Of the entries in a streamed reply."""
    shown = [choice["logprobs"] for choice in reply.choices]
    return [entry["token"] for one in shown if one for entry in one["content"]]


def both_ways(gate: Guarded, **fields: Any) -> Iterator[tuple[bytes, list[str], str]]:
    """The raw reply, its entries' tokens, and all its text: streamed, and in one piece."""
    reply = gate.stream(BREAD.prompt, **fields)
    reply.check_whole()
    yield reply.raw, tokens(reply), reply.text("reasoning") + reply.text("content")
    whole = gate.post(BREAD.prompt, **fields)
    (choice,) = whole.json()["choices"]
    entries = [entry["token"] for entry in choice["logprobs"]["content"]]
    message = choice["message"]
    yield whole.content, entries, (message["reasoning"] or "") + (message["content"] or "")


def test_log_probabilities_come_with_their_text(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    said = [*thinks("I list the steps."), *says("First, mix. Then bake it.")]
    upstream.answer(lambda _: told(*said, logprobs=True))
    for raw, entries, text in both_ways(gate, logprobs=True):
        assert "".join(entries) == text == "I list the steps.First, mix. Then bake it."
        assert ANOTHER.encode() not in raw
    assert upstream.requests[0]["logprobs"] is True
    entry = gate.post(BREAD.prompt, logprobs=True).json()["choices"][0]["logprobs"]["content"][0]
    assert (entry["token"], entry["logprob"], entry["bytes"]) == ("I", -0.25, [73])


def test_who_asks_for_no_log_probabilities_gets_none(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    upstream.answer(lambda _: told(*says("First, mix."), logprobs=True))
    assert tokens(gate.stream(BREAD.prompt)) == []
    assert gate.post(BREAD.prompt).json()["choices"][0]["logprobs"] is None


def test_held_text_shows_in_no_log_probability(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    upstream.answer(lambda _: told(*LATES, logprobs=True))
    for raw, entries, text in both_ways(gate, logprobs=True):
        assert b"teapot" not in raw
        assert b"Look" not in raw
        assert text == "Said easily." + "".join(entries)[12:] + f"\n\n{REFUSAL}"
    upstream.answer(corrected(told(*SLIDES, logprobs=True), told(*SAVED, logprobs=True)))
    for raw, entries, text in both_ways(gate, logprobs=True):
        assert b"teapot" not in raw
        assert b"Now" not in raw
        assert "".join(entries) == text.replace("\n", "")  # the line break is ours


def test_hidden_thinking_has_no_log_probabilities(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    upstream.answer(lambda _: told(*thinks("I list the steps."), *says("Mix."), logprobs=True))
    for _, entries, text in both_ways(gate, logprobs=True, include_reasoning=False):
        assert "".join(entries) == text == "Mix."


def test_alternatives_are_for_policies_that_allow_them(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    upstream.answer(lambda _: told(*says("First, mix."), logprobs=True))
    reply = gate.post(BREAD.prompt, logprobs=True, top_logprobs=2)
    assert "top_logprobs" in assert_openai_error(reply, 400, "unsupported_parameter")
    assert not upstream.requests
    policy = {**RULES, "reply": {"top_logprobs": "allow"}}
    with guarded(policy, upstream=upstream.root) as allowing:
        choice = allowing.post(BREAD.prompt, logprobs=True, top_logprobs=2).json()["choices"][0]
        assert upstream.requests[-1]["top_logprobs"] == 2
    shown = [
        alternative["token"] for alternative in choice["logprobs"]["content"][0]["top_logprobs"]
    ]
    assert shown == ["First", ANOTHER]


# --- usage ------------------------------------------------------------------------------------

CONTINUOUS = {"include_usage": True, "continuous_usage_stats": True}


@pytest.mark.parametrize("kind", ["benign", "corrected", "refused"])
def test_continuous_usage_stands_on_every_chunk_and_grows_to_the_total(
    both: tuple[Guarded, Scripted], kind: str
) -> None:
    gate, upstream = both
    benign = [*thinks("I list the steps."), *says("First, mix. Then bake it.")]
    first = {"benign": benign, "corrected": SLIDES, "refused": LATES}[kind]
    upstream.answer(corrected(told(*first), told(*SAVED, prompt=99)))
    reply = gate.stream(BREAD.prompt, stream_options=CONTINUOUS)
    reply.check_whole()
    assert reply.events[-1]["choices"] == []
    usages = [event["usage"] for event in reply.events]
    assert {usage["prompt_tokens"] for usage in usages} == {7}
    counts = [usage["completion_tokens"] for usage in usages]
    assert all(one <= other for one, other in pairwise(counts))
    assert all(usage["total_tokens"] == 7 + usage["completion_tokens"] for usage in usages)
    assert usages[-1] == usages[-2]  # the finish chunk has the total already
    shown = {
        "benign": len(benign),
        "corrected": len(thinks(THINKING.strip())) + len(SAVED),
        "refused": len(thinks("Said easily.")) + len(says("What a lovely day it is today.")),
    }[kind]
    assert counts[-1] == shown


def test_only_the_last_chunk_has_usage_otherwise(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    upstream.answer(lambda _: told(*says("First, mix. Then bake it.")))
    plain = gate.stream(BREAD.prompt)
    assert not [event for event in plain.events if "usage" in event]
    counted = gate.stream(BREAD.prompt, stream_options={"include_usage": True})
    assert [event for event in counted.events if "usage" in event] == [counted.events[-1]]
    alone = gate.post(BREAD.prompt, stream=True, stream_options={"continuous_usage_stats": True})
    if alone.status_code == 200:  # as vLLM: nothing without include_usage
        assert b'"usage"' not in alone.content


# --- where thinking is shown ------------------------------------------------------------------

BLOCK = re.compile(r"<think>\n?(.*?)\n?</think>\n*(.*)", re.DOTALL)


def shown(gate: Guarded, prompt: str, *, stream: bool) -> tuple[str, str, bytes]:
    """(reasoning, content, raw) of a reply."""
    if stream:
        reply = gate.stream(prompt)
        reply.check_whole()
        return reply.text("reasoning"), reply.text("content"), reply.raw
    whole = gate.post(prompt)
    message = whole.json()["choices"][0]["message"]
    return message["reasoning"] or "", message["content"], whole.content


def one_block(content: str) -> tuple[str, str]:
    """(thinking, answer) of inline text with exactly one block."""
    assert content.count("<think>") == content.count("</think>") == 1, content
    found = BLOCK.fullmatch(content)
    assert found, content
    return found[1].strip(), found[2]


EMITS = ["upstream", "field", "inline", "hidden"]


@pytest.fixture(
    scope="module",
    params=[(emit, field) for emit in EMITS for field in ("reasoning", "inline")],
    ids=lambda param: f"{param[0]} of {param[1]}",
)
def emitting(request: pytest.FixtureRequest) -> Iterator[tuple[Guarded, str]]:
    """A gateway, and where it shows thinking: `field`, `inline` or `hidden`."""
    emit, field = request.param
    policy = {**RULES, "reasoning": {"emit": emit}}
    where = emit if emit != "upstream" else "inline" if field == "inline" else "field"
    with guarded(policy, reasoning_field=field) as gate:
        yield gate, where


def split(where: str, reasoning: str, content: str) -> tuple[str, str]:
    """(thinking, answer) as a reader sees them."""
    if where == "inline":
        assert reasoning == ""
        return one_block(content)
    assert "think>" not in reasoning + content
    return reasoning.strip(), content.lstrip("\n")


@pytest.mark.parametrize("stream", [True, False])
def test_benign_thinking_stands_where_the_policy_says(
    emitting: tuple[Guarded, str], stream: bool
) -> None:
    gate, where = emitting
    reasoning, content, _ = shown(gate, BREAD.prompt, stream=stream)
    thought, answer = split(where, reasoning, content)
    assert thought == ("" if where == "hidden" else (BREAD.reasoning or "").strip())
    assert answer == (BREAD.answer or "").lstrip("\n")


@pytest.mark.parametrize("stream", [True, False])
def test_corrected_thinking_is_one_clean_block(emitting: tuple[Guarded, str], stream: bool) -> None:
    gate, where = emitting
    reasoning, content, raw = shown(gate, SLIDE.prompt, stream=stream)
    thought, answer = split(where, reasoning, content)
    went_on = "Pouring would not help anybody here. I stay with the honest letter."
    assert thought == ("" if where == "hidden" else f"{KEPT} {went_on}")
    assert answer == "Dear reader!"
    assert THOUGHT.encode() not in raw
    assert not [word for word in NEVER if word in raw]


@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_stands_outside_of_the_thinking(
    emitting: tuple[Guarded, str], stream: bool
) -> None:
    gate, where = emitting
    reasoning, content, raw = shown(gate, LATE.prompt, stream=stream)
    thought, answer = split(where, reasoning, content)
    assert thought == ("" if where == "hidden" else (LATE.reasoning or "").strip())
    assert answer == f"What a lovely day it is today.\n\n{REFUSAL}"
    assert not [word for word in NEVER if word in raw]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("field", ["reasoning", "inline"])
@pytest.mark.parametrize("emit", EMITS)
def test_thinking_that_is_refused_is_closed_before_the_refusal(
    emit: str, field: Any, stream: bool
) -> None:
    policy = {
        **RULES,
        "reasoning": {"emit": emit},
        "scenarios": {"default": {"input": "flag", "reasoning": "refuse", "answer": "refuse"}},
    }
    where = emit if emit != "upstream" else "inline" if field == "inline" else "field"
    with guarded(policy, reasoning_field=field) as gate:
        reasoning, content, raw = shown(gate, SLIDE.prompt, stream=stream)
        thought, answer = split(where, reasoning, content)
        assert thought == ("" if where == "hidden" else KEPT)
        assert answer == REFUSAL
        assert not [word for word in NEVER if word in raw]
        if emit != "hidden":  # a request that is refused thinks nothing
            policy_ = {**RULES, "reasoning": {"emit": emit}}
            with guarded(policy_, reasoning_field=field) as other:
                assert shown(other, KETTLE.prompt, stream=stream)[:2] == ("", REFUSAL)


@pytest.mark.parametrize("field", ["reasoning", "inline"])
def test_a_safety_thought_is_shown_inside_of_the_block(field: Any) -> None:
    for emit in EMITS:
        policy = {**RULES, "reasoning": {"emit": emit}, "correction": {"show_thought": True}}
        with guarded(policy, reasoning_field=field) as gate:
            reasoning, content, raw = shown(gate, SLIDE.prompt, stream=True)
            where = emit if emit != "upstream" else "inline" if field == "inline" else "field"
            thought, answer = split(where, reasoning, content)
            assert (
                (thought == "") if where == "hidden" else thought.startswith(f"{KEPT}\n{THOUGHT}")
            )
            assert answer == "Dear reader!"
            assert (THOUGHT.encode() in raw) == (where != "hidden")


def test_thinking_that_ends_without_an_answer_is_closed_inline() -> None:
    with scripted() as upstream:
        policy = {**RULES, "reasoning": {"emit": "inline"}}
        with guarded(policy, upstream=upstream.root) as gate:
            upstream.answer(lambda _: told(*thinks("I list the steps."), finish="length"))
            for stream in (True, False):
                reasoning, content, _ = shown(gate, BREAD.prompt, stream=stream)
                assert (reasoning, content.strip()) == ("", "<think>\nI list the steps.\n</think>")


# --- limits and passengers --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_correction_spends_from_the_clients_budget(
    both: tuple[Guarded, Scripted], name: str
) -> None:
    gate, upstream = both
    upstream.answer(corrected(told(*SLIDES), told(*SAVED)))
    for stream in (True, False):
        upstream.requests.clear()
        gate.post(BREAD.prompt, stream=stream, **{name: 100})
        first, second = upstream.requests
        kept = len(thinks(THINKING.strip()))
        assert (first[name], second[name]) == (100, 100 - kept)
        assert not {"max_tokens", "max_completion_tokens"} - {name} & first.keys()


def test_a_stop_string_ends_a_corrected_answer_too(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    saved = [*thinks("I stay honest and STOP."), *says("Dear reader! STOP here.")]
    upstream.answer(corrected(told(*SLIDES), told(*saved)))
    for stream in (True, False):
        upstream.requests.clear()
        reply = gate.post(BREAD.prompt, stream=stream, stop=["STOP"])
        assert b"here" not in reply.content
        assert not [request for request in upstream.requests if "stop" in request]
    choice = reply.json()["choices"][0]
    assert choice["message"]["content"] == "Dear reader! "
    assert choice["message"]["reasoning"].endswith("I stay honest and STOP.")
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "STOP")


def test_what_only_shapes_the_reply_goes_upstream_on_every_leg(
    both: tuple[Guarded, Scripted],
) -> None:
    gate, upstream = both
    schema = {"name": "letter", "schema": {"type": "object", "properties": {}}}
    fields = {
        "seed": 11,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": schema},
        "temperature": 0.3,
        "top_p": 0.9,
        "top_k": 5,
        "presence_penalty": 0.1,
    }
    upstream.answer(corrected(told(*SLIDES), told(*SAVED)))
    for stream in (True, False):
        upstream.requests.clear()
        gate.post(BREAD.prompt, stream=stream, **fields)
        assert len(upstream.requests) == 2
        for request in upstream.requests:
            assert {name: request[name] for name in fields} == fields


def test_a_harmful_schema_is_refused(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    upstream.answer(lambda _: told(*says("{}")))
    schema = {"name": "x", "schema": {"type": "object", "description": "A crimson kettle"}}
    form = {"type": "json_schema", "json_schema": schema}
    reply = gate.post(BREAD.prompt, response_format=form).json()
    assert reply["choices"][0]["message"]["refusal"] == REFUSAL


# --- refusals as the official client reads them -----------------------------------------------


class Letter(BaseModel):
    """What a client has the reply parsed into."""

    greeting: str


@pytest.mark.parametrize("prompt", [KETTLE.prompt, BREAD.prompt])
def test_a_refusal_is_no_parsed_answer(both: tuple[Guarded, Scripted], prompt: str) -> None:
    gate, upstream = both
    upstream.answer(lambda _: told(*says('{"greeting": "Dear purple teapot! It pours."}')))
    messages: Any = [{"role": "user", "content": prompt}]
    completions = gate.client.chat.completions
    with pytest.raises(openai.ContentFilterFinishReasonError):
        completions.parse(model=MODEL, messages=messages, response_format=Letter)
    with completions.stream(model=MODEL, messages=messages, response_format=Letter) as stream:
        with pytest.raises(openai.ContentFilterFinishReasonError):
            stream.get_final_completion()
    with completions.stream(model=MODEL, messages=messages) as plain:
        said = [event for event in plain if event.type == "refusal.done"]
        with pytest.raises(openai.ContentFilterFinishReasonError):
            plain.get_final_completion()
    assert [event.refusal for event in said] == [REFUSAL]


def test_a_parsed_answer_comes_through(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    upstream.answer(lambda _: told(*says('{"greeting": "Dear reader!"}')))
    messages: Any = [{"role": "user", "content": BREAD.prompt}]
    completions = gate.client.chat.completions
    parsed = completions.parse(model=MODEL, messages=messages, response_format=Letter)
    assert parsed.choices[0].message.parsed == Letter(greeting="Dear reader!")
    with completions.stream(model=MODEL, messages=messages, response_format=Letter) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == Letter(
            greeting="Dear reader!"
        )
    assert json.loads(json.dumps(upstream.requests[0]["response_format"]))["type"] == "json_schema"
