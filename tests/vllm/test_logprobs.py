"""Log probabilities: of what is delivered, and of nothing else."""

from __future__ import annotations

import pytest
from openai import BadRequestError

from tests.vllm.asking import GARDEN, MARKER, PLAIN, body, streamed, whole
from tests.vllm.conftest import Asked, Guarding, policy

pytestmark = pytest.mark.vllm

CONTROL = {"<think>", "</think>", "<|im_end|>"}


def tokens_of(asked: Asked) -> list[str]:
    """What vLLM tells, control tokens too."""
    told = [choice.get("logprobs") for event in asked.events for choice in event["choices"]]
    return [entry["token"] for logprobs in told if logprobs for entry in logprobs["content"]]


def test_they_are_the_delivered_text(guarding: Guarding) -> None:
    gate = guarding(policy())
    reply = streamed(gate.url, body(PLAIN, logprobs=True))
    text = reply.thought() + reply.content()
    assert "".join(reply.tokens) == text
    (asked,) = gate.seen
    told = tokens_of(asked)
    assert "<think>" in told, "vLLM tells of the tags that its parser took out"
    assert not CONTROL & set(reply.tokens)

    logprobs = whole(gate.url, body(PLAIN, logprobs=True)).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == reply.tokens
    assert all(not entry.top_logprobs for entry in logprobs.content)


def test_nothing_is_told_of_a_thought_that_was_cut(guarding: Guarding) -> None:
    gate = guarding(policy())
    reply = streamed(gate.url, body(GARDEN, logprobs=True))
    first, resumed = gate.seen
    assert MARKER in "".join(tokens_of(first))
    told = "".join(reply.tokens)
    assert reply.guard()["action"] == "correct"
    assert MARKER not in told
    assert told.split() == (reply.thought() + reply.content()).split()
    own = [token for token in tokens_of(resumed) if token not in CONTROL]
    assert reply.tokens[-len(own) :] == own, "of the resumed leg as of the first"
    assert len(reply.tokens) > len(own)
    assert resumed.body["logprobs"] is True


def test_nothing_is_told_of_a_refused_answer(guarding: Guarding) -> None:
    answer = streamed(guarding(policy()).url, body(PLAIN)).content()
    gate = guarding(policy(marker=answer.strip(), stages=("answer",)))
    reply = streamed(gate.url, body(PLAIN, logprobs=True))
    (asked,) = gate.seen
    assert answer.strip() in "".join(tokens_of(asked))
    assert reply.finish() == "content_filter"
    assert "".join(reply.tokens).strip() == reply.thought().strip()


def test_alternatives_are_for_the_policy_to_allow(guarding: Guarding) -> None:
    gate = guarding(policy())
    with pytest.raises(BadRequestError) as refused:
        whole(gate.url, body(PLAIN, logprobs=True, top_logprobs=2))
    assert (refused.value.param, gate.seen) == ("top_logprobs", [])

    gate = guarding(policy(more={"reply": {"top_logprobs": "allow"}}))
    logprobs = whole(gate.url, body(PLAIN, logprobs=True, top_logprobs=2)).choices[0].logprobs
    assert logprobs is not None
    assert all(len(entry.top_logprobs) == 2 for entry in logprobs.content or ())
