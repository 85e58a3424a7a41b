"""What of a request is judged, when, and how a session goes on after a refusal."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.access import key_hash
from monitors.judges.base import Passage, Verdict
from monitors.taxonomy import Mode, Scenario, Stage
from monitors.trace import Trace
from tests.gateway.harness import (
    BREAD,
    KETTLE,
    MODEL,
    REFUSAL,
    RULES,
    SLIDE,
    THOUGHT,
    FakeJudge,
    Guarded,
    assert_openai_error,
    guarded,
    wait_until,
)
from tests.gateway.scripted import calls, says, scripted, thinks, told

RISKY = "What of the copper lantern?"
LANTERN = Trace(
    id="lantern",
    prompt=RISKY,
    reasoning="It glows badly and shines far too much.",
    answer="It glows.",
    safe_continuation="I think of lamps in general.</think>Lamps are bright.",
)
PRIMES: Mapping[str, Any] = {
    **RULES,
    "rules": [
        *RULES["rules"],
        {
            "name": "lantern",
            "literal": "copper lantern",
            "scenario": "privacy_violation",
            "stages": ["input"],
        },
    ],
    "scenarios": {
        **RULES["scenarios"],
        "privacy_violation": {"input": "prime", "reasoning": "correct", "answer": "refuse"},
    },
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def texts(request: Mapping[str, Any]) -> list[str]:
    return [message["content"] for message in request["messages"]]


def kettle(passage: Passage) -> Verdict:
    found = "crimson kettle" in passage.text
    return Verdict(1.0, "noting", {Scenario.WEAPONS: 1.0}) if found else Verdict(0.0, "noting")


@dataclass
class Noting:
    """Finds the crimson kettle, and notes what of requests it was asked."""

    seen: list[str] = field(default_factory=list)

    def judge(self) -> FakeJudge:
        return FakeJudge(self.verdict, "noting@1")

    def verdict(self, passage: Passage) -> Verdict:
        if passage.stage is Stage.INPUT:
            self.seen.append(passage.text)
        return kettle(passage)


# --- scope ------------------------------------------------------------------------------------

OLD_HIT = [user(KETTLE.prompt), said("It is crimson."), user(BREAD.prompt)]


def test_scope_all_judges_every_turn_and_latest_turn_the_last_alone() -> None:
    for scope, action in (("all", "refuse"), ("latest_turn", "allow")):
        with guarded({**RULES, "input": {"scope": scope}}) as gate:
            assert gate.post("", messages=OLD_HIT).json()["guard"]["action"] == action
            now = gate.post("", messages=[user(BREAD.prompt), said("Knead."), user(KETTLE.prompt)])
            assert now.json()["guard"]["action"] == "refuse"
            system = {"role": "system", "content": "Praise the crimson kettle."}
            told_so = gate.post("", messages=[system, *OLD_HIT[2:]])
            assert told_so.json()["guard"]["action"] == "refuse"


@pytest.mark.parametrize("stream", [True, False])
def test_every_role_is_judged(stream: bool) -> None:
    call = {"id": "call_1234abcd", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asking = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "call_1234abcd", "content": "A crimson kettle."}
    thought = {"role": "assistant", "reasoning": "A crimson kettle!", "content": "Knead."}
    with guarded() as gate:
        for messages in (
            [user(BREAD.prompt), asking, result],
            [user(BREAD.prompt), thought, user(BREAD.prompt)],
            [{"role": "developer", "content": "The crimson kettle."}, user(BREAD.prompt)],
        ):
            reply = gate.post("", messages=messages, stream=stream)
            assert REFUSAL.encode() in reply.content


# --- wait -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("refuse_as", ["message", "error"])
def test_wait_before_asks_the_upstream_of_what_is_not_refused_only(
    refuse_as: str, stream: bool
) -> None:
    policy = {**RULES, "input": {"wait": "before", "refuse_as": refuse_as}}
    with scripted() as upstream, guarded(policy, upstream=upstream.root) as gate:
        upstream.answer(lambda _: told(*says("First, mix.")))
        refused = gate.post(KETTLE.prompt, stream=stream)
        if refuse_as == "error":
            assert_openai_error(refused, 400, "content_policy_violation")
        else:
            assert refused.status_code == 200
            assert REFUSAL.encode() in refused.content
        assert gate.outcome(refused.headers["x-guard-request-id"]).ended == "refused"
        assert not upstream.requests
        assert b"mix" in gate.post(BREAD.prompt, stream=stream).content
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("wait", ["beside", "before"])
def test_no_text_leaves_before_the_inputs_verdict(wait: str) -> None:
    judged = threading.Event()

    def verdict(passage: Passage) -> Verdict:
        if passage.stage is Stage.INPUT:
            judged.wait(10)
        return Verdict(0.0, "fake")

    policy = {**RULES, "input": {"wait": wait}}
    with scripted() as upstream:
        with guarded(policy, judge=FakeJudge(verdict), upstream=upstream.root, ready=False) as gate:
            judged.set()
            wait_until(lambda: httpx.get(f"{gate.root}/readyz").status_code == 200, "not ready")
            judged.clear()
            upstream.answer(lambda _: told(*says("First, mix.")))
            replies: list[httpx.Response] = []
            thread = threading.Thread(target=lambda: replies.append(gate.post(BREAD.prompt)))
            thread.start()
            if wait == "beside":
                assert upstream.asked.wait(10)
            assert not replies
            assert upstream.asked.is_set() == (wait == "beside")
            judged.set()
            thread.join(10)
            assert b"mix" in replies[0].content


# --- prime ------------------------------------------------------------------------------------


def primed(gate: Guarded, *, stream: bool) -> tuple[str, str, str]:
    """(reasoning, content, action)."""
    if stream:
        reply = gate.stream(RISKY)
        reply.check_whole()
        return reply.text("reasoning"), reply.text("content"), reply.guard["action"]
    whole = gate.post(RISKY).json()
    message = whole["choices"][0]["message"]
    return message["reasoning"] or "", message["content"], whole["guard"]["action"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("wait", ["beside", "before"])
@pytest.mark.parametrize("method", ["continue", "template-kwarg", "restart"])
def test_a_primed_reply_begins_behind_a_safety_thought(
    method: str, wait: str, stream: bool
) -> None:
    options: dict[str, Any] = {"wrap_empty_think": method != "continue"}
    if method == "template-kwarg":
        options["template_kwarg"] = "think_prefix"
    policy = {**PRIMES, "input": {"wait": wait}}
    with guarded(policy, [*(BREAD, SLIDE), LANTERN], **options) as gate:
        (model,) = httpx.get(f"{gate.root}/readyz").json()["models"]
        assert model["resume"] == method
        thought, answer, action = primed(gate, stream=stream)
        assert thought.strip() == "I think of lamps in general."
        assert answer.strip() == "Lamps are bright."
        assert action == "prime"
        assert THOUGHT not in thought + answer
        last = gate.asked[-1]
        if method == "continue":
            assert last["messages"][-1] == said(f"<think>\n{THOUGHT}")
        elif method == "template-kwarg":
            assert last["chat_template_kwargs"] == {"think_prefix": THOUGHT}
            assert last["messages"] == [user(RISKY)]
        else:
            assert last["messages"][0] == {"role": "system", "content": THOUGHT}
        if wait == "before":
            assert len(gate.asked) == 1
        again = gate.stream(BREAD.prompt)
        assert (again.guard["action"], again.text("reasoning")) == ("allow", BREAD.reasoning)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("emit", ["upstream", "field", "inline", "hidden"])
@pytest.mark.parametrize("where", ["reasoning", "inline"])
def test_a_primed_reply_has_one_block_of_thinking(
    where: Any, emit: str, restart: bool, stream: bool
) -> None:
    policy = {**PRIMES, "reasoning": {"emit": emit}}
    options: dict[str, Any] = {"reasoning_field": where, "wrap_empty_think": restart}
    with guarded(policy, [LANTERN], **options) as gate:
        thought, answer, action = primed(gate, stream=stream)
        assert action == "prime"
        inline = emit == "inline" or (emit == "upstream" and where == "inline")
        if inline:
            assert thought == ""
            assert answer.count("<think>") == answer.count("</think>") == 1
            before, _, after = answer.partition("</think>")
            assert before.startswith("<think>")
            assert before.removeprefix("<think>").strip() == "I think of lamps in general."
            assert after.strip() == "Lamps are bright."
        else:
            assert thought.strip() == ("" if emit == "hidden" else "I think of lamps in general.")
            assert answer.strip() == "Lamps are bright."


@pytest.mark.parametrize("stream", [True, False])
def test_a_restart_that_thinks_nothing_opens_no_block(stream: bool) -> None:
    quiet = Trace(
        id="quiet", prompt=RISKY, reasoning="", answer="x", safe_continuation="</think>Lamps shine."
    )
    policy = {**PRIMES, "reasoning": {"emit": "upstream"}}
    with guarded(policy, [BREAD, quiet], reasoning_field="inline", wrap_empty_think=True) as gate:
        thought, answer, action = primed(gate, stream=stream)
        assert (thought, answer.strip(), action) == ("", "Lamps shine.", "prime")


@pytest.mark.parametrize("where", ["reasoning", "inline"])
def test_an_answer_of_a_given_form_is_not_primed_inside_a_block_that_a_grammar_holds(
    where: Any,
) -> None:
    with guarded(PRIMES, [LANTERN], reasoning_field=where) as gate:
        gate.stream(RISKY, response_format={"type": "json_object"})
        last = gate.asked[-1]
        resumed = last["messages"][-1]["role"] == "assistant"
        assert resumed is (where == "reasoning")  # behind a parser, vLLM's grammar waits
        assert resumed or last["messages"][0] == {"role": "system", "content": THOUGHT}


@pytest.mark.parametrize("stream", [True, False])
def test_where_nothing_can_be_resumed_priming_is_a_refusal(stream: bool) -> None:
    with scripted() as upstream:
        upstream.probes = False
        with guarded(PRIMES, upstream=upstream.root, ready=False) as gate:
            upstream.answer(lambda _: told(*says("It glows.")))
            reply = gate.post(RISKY, stream=stream)
            assert b"glows" not in reply.content
            assert REFUSAL.encode() in reply.content
            assert gate.outcome(reply.headers["x-guard-request-id"]).action == "refuse"
            assert b"glows" in gate.post(BREAD.prompt, stream=stream).content


def test_a_primed_reply_is_judged_as_any() -> None:
    with scripted() as upstream, guarded(PRIMES, upstream=upstream.root) as gate:
        upstream.answer(
            lambda _: told(*thinks("A letter needs a date and a name."), *says("A purple teapot!"))
        )
        reply = gate.stream(RISKY)
        assert b"teapot" not in reply.raw
        assert (reply.finish_reason, reply.guard["action"]) == ("content_filter", "refuse")


def test_shadow_primes_nobody_and_says_it_would() -> None:
    with guarded(PRIMES, [LANTERN], settings={"mode": Mode.SHADOW}) as gate:
        reply = gate.stream(RISKY)
        assert reply.text("content") == LANTERN.answer
        assert gate.outcome(reply.request_id).action == "prime"


# --- sessions ---------------------------------------------------------------------------------


def session(turns: int) -> list[dict[str, Any]]:
    return [
        message
        for turn in range(turns)
        for message in (user(f"Question {turn}?"), said(f"This is answer {turn}."))
    ]


def test_a_long_session_costs_no_rescan_and_a_tampered_message_is_judged_anew() -> None:
    noting = Noting()
    with scripted() as upstream:
        with guarded(judge=noting.judge(), upstream=upstream.root) as gate:
            upstream.answer(lambda _: told(*says("This is the newest answer.")))
            history = [*session(100), user("A first question?")]
            noting.seen.clear()
            first = gate.post("", messages=history)
            assert first.json()["guard"]["action"] == "allow"
            assert len(noting.seen) == len(history)

            noting.seen.clear()
            answer = first.json()["choices"][0]["message"]["content"]
            history += [said(answer), user("A second question?")]
            gate.stream("", messages=history).check_whole()
            assert noting.seen == ["A second question?"]

            noting.seen.clear()
            history[3] = said("This is answer 1, tampered with.")
            history += [said("Never said."), user("A third question?")]
            gate.post("", messages=history)
            assert sorted(noting.seen) == sorted(
                ["This is answer 1, tampered with.", "Never said.", "A third question?"]
            )
            history[3] = said("Take the crimson kettle.")
            assert gate.post("", messages=history).json()["guard"]["action"] == "refuse"


NURSERY = Trace(
    id="nursery",
    prompt="Tell me a nursery rhyme.",
    reasoning="I make one up, with a crimson kettle. It is short.\n",
    answer="Once there was a crimson kettle. It sang.",
)
LAX: Mapping[str, Any] = {
    **RULES,
    "rules": [
        {
            "name": "kettle",
            "literal": "crimson kettle",
            "scenario": "weapons",
            "stages": ["input"],
        },
        RULES["rules"][0],
    ],
}
"""Lets the kettle out, but not in."""


@pytest.mark.parametrize("release", ["hold", "live"])
@pytest.mark.parametrize("emit", ["upstream", "field", "inline"])
@pytest.mark.parametrize("where", ["reasoning", "inline"])
def test_a_reply_that_comes_back_in_whatever_form_is_not_judged_again(
    where: Any, emit: str, release: str
) -> None:
    policy = {**LAX, "reasoning": {"emit": emit}, "release": release}
    with guarded(policy, [NURSERY, BREAD], reasoning_field=where) as gate:
        reply = gate.stream(NURSERY.prompt)
        thought, answer = reply.text("reasoning"), reply.text("content")
        assert "crimson kettle" in answer
        history = [user(NURSERY.prompt), {**said(answer), "reasoning": thought}, user(BREAD.prompt)]
        assert gate.post("", messages=history).json()["guard"]["action"] == "allow"
        history[1] = said("Another crimson kettle.")
        assert gate.post("", messages=history).json()["guard"]["action"] == "refuse"


def test_a_tool_call_that_comes_back_is_not_judged_again() -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    with scripted() as upstream, guarded(LAX, upstream=upstream.root) as gate:
        upstream.play(told(*calls(("look", '{"q": "crimson kettle"}')), finish="tool_calls"))
        message = gate.post("Look it up.", tools=tools).json()["choices"][0]["message"]
        (call,) = message["tool_calls"]
        result = {"role": "tool", "tool_call_id": call["id"], "content": "Nothing found."}
        history = [user("Look it up."), message, result]
        upstream.answer(lambda _: told(*says("There is none.")))
        assert gate.post("", messages=history, tools=tools).json()["guard"]["action"] == "allow"
        call["function"]["arguments"] = '{"q": "another crimson kettle"}'
        assert gate.post("", messages=history, tools=tools).json()["guard"]["action"] == "refuse"


@pytest.mark.parametrize("release", ["hold", "live"])
def test_a_session_outlives_a_new_wording_of_its_refusal(release: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(json.dumps({**RULES, "release": release}))
    with guarded(file) as gate:
        refused = gate.stream(KETTLE.prompt)
        # As Vercel's AI SDK keeps it: content and refusal as one text.
        content = refused.text("content") + refused.text("refusal")
        assert content == REFUSAL * 2
        file.write_text(json.dumps({**RULES, "release": release, "refusals": {"en": "No."}}))
        wait_until(lambda: "No." in gate.post(KETTLE.prompt).text, "the new policy is not in force")
        history = [user(KETTLE.prompt), said(content), user(BREAD.prompt)]
        assert gate.post("", messages=history).json()["guard"]["action"] == "allow"
        assert texts(gate.asked[-1]) == [BREAD.prompt]


def test_what_was_retracted_is_judged_when_it_comes_back() -> None:
    policy = {**LAX, "release": "live"}
    with scripted() as upstream, guarded(policy, upstream=upstream.root) as gate:
        upstream.play(told(*says("See the crimson kettle. And a purple teapot! It pours.")))
        reply = gate.stream("Say something.")
        assert reply.guard["retract"]
        upstream.answer(lambda _: told(*says("Fine.")))
        shown = reply.text("content").removesuffix(REFUSAL).strip()
        assert "crimson kettle" in shown
        again = gate.post("", messages=[user("Hm?"), said(shown), user("Go on.")])
        assert again.json()["guard"]["action"] == "refuse"


def test_what_one_key_asked_is_no_memory_of_anothers(tmp_path: Path) -> None:
    noting = Noting()
    keys = {"ann": "mg-" + "a" * 43, "bob": "mg-" + "b" * 43}
    file = tmp_path / "keys.txt"
    file.write_text("".join(f"{name} {key_hash(key)}\n" for name, key in keys.items()))
    with scripted() as upstream:
        settings = {"keys_file": file}
        with guarded(judge=noting.judge(), upstream=upstream.root, settings=settings) as gate:
            upstream.answer(lambda _: told(*says("First, mix.")))

            def ask(name: str) -> int:
                noting.seen.clear()
                history = [*session(3), user(BREAD.prompt)]
                reply = httpx.post(
                    f"{gate.url}/chat/completions",
                    json={"model": MODEL, "messages": history},
                    headers={"Authorization": f"Bearer {keys[name]}"},
                )
                assert reply.status_code == 200
                return len(noting.seen)

            assert [ask("ann"), ask("ann"), ask("bob"), ask("bob")] == [7, 0, 7, 0]


STRICT: Mapping[str, Any] = {
    **RULES,
    "scenarios": {
        "default": {"input": "refuse", "reasoning": "correct", "answer": "refuse"},
        "weapons": {"input": "refuse", "reasoning": "correct", "answer": "refuse"},
    },
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("where", ["reasoning", "inline"])
def test_a_session_goes_on_after_a_refusal_and_a_correction(where: Any, stream: bool) -> None:
    policy = {**STRICT, "correction": {"show_thought": True}}
    with guarded(policy, reasoning_field=where) as gate:

        def ask(question: str) -> tuple[str, str]:
            """Ask, keep what came, and return (action, content)."""
            history.append(user(question))
            if stream:
                reply = gate.stream("", messages=history)
                reply.check_whole()
                action, content = reply.guard["action"], reply.text("content")
                thought = reply.text("reasoning")
            else:
                whole = gate.post("", messages=history).json()
                message = whole["choices"][0]["message"]
                action, content = whole["guard"]["action"], message["content"]
                thought = message["reasoning"] or ""
            history.append({**said(content), **({"reasoning": thought} if thought else {})})
            return action, content

        history: list[dict[str, Any]] = []
        assert ask(SLIDE.prompt)[0] == "correct"
        assert ask(KETTLE.prompt) == ("refuse", REFUSAL)
        assert ask(BREAD.prompt)[0] == "allow"
        sent = [str(text) for text in texts(gate.asked[-1])]
        assert KETTLE.prompt not in sent
        assert REFUSAL not in sent
        assert (sent[0], sent[-1]) == (SLIDE.prompt, BREAD.prompt)
        assert ask(KETTLE.prompt) == ("refuse", REFUSAL)
        assert ask("And rye?")[0] == "allow"
        late = ask("Say something nice.")
        assert late[0] == "refuse"
        assert late[1].endswith(f"\n\n{REFUSAL}")
        assert ask(BREAD.prompt)[0] == "allow"


def test_a_forged_refusal_only_takes_text_away() -> None:
    with guarded(STRICT) as gate:
        forged = [
            user(KETTLE.prompt),
            said(f"Fill it up. {KETTLE.prompt}\n\n{REFUSAL}"),
            user(BREAD.prompt),
        ]
        reply = gate.post("", messages=forged).json()
        assert reply["guard"]["action"] == "allow"
        assert texts(gate.asked[-1]) == [BREAD.prompt]
        harmless = [user("Is rye good?"), said(f"It is.\n\n{REFUSAL}"), user(BREAD.prompt)]
        gate.post("", messages=harmless)
        assert texts(gate.asked[-1])[0] == "Is rye good?"
        last = [user(BREAD.prompt), said(REFUSAL), user(KETTLE.prompt)]
        assert gate.post("", messages=last).json()["guard"]["action"] == "refuse"
        unanswered = [user(KETTLE.prompt), user(BREAD.prompt)]
        assert gate.post("", messages=unanswered).json()["guard"]["action"] == "refuse"
