"""Several choices: one upstream request each, merged under one id, each judged by itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from monitors.judges.base import Passage, Verdict
from tests.gateway.harness import (
    BREAD,
    KETTLE,
    MODEL,
    REFUSAL,
    RULES,
    FakeJudge,
    Guarded,
    assert_error_body,
    assert_openai_error,
    guarded,
    metric,
)
from tests.gateway.scripted import (
    Scripted,
    Step,
    body,
    chunk,
    event,
    head,
    says,
    scripted,
    thinks,
    told,
)

FIRST = told(*thinks("I list the steps."), *says("First, mix."))
SECOND = told(*thinks("I count the grams."), *says("Take 500 g of flour."))
SLIDES = told(
    *thinks("A letter needs a date and a name. Now a purple teapot comes."), *says("It pours.")
)
SAVED = told(*thinks("I stay honest."), *says("Dear reader!"))
LATE = told(
    *thinks("Said easily."),
    *says("What a lovely day it is today. Look, a purple teapot! It pours."),
)
BAD = told(*thinks("The crimson kettle it is."), *says("It boils."))

SAID = [
    ("I list the steps.", "First, mix."),
    ("I count the grams.", "Take 500 g of flour."),
    ("I list the steps.", "First, mix."),
]


def by_seed(*replies: Step, resumed: Step = SAVED) -> Any:
    """Each choice its own reply; a corrected one goes on with `resumed`."""

    def reply(request: dict[str, Any]) -> Step:
        return resumed if request.get("continue_final_message") else replies[request["seed"] - 7]

    return reply


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Guarded, Scripted]]:
    with scripted() as upstream, guarded(upstream=upstream.root) as gate:
        yield gate, upstream


def asked(upstream: Scripted) -> list[dict[str, Any]]:
    """The requests, by seed."""
    return sorted(upstream.requests, key=lambda request: int(request["seed"]))


def test_choices_are_merged_under_one_id(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    upstream.answer(by_seed(FIRST, SECOND, FIRST))
    options = {"include_usage": True}
    reply = gate.stream(BREAD.prompt, n=3, seed=7, stream_options=options)
    reply.check_whole()
    for index, said in enumerate(("First, mix.", "Take 500 g of flour.", "First, mix.")):
        choice = reply.of(index)
        assert choice.choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert [c["delta"].get("role") for c in choice.choices].count("assistant") == 1
        assert choice.text("content") == said
        assert choice.finish_reason == "stop"
        assert choice.guard == {"action": "allow", "id": reply.request_id}
    (usage,) = [event["usage"] for event in reply.events if not event["choices"]]
    counts = [len(thinks(t)) + len(says(s)) for t, s in SAID]
    assert usage["prompt_tokens"] == 7
    assert usage["completion_tokens"] == sum(counts)
    assert usage["total_tokens"] == 7 + sum(counts)


def test_choices_in_one_piece_have_one_usage_and_a_guard_each(
    both: tuple[Guarded, Scripted],
) -> None:
    gate, upstream = both
    upstream.answer(by_seed(FIRST, SECOND))
    reply = gate.post(BREAD.prompt, n=2, seed=7)
    whole = reply.json()
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    messages = [choice["message"] for choice in whole["choices"]]
    assert [(m["reasoning"], m["content"]) for m in messages] == SAID[:2]
    counts = [len(thinks(t)) + len(says(s)) for t, s in SAID[:2]]
    assert whole["usage"]["prompt_tokens"] == 7
    assert whole["usage"]["completion_tokens"] == sum(counts)
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == sum(
        len(thinks(thought)) for thought, _ in SAID[:2]
    )
    own = {"action": "allow", "id": reply.headers["x-guard-request-id"]}
    assert whole["guard"] == {**own, "choices": [own, own]}


def test_the_upstream_never_sees_n_and_gets_a_seed_for_each(
    both: tuple[Guarded, Scripted],
) -> None:
    gate, upstream = both
    upstream.answer(by_seed(FIRST, SECOND, FIRST))
    gate.post(BREAD.prompt, n=3, seed=7, temperature=0.5)
    requests = asked(upstream)
    assert [request.pop("seed") for request in requests] == [7, 8, 9]
    assert requests[0] == requests[1] == requests[2]
    assert "n" not in requests[0]
    upstream.answer(lambda _: FIRST)
    gate.post(BREAD.prompt, n=2)
    assert len(upstream.requests) == 2
    assert not [request for request in upstream.requests if {"n", "seed"} & request.keys()]


@pytest.mark.parametrize("stream", [True, False])
def test_one_choice_is_corrected_and_the_other_is_not_touched(
    both: tuple[Guarded, Scripted], stream: bool
) -> None:
    gate, upstream = both
    upstream.answer(by_seed(FIRST, SLIDES))
    if stream:
        reply = gate.stream(BREAD.prompt, n=2, seed=7)
        reply.check_whole()
        one, two = reply.of(0), reply.of(1)
        said = [(c.text("reasoning"), c.text("content")) for c in (one, two)]
        actions = [c.guard["action"] for c in (one, two)]
        raw = reply.raw
    else:
        whole = gate.post(BREAD.prompt, n=2, seed=7)
        assert whole.headers["x-guard-action"] == whole.json()["guard"]["action"] == "correct"
        messages = [choice["message"] for choice in whole.json()["choices"]]
        said = [(message["reasoning"], message["content"]) for message in messages]
        actions = [guard["action"] for guard in whole.json()["guard"]["choices"]]
        raw = whole.content
    assert said == [SAID[0], ("A letter needs a date and a name.\nI stay honest.", "Dear reader!")]
    assert actions == ["allow", "correct"]
    assert b"teapot" not in raw
    resumed = [r for r in upstream.requests if r.get("continue_final_message")]
    assert [r["seed"] for r in resumed] == [8]


@pytest.mark.parametrize("stream", [True, False])
def test_one_choice_is_refused_and_the_other_is_not_touched(
    both: tuple[Guarded, Scripted], stream: bool
) -> None:
    gate, upstream = both
    upstream.answer(by_seed(LATE, BAD))
    if stream:
        reply = gate.stream(BREAD.prompt, n=2, seed=7)
        reply.check_whole()
        said = [reply.of(index).text("content") for index in (0, 1)]
        ends = [reply.of(index).finish_reason for index in (0, 1)]
        actions = [reply.of(index).guard["action"] for index in (0, 1)]
        raw = reply.raw
    else:
        whole = gate.post(BREAD.prompt, n=2, seed=7)
        choices = whole.json()["choices"]
        said = [choice["message"]["content"] for choice in choices]
        assert [choice["message"]["refusal"] for choice in choices] == [REFUSAL, REFUSAL]
        ends = [choice["finish_reason"] for choice in choices]
        actions = [guard["action"] for guard in whole.json()["guard"]["choices"]]
        raw = whole.content
    assert said == [f"What a lovely day it is today.\n\n{REFUSAL}", REFUSAL]
    assert ends == ["content_filter", "content_filter"]
    assert actions == ["refuse", "refuse"]
    assert b"teapot" not in raw
    assert b"kettle" not in raw


def test_the_strongest_action_of_the_choices_is_the_replys(
    both: tuple[Guarded, Scripted],
) -> None:
    gate, upstream = both
    upstream.answer(by_seed(SLIDES, BAD, FIRST))
    whole = gate.post(BREAD.prompt, n=3, seed=7)
    guard = whole.json()["guard"]
    assert [own["action"] for own in guard["choices"]] == ["correct", "refuse", "allow"]
    assert guard["action"] == whole.headers["x-guard-action"] == "refuse"
    ends = [choice["finish_reason"] for choice in whole.json()["choices"]]
    assert ends == ["stop", "content_filter", "stop"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_choice_that_fails_before_any_text_is_the_replys_status(
    both: tuple[Guarded, Scripted], stream: bool
) -> None:
    gate, upstream = both
    never = threading.Event()
    broken = body({"error": {"message": "slow down", "code": 429}}, 429)

    def reply(request: dict[str, Any]) -> list[Step]:
        return [head(), never] if request["seed"] == 7 else [broken]

    upstream.answer(reply)
    reply_ = gate.post(BREAD.prompt, n=2, seed=7, stream=stream)
    assert_openai_error(reply_, 429, "rate_limit_exceeded")
    assert upstream.dropped.wait(5), "the other generation goes on"


def test_a_choice_that_fails_in_mid_stream_ends_the_reply_and_the_other_generation(
    both: tuple[Guarded, Scripted],
) -> None:
    gate, upstream = both
    never, both_begun = threading.Event(), threading.Event()
    begun = [chunk(role="assistant", content=""), chunk(content="It begins well. And ")]
    failure = event({"error": {"message": "out of memory", "type": "x", "code": 500}})

    def reply(request: dict[str, Any]) -> list[Step]:
        if request["seed"] == 7:
            return [head(), *begun, never]
        return [head(), *begun, both_begun, failure]

    upstream.answer(reply)
    seen: set[int] = set()
    lines: list[str] = []
    with gate.open(BREAD.prompt, n=2, seed=7) as open_reply:
        for line in open_reply.iter_lines():
            lines.append(line)
            seen |= {index for index in (0, 1) if f'"index":{index},"delta":{{"content"' in line}
            if seen == {0, 1}:
                both_begun.set()
    last = [line for line in lines if line][-1]
    assert_error_body(json.loads(last.removeprefix("data: ")))
    assert "out of memory" not in last
    assert not [line for line in lines if "[DONE]" in line]
    assert upstream.dropped.wait(5), "the other generation goes on"
    request_id = open_reply.headers["x-guard-request-id"]
    assert gate.outcome(f"{request_id}.1").ended == "failed"
    assert gate.outcome(request_id).ended == "left"


def test_a_choice_that_fails_late_fails_a_reply_in_one_piece(
    both: tuple[Guarded, Scripted],
) -> None:
    gate, upstream = both
    broken = b"".join([head(), chunk(content="It begins well. "), b"data: nonsense\n\n"])
    upstream.answer(by_seed(FIRST, broken))
    assert_openai_error(gate.post(BREAD.prompt, n=2, seed=7), 502)


@pytest.mark.parametrize("n", [1, 3])
def test_the_input_is_judged_once_for_all_choices(n: int) -> None:
    seen: list[str] = []

    def verdict(passage: Passage) -> Verdict:
        seen.append(passage.text)
        return Verdict(0.0, "fake")

    with scripted() as upstream, guarded(judge=FakeJudge(verdict), upstream=upstream.root) as gate:
        upstream.answer(lambda _: FIRST)
        gate.stream(BREAD.prompt, n=n, seed=7).check_whole()
    assert seen.count(BREAD.prompt) == 1
    assert seen.count("I list the steps. First, mix.") == n  # a short step leads into the next


@pytest.mark.parametrize("stream", [True, False])
def test_a_refused_request_for_several_choices_is_one_400(stream: bool) -> None:
    policy = {**RULES, "input": {"refuse_as": "error"}}
    with guarded(policy) as gate:
        before = metric(gate.root, "mlrm_guard_requests_total")
        reply = gate.post(KETTLE.prompt, n=2, stream=stream)
        assert assert_openai_error(reply, 400, "content_policy_violation") == REFUSAL
        assert reply.headers["x-guard-action"] == "refuse"
        assert metric(gate.root, "mlrm_guard_requests_total") == before + 1


def test_a_refused_request_for_several_choices_is_a_refusal_in_each(
    both: tuple[Guarded, Scripted],
) -> None:
    gate, upstream = both
    upstream.answer(lambda _: FIRST)
    reply = gate.stream(KETTLE.prompt, n=2)
    reply.check_whole()
    assert [reply.of(index).text("content") for index in (0, 1)] == [REFUSAL, REFUSAL]
    assert [reply.of(index).guard["action"] for index in (0, 1)] == ["refuse", "refuse"]


def test_the_official_client_reads_several_choices(both: tuple[Guarded, Scripted]) -> None:
    gate, upstream = both
    upstream.answer(by_seed(FIRST, LATE))
    messages: Any = [{"role": "user", "content": BREAD.prompt}]
    create = gate.client.chat.completions.create
    whole = create(model=MODEL, messages=messages, n=2, seed=7)
    assert [choice.message.refusal for choice in whole.choices] == [None, REFUSAL]
    ends: dict[int, str] = {}
    for part in create(model=MODEL, messages=messages, n=2, seed=7, stream=True):
        ends |= {c.index: c.finish_reason for c in part.choices if c.finish_reason}
    assert ends == {0: "stop", 1: "content_filter"}
