"""Whatever upstream, client or judge do wrong: the client is told, and nothing stays behind."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import psutil
import pytest
from blockbuster import blockbuster_ctx

from gateway.guards import TRIAL
from monitors.events import Recorded, StepRecord
from monitors.judges.base import Passage, Verdict
from monitors.taxonomy import Stage
from monitors.trace import Trace
from tests.gateway.harness import (
    BREAD,
    CONSTANT,
    KETTLE,
    MODEL,
    REFUSAL,
    RULES,
    SLIDE,
    FakeJudge,
    Guarded,
    assert_error_body,
    assert_openai_error,
    guarded,
    metric,
    nobody,
    wait_until,
)
from tests.gateway.scripted import (
    DONE,
    FINISH,
    ROLE,
    Scripted,
    Step,
    body,
    chunk,
    event,
    head,
    scripted,
)

IMPATIENT = {**RULES, "limits": {"upstream_idle_seconds": 1.0}}
NEVER_SET = threading.Event()
LONG = Trace(id="long", prompt="Think long.", reasoning="One more plain sentence. " * 400)


@pytest.fixture(scope="module")
def bad() -> Iterator[tuple[Guarded, Scripted]]:
    """A gateway in front of an upstream that plays what it is told."""
    with scripted() as upstream, guarded(IMPATIENT, upstream=upstream.root) as gate:
        yield gate, upstream


# --- the upstream, before it says anything ----------------------------------------------------

OVERLOADED = {"error": {"message": "too many", "type": "ServiceUnavailable", "code": 503}}
LEAKY = {"error": {"message": "no file /srv/models/x at 10.1.2.3:80", "code": 400}}


@pytest.mark.parametrize(
    ("steps", "status", "code"),
    [
        ([], 502, "upstream_unavailable"),
        ([b"what is HTTP?\r\n\r\n"], 502, "upstream_unavailable"),
        ([b"HTTP/1.1 200 OK\r\nContent-Le"], 502, "upstream_unavailable"),
        ([head()], 502, "upstream_unavailable"),
        ([head(), b'data: {"choi'], 502, None),
        ([head(), b"data: \xff\xfe not JSON\n\n", DONE], 502, None),
        ([head(), event([1, 2]), DONE], 502, None),
        ([head(200, "text/html"), b"<h1>hello</h1>"], 502, "upstream_unavailable"),
        ([head(), event(OVERLOADED), DONE], 503, None),
        ([head(), event(LEAKY), DONE], 400, None),
        ([head(), event({"error": "bad"}), DONE], 502, None),
        ([body(OVERLOADED, 500)], 500, None),
        ([body({"error": {"message": "slow down", "code": 429}}, 429)], 429, "rate_limit_exceeded"),
        ([body({"error": "Unauthorized"}, 401)], 502, "upstream_key_rejected"),
        ([head(500, "text/html"), b"<b>/srv/secret</b>"], 500, None),
        ([head(302, "text/html", "Location: /elsewhere")], 502, None),
        ([head(999)], 502, None),
        ([b"HTTP/1.1 200 caf\xe9\r\n\r\n"], 502, "upstream_unavailable"),
    ],
)
def test_an_upstream_that_fails_at_once_is_an_error_reply(
    bad: tuple[Guarded, Scripted], steps: list[Step], status: int, code: str | None
) -> None:
    gate, upstream = bad
    upstream.play(*steps)
    for stream in (True, False):
        reply = gate.post(BREAD.prompt, stream=stream)
        message = assert_openai_error(reply, status, code)
        assert "/srv" not in message
        assert "10.1" not in message
        assert gate.outcome(reply.headers["x-guard-request-id"]).ended == "failed"


@pytest.mark.parametrize("steps", [[NEVER_SET], [head(), NEVER_SET]])
def test_an_upstream_that_stalls_is_a_504(bad: tuple[Guarded, Scripted], steps: list[Step]) -> None:
    gate, upstream = bad
    upstream.play(*steps)
    assert_openai_error(gate.post(BREAD.prompt), 504, "upstream_unavailable")
    assert upstream.dropped.wait(5)


def test_an_upstream_that_is_not_there_is_a_502() -> None:
    with guarded(upstream=nobody(), ready=False) as gate:
        assert_openai_error(gate.post(BREAD.prompt), 502, "upstream_unavailable")
        assert httpx.get(f"{gate.root}/readyz").json()["upstream"] is False
        assert_openai_error(httpx.get(f"{gate.url}/models"), 502, "upstream_unavailable")


# --- the upstream, later ----------------------------------------------------------------------

FIRST = "This first sentence is whole and fine."


@pytest.mark.parametrize(
    "fault",
    [
        [event(LEAKY)],
        [event(LEAKY), DONE],
        [b'data: {"choices": [{"delta": {"reas'],
        [b"data: garbage /srv/models\n\n"],
        [b"\xff\xfe\x00\x01"],
        [FINISH],
        [],
        [NEVER_SET],
    ],
)
def test_a_fault_in_mid_stream_is_an_error_event_without_end_mark(
    bad: tuple[Guarded, Scripted], fault: list[Step]
) -> None:
    gate, upstream = bad
    seen = threading.Event()
    upstream.play(head(), ROLE, chunk(reasoning=f"{FIRST} And"), seen, *fault)
    with gate.open(BREAD.prompt) as reply:
        text = ""
        for line in reply.iter_lines():
            text += f"{line}\n"
            if FIRST in line:
                seen.set()
    assert "[DONE]" not in text
    assert FIRST in text
    assert "And" not in text
    message = assert_error_body(json.loads(text.strip().split("data: ")[-1]))
    assert "upstream" in message or "removed" in message
    assert "/srv" not in text
    assert gate.outcome(reply.headers["x-guard-request-id"]).ended == "failed"


@pytest.mark.parametrize(("code", "status"), [(404, 400), (503, 502)])
def test_an_error_in_mid_stream_brings_no_words_of_the_upstream(
    bad: tuple[Guarded, Scripted], code: int, status: int
) -> None:
    gate, upstream = bad
    prose = {"message": "purple teapot", "param": "purple", "code": code, "type": "teapot"}
    upstream.play(head(), ROLE, event({"error": prose}))
    reply = gate.post(BREAD.prompt)
    assert assert_openai_error(reply, status) == "the upstream broke off its reply"
    assert (reply.json()["error"]["param"], reply.json()["error"]["code"]) == (None, None)
    named = {"error": {"message": "m", "param": "purple", "code": "teapot"}}
    upstream.play(head(), chunk(reasoning=f"{FIRST} And"), event(named))
    text = gate.stream(BREAD.prompt).raw.decode()
    assert "broke off" in text
    assert "purple" not in text
    assert "teapot" not in text


def test_a_generation_that_takes_too_long_is_a_504(
    bad: tuple[Guarded, Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dripping() -> Iterator[Step]:
        yield head()
        while True:
            yield chunk(reasoning=f"{FIRST} ")
            time.sleep(0.05)

    monkeypatch.setattr("monitors.generation.GENERATION_SECONDS", 0.5)
    gate, upstream = bad
    upstream.dropped.clear()
    upstream._script = dripping
    message = assert_openai_error(gate.post(BREAD.prompt), 504, "upstream_unavailable")
    assert "too long" in message
    assert upstream.dropped.wait(5)
    reply = gate.stream(BREAD.prompt)
    assert FIRST in reply.text("reasoning")
    assert assert_error_body(reply.events[-1]) == message


def test_cookies_of_the_upstream_are_not_kept(bad: tuple[Guarded, Scripted]) -> None:
    gate, upstream = bad
    for name in ("text/event-stream\r\nSet-Cookie: who=alice; Path=/", "text/event-stream"):
        upstream.play(head(200, name), FINISH, DONE)
        gate.stream(BREAD.prompt).check_whole()
    assert b"alice" not in upstream.headers


def test_a_chunked_body_that_is_cut_is_an_error_event(bad: tuple[Guarded, Scripted]) -> None:
    gate, upstream = bad
    data = ROLE + chunk(reasoning="Half of a")
    size = f"{len(data) + 100:x}\r\n".encode()
    upstream.play(head(200, "text/event-stream", "Transfer-Encoding: chunked"), size + data)
    reply = gate.stream(BREAD.prompt)
    assert assert_error_body(reply.events[-1], "upstream_unavailable")
    assert b"[DONE]" not in reply.raw


def test_the_official_client_keeps_what_it_has_and_raises(bad: tuple[Guarded, Scripted]) -> None:
    gate, upstream = bad
    seen = threading.Event()
    upstream.play(head(), ROLE, chunk(content=f"{FIRST} And"), seen, event(OVERLOADED))
    text = ""
    with pytest.raises(openai.APIError):
        for part in gate.client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello"}], stream=True
        ):
            text += part.choices[0].delta.content or ""
            if text:
                seen.set()
    assert text == FIRST


def test_splits_line_ends_and_comments_do_not_matter(bad: tuple[Guarded, Scripted]) -> None:
    gate, upstream = bad
    whole = ROLE + chunk(reasoning=f"{FIRST} ") + chunk(content="Fine, 巴黎.") + FINISH + DONE
    wire = whole.replace(b"\n\n", b"\r\n\r\n", 2) + b": after the end"
    upstream.play(head(), b": hello\n\n", *(wire[at : at + 7] for at in range(0, len(wire), 7)))
    reply = gate.stream(BREAD.prompt)
    reply.check_whole()
    assert (reply.text("reasoning"), reply.text("content")) == (f"{FIRST} ", "Fine, 巴黎.")


def test_a_whole_reply_in_one_delta_is_more_than_the_judges_queue_and_comes_out(
    bad: tuple[Guarded, Scripted],
) -> None:
    gate, upstream = bad
    text = "One of very many plain sentences. " * 2000
    upstream.play(head(), chunk(content=text), FINISH, DONE)
    reply = gate.stream(BREAD.prompt)
    reply.check_whole()
    assert reply.text("content") == text
    assert reply.guard["action"] == "allow"


# --- the client -------------------------------------------------------------------------------


def test_a_client_that_leaves_stops_the_upstream() -> None:
    with guarded(CONSTANT, [LONG], tokens_per_second=50) as gate:
        finished = metric(gate.upstream, "vllm:request_success_total")
        with gate.open(LONG.prompt) as reply:
            lines = reply.iter_lines()
            assert "sentence" in next(line for line in lines if "sentence" in line)
            assert metric(gate.upstream, "vllm:num_requests_running") == 1
        outcome = gate.outcome(reply.headers["x-guard-request-id"])
        assert outcome.ended == "left"
        wait_until(
            lambda: metric(gate.upstream, "vllm:num_requests_running") == 0, "still generating"
        )
        assert metric(gate.upstream, "vllm:request_success_total") == finished
        assert metric(gate.root, "mlrm_guard_live_generations") == 0

        with pytest.raises(httpx.ReadTimeout):
            call = {"model": MODEL, "messages": [{"role": "user", "content": LONG.prompt}]}
            httpx.post(f"{gate.url}/chat/completions", json=call, timeout=0.5)
        assert gate.last_outcome(2).ended == "left"
        wait_until(
            lambda: metric(gate.upstream, "vllm:num_requests_running") == 0, "still generating"
        )


def test_a_client_that_leaves_before_the_first_token_stops_the_upstream() -> None:
    with scripted(NEVER_SET) as upstream, guarded(upstream=upstream.root) as gate:
        with pytest.raises(httpx.ReadTimeout):
            call = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "?"}]}
            httpx.post(f"{gate.url}/chat/completions", json=call, timeout=0.5)
        assert upstream.dropped.wait(5)
        assert gate.last_outcome(1).ended == "left"


def endless() -> Iterator[Step]:
    yield from (head(), ROLE)
    while True:
        yield chunk(reasoning="A plain sentence of the endless kind. " * 200)


ENDLESS = {**CONSTANT, "limits": {"max_generated_chars": 100_000_000}}


@contextmanager
def deaf_client(gate: Guarded) -> Iterator[socket.socket]:
    """Sends a request and reads nothing of the reply."""
    call = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
    data = json.dumps(call).encode()
    port = int(gate.root.rpartition(":")[2])
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        yield client


def test_a_client_that_reads_slowly_slows_the_upstream() -> None:
    def stands_still() -> bool:
        before = upstream.sent
        time.sleep(0.4)  # standing still is seen over time only
        return upstream.sent == before > 0

    with scripted(script=endless) as upstream:
        with guarded(ENDLESS, upstream=upstream.root) as gate, deaf_client(gate) as client:
            wait_until(stands_still, "the gateway reads on and on")
            held = upstream.sent
            assert held < 16 << 20  # socket buffers and ours
            client.settimeout(5)
            while upstream.sent == held:
                assert client.recv(1 << 20)
            client.close()
            assert upstream.dropped.wait(5)
            assert gate.last_outcome(1).ended == "left"


def test_a_client_that_reads_nothing_for_too_long_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.relay.WRITE_SECONDS", 0.5)
    with scripted(script=endless) as upstream:
        with guarded(ENDLESS, upstream=upstream.root) as gate, deaf_client(gate):
            assert gate.last_outcome(1).ended == "left"
            assert upstream.dropped.wait(5)


# --- the judge --------------------------------------------------------------------------------


def failing(misdeed: Callable[[], Any]) -> FakeJudge:
    """Judges the input as it should, and passes the trial at the start."""

    def score(passage: Passage) -> Any:
        well = passage.stage is Stage.INPUT or passage.text == TRIAL
        return Verdict(0.0, "fake") if well else misdeed()

    return FakeJudge(score)


def crash() -> Verdict:
    raise RuntimeError("a judge's own words")


MISDEEDS: list[tuple[Callable[[], Any], str]] = [
    (crash, "failed"),
    (lambda: None, "failed"),
    (lambda: Verdict(7.0, "fake"), "nonsense"),
    (lambda: Verdict(float("nan"), "fake"), "nonsense"),
    (lambda: Verdict(0.4, "fake", {"other": float("nan")}), "nonsense"),  # type: ignore[dict-item]
]


@pytest.mark.parametrize(("misdeed", "reason"), MISDEEDS)
def test_a_judge_that_fails_holds_text_back_or_lets_it_out_marked(
    misdeed: Callable[[], Any], reason: str
) -> None:
    with guarded(judge=failing(misdeed)) as gate:
        reply = gate.stream(BREAD.prompt)
        reply.check_whole()
        assert (reply.text("reasoning"), reply.text("content")) == ("", REFUSAL)
        assert gate.outcome(reply.request_id).reason == "unknown"
    fails_open = {**RULES, "on_unknown": {"reasoning": "open", "answer": "open"}}
    with guarded(fails_open, judge=failing(misdeed), settings={"expose": "detail"}) as gate:
        reply = gate.stream(BREAD.prompt)
        assert reply.text("reasoning") == BREAD.reasoning
        assert reply.guard["action"] == "flag"
        coverage = reply.guard["coverage"]["reasoning"]
        unjudged = coverage["released_unjudged"]
        assert coverage["judged"] == 0
        assert set(unjudged) == {reason, "blank"}
        assert sum(unjudged.values()) == len(BREAD.reasoning or "")


@pytest.mark.parametrize("failure", ["closed", "open"])
def test_a_judge_that_hangs_is_late(failure: str) -> None:
    release = threading.Event()
    policy = {
        **RULES,
        "limits": {"judge_timeout_seconds": 0.3},
        "on_overload": {"reasoning": failure, "answer": failure},
    }
    hanging = failing(lambda: release.wait(20) and Verdict(0.0, "fake"))
    with guarded(policy, judge=hanging, settings={"expose": "detail"}) as gate:
        try:
            reply = gate.stream(BREAD.prompt)
        finally:
            release.set()
        reply.check_whole()
        if failure == "closed":
            assert (reply.text("reasoning"), reply.text("content")) == ("", REFUSAL)
            assert reply.guard["explanation"] == "overload"
        else:
            assert reply.text("reasoning") == BREAD.reasoning
            assert list(reply.guard["coverage"]["answer"]["released_unjudged"]) == ["timeout"]


def test_a_reply_that_ended_leaves_the_judges_nothing_to_do() -> None:
    release = threading.Event()
    judged: list[str] = []

    def score(passage: Passage) -> Verdict:
        if "plain" in passage.text:
            release.wait(20)
            judged.append(passage.text)
        return Verdict(0.0, "fake")

    with guarded(judge=FakeJudge(score), traces=[LONG, BREAD], tokens_per_second=1e6) as gate:
        try:
            with pytest.raises(httpx.ReadTimeout):
                call = {"model": MODEL, "messages": [{"role": "user", "content": LONG.prompt}]}
                httpx.post(f"{gate.url}/chat/completions", json=call, timeout=1)
            assert gate.last_outcome(1).ended == "left"
            assert metric(gate.root, "mlrm_guard_judge_queue") > 16
        finally:
            release.set()
        gate.stream(BREAD.prompt).check_whole()
        assert len(judged) <= 16  # what the judge had already been given


def test_a_text_that_a_judge_chokes_on_costs_no_other_stream_its_verdict() -> None:
    def score(passage: Passage) -> Verdict:
        if "purple" in passage.text:
            crash()
        return Verdict(0.0, "fake")

    with guarded(judge=FakeJudge(score), tokens_per_second=500) as gate:
        results: list[str] = []

        def ask(prompt: str) -> None:
            results.append(gate.stream(prompt).guard["action"])

        prompts = [BREAD.prompt, SLIDE.prompt] * 10
        threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == ["allow"] * 10 + ["refuse"] * 10


def test_a_comment_keeps_the_connection_alive_while_text_is_held() -> None:
    waited = threading.Event()

    def score(passage: Passage) -> Verdict:
        if "Flour" in passage.text:
            waited.wait(10)
        return Verdict(0.0, "fake")

    policy = {**RULES, "limits": {"keep_alive_seconds": 1.0}}
    with guarded(policy, judge=FakeJudge(score)) as gate:
        with gate.open(BREAD.prompt) as reply:
            lines: list[str] = []
            for line in reply.iter_lines():
                lines.append(line)
                if line.startswith(":"):
                    waited.set()
        comments = [line for line in lines if line.startswith(":")]
        assert comments == [": keep-alive"]
        assert [line for line in lines if line][-1] == "data: [DONE]"
        assert "Flour" not in "".join(lines[: lines.index(comments[0])])


# --- ourselves --------------------------------------------------------------------------------


def test_a_bug_of_ours_ends_one_reply_and_no_other() -> None:
    def observe(request_id: str, what: Recorded) -> None:
        if isinstance(what, StepRecord) and "polite" in what.text:
            raise RuntimeError(f"secret of {what.text}")

    with guarded() as gate:
        inner = gate.observe

        def both(request_id: str, what: Recorded) -> None:
            observe(request_id, what)
            inner(request_id, what)

        gate.watch = both
        reply = gate.stream(SLIDE.prompt)
        assert assert_error_body(reply.events[-1]) == "internal error"
        assert b"[DONE]" not in reply.raw
        assert_openai_error(gate.post(SLIDE.prompt), 500)
        gate.stream(BREAD.prompt).check_whole()
        assert metric(gate.root, "mlrm_guard_live_generations") == 0


def test_more_streams_than_allowed_are_told_to_come_again() -> None:
    with guarded(CONSTANT, [LONG], tokens_per_second=50, settings={"max_streams": 1}) as gate:
        with gate.open(LONG.prompt) as reply:
            lines = reply.iter_lines()
            next(lines)
            refused = gate.post(LONG.prompt)
            assert_openai_error(refused, 503, "overloaded")
            assert refused.headers["retry-after"] == "1"


def test_a_shutdown_in_mid_stream_leaves_a_record() -> None:
    with guarded(CONSTANT, [LONG], tokens_per_second=50) as gate:
        reply = gate.client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": LONG.prompt}], stream=True
        )
        next(iter(reply))
    assert gate.last_outcome(1).ended == "left"
    reply.close()


def test_nothing_is_left_behind() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    def tasks() -> int:
        return len([task for task in asyncio.all_tasks(loops[0]) if not task.done()])

    def sockets() -> int:
        ports = {int(root.rpartition(":")[2]) for root in (gate.root, gate.upstream)}
        mine = psutil.Process().net_connections("tcp")
        return len([c for c in mine if c.status == "ESTABLISHED" and c.laddr.port in ports])

    with guarded(traces=[BREAD, SLIDE, KETTLE, LONG], tokens_per_second=2000) as gate:
        inner = gate.observe

        def observe(request_id: str, what: Recorded) -> None:
            if not loops:
                loops.append(asyncio.get_running_loop())
            inner(request_id, what)

        gate.watch = observe
        gate.stream(BREAD.prompt)
        wait_until(lambda: sockets() <= 2, "sockets stay")
        before = tasks()
        for index in range(50):
            prompt = (BREAD, SLIDE, KETTLE, LONG)[index % 4].prompt
            with gate.open(prompt) as reply:
                if prompt == LONG.prompt:
                    next(reply.iter_lines())
                else:
                    reply.read()
        gate.last_outcome(51)
        wait_until(lambda: tasks() <= before, "tasks stay")
        wait_until(lambda: sockets() <= 4, "sockets stay")
        assert metric(gate.root, "mlrm_guard_live_generations") == 0
        assert metric(gate.root, "mlrm_guard_judge_queue") == 0


def test_nothing_blocks_the_event_loop() -> None:
    with guarded() as gate, blockbuster_ctx(["gateway", "monitors"]):
        for prompt, action in ((BREAD.prompt, "allow"), (SLIDE.prompt, "correct")):
            reply = gate.stream(prompt)
            reply.check_whole()
            assert reply.guard["action"] == action
            assert gate.post(prompt).json()["guard"]["action"] == action
        assert metric(gate.root, "mlrm_guard_steps_total") > 0
        assert httpx.get(f"{gate.url}/models").status_code == 200
