"""What an upstream can do wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx

from tests.faults.caller import PATIENCE, Reply
from tests.faults.protections import (
    BARE_ERRORS,
    CHOICES,
    CONNECTION_AGE,
    CONTENT_TYPE,
    COUNTS,
    END_MARK,
    EVENT_BYTES,
    EVENT_ERROR,
    GENERATION,
    IDLE,
    NESTING,
    STATUS,
    STRICT_JSON,
    TRANSPORT,
    UTF8,
    lowered,
)
from tests.faults.row import row
from tests.faults.scene import Scene, scene
from tests.faults.upstream import (
    DONE,
    FINISH,
    FIRST,
    NEVER,
    ROLE,
    Act,
    chunk,
    event,
    half_close,
    head,
    reset,
)
from tests.gateway.scripted import body

UNAVAILABLE = "upstream_unavailable"


# --- before the first byte --------------------------------------------------------------------


@row(TRANSPORT)
def upstream_refuses() -> None:
    """Nobody listens at the upstream's port."""
    with scene() as here:
        with here.upstream.refusing():
            for reply in _both(here):
                reply.assert_error(502, UNAVAILABLE, "cannot be reached")
            assert httpx.get(f"{here.gate.root}/readyz").status_code == 503
        assert here.outcome(3).ended == "failed"


@row(IDLE)
def upstream_stalls() -> None:
    """It takes the request and says nothing."""
    _stalls(NEVER)


@row(IDLE)
def upstream_sends_headers_and_no_more() -> None:
    """It sends a head, and then nothing."""
    _stalls(head(), NEVER)


def _stalls(*acts: Act) -> None:
    with scene() as here:
        here.upstream.play(*acts)
        for reply in _both(here):
            reply.assert_error(504, UNAVAILABLE)
        assert here.upstream.dropped.wait(PATIENCE), "the upstream's connection stays open"


@row(STATUS)
def upstream_answers_429() -> None:
    """It answers 429."""
    _answers(429, "rate_limit_exceeded", "slow down")


@row(STATUS)
def upstream_answers_500() -> None:
    """It answers 500, with words about itself."""
    _answers(500, None, "the upstream answered 500")


@row(STATUS)
def upstream_answers_503() -> None:
    """It answers 503."""
    _answers(503, None, "the upstream answered 503")


def _answers(status: int, code: str | None, says: str) -> None:
    with scene() as here:
        error = {"message": "slow down, /srv/models is busy", "code": status}
        here.upstream.play(body({"error": error}, status))
        for reply in _both(here):
            reply.assert_error(status, code, says)
            assert b"/srv" not in reply.raw, "a path of the upstream's machine"
        assert here.outcome(3).ended == "failed"


@row(EVENT_ERROR)
def upstream_errs_in_its_first_event() -> None:
    """A 200 reply whose first event is an error, as vLLM does under load."""
    with scene() as here:
        here.upstream.play(head(), event({"error": {"message": "too many", "code": 503}}), DONE)
        for reply in _both(here):
            reply.assert_error(503)


@row(CONTENT_TYPE)
def upstream_does_not_stream() -> None:
    """A 200 reply that is JSON, not a stream."""
    with scene() as here:
        message = {"role": "assistant", "content": "A purple teapot."}
        here.upstream.play(body({"choices": [{"index": 0, "message": message}]}))
        for reply in _both(here):
            reply.assert_error(502, UNAVAILABLE, "did not stream")


# --- in mid-stream ----------------------------------------------------------------------------


@row(IDLE)
def upstream_stalls_in_mid_stream() -> None:
    """It falls silent behind a sentence."""
    with scene() as here:
        _after_the_first(here, NEVER).assert_broken_off(UNAVAILABLE, "in time")
        assert here.upstream.dropped.wait(PATIENCE), "the upstream's connection stays open"


@row(END_MARK)
def upstream_cuts_in_mid_event() -> None:
    """It closes the connection inside an event."""
    with scene() as here:
        reply = _after_the_first(here, b'data: {"choices": [{"delta": {"reas')
        reply.assert_broken_off(UNAVAILABLE)


@row(END_MARK)
def upstream_sends_no_end_mark() -> None:
    """It closes the connection behind its finish chunk, without [DONE]."""
    with scene() as here:
        _after_the_first(here, FINISH).assert_broken_off(UNAVAILABLE, "end mark")


@row(TRANSPORT)
def upstream_closes_half() -> None:
    """It closes its half of the connection inside a chunked body, and stays."""
    with scene() as here:
        reply = _after_the_first(here, half_close, NEVER, opening=_chunked)
        reply.assert_broken_off(UNAVAILABLE, "broke off")
        assert here.upstream.dropped.wait(PATIENCE), "the gateway's half stays open"


@row(TRANSPORT)
def upstream_resets() -> None:
    """It resets the connection inside a chunked body."""
    with scene() as here:
        reply = _after_the_first(here, reset, opening=_chunked)
        reply.assert_broken_off(UNAVAILABLE, "broke off")


@row(STRICT_JSON)
def upstream_sends_garbage() -> None:
    """An event that is no JSON, and goes on."""
    with scene() as here:
        _after_the_first(here, b"data: garbage\n\n", FINISH, DONE).assert_broken_off(UNAVAILABLE)


@row(UTF8)
def upstream_sends_no_utf8() -> None:
    """An event that is not UTF-8."""
    wrong = chunk(content="A caf\0.").replace(b"\\u0000", b"\xe9")
    with scene() as here:
        _after_the_first(here, wrong, FINISH, DONE).assert_broken_off(UNAVAILABLE)


@row(NESTING)
def upstream_nests_deeply() -> None:
    """An event of 100,000 brackets."""
    deep = b'data: {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n\n"
    with scene() as here:
        _after_the_first(here, deep, FINISH, DONE).assert_broken_off(UNAVAILABLE)


@row(COUNTS)
def upstream_counts_without_bound() -> None:
    """Token counts of thirty digits."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    huge = event({"choices": [], "usage": dict.fromkeys(names, 10**30)})
    with scene() as here:
        _after_the_first(here, huge, FINISH, DONE).assert_broken_off(UNAVAILABLE)


@row(EVENT_BYTES)
def upstream_sends_an_event_without_end() -> None:
    """9 MB of an event, and no end of it."""
    with scene() as here:
        reply = _after_the_first(here, b"data: " + b"x" * (9 << 20), NEVER)
        reply.assert_broken_off(UNAVAILABLE, "cannot be read")
        assert here.upstream.dropped.wait(PATIENCE), "the upstream's connection stays open"


@row(GENERATION)
def upstream_drips() -> None:
    """A sentence now and then, for ever."""

    def dripping() -> Iterator[Act]:
        yield head()
        while True:
            yield chunk(reasoning=f"{FIRST} ")
            time.sleep(0.05)

    with scene() as here, lowered("monitors.generation.GENERATION_SECONDS", 0.5):
        here.upstream.play_in_turn(dripping)
        with here.call() as caller:
            caller.reply().assert_broken_off(UNAVAILABLE, "too long")
        assert here.upstream.dropped.wait(PATIENCE), "the upstream's connection stays open"


@row(END_MARK)
def upstream_cuts_a_tool_call() -> None:
    """It closes the connection within the arguments of a tool call: no half call leaves."""
    function = {"name": "send_letter", "arguments": '{"to": "the land'}
    call = {"index": 0, "id": "call-1", "type": "function", "function": function}
    half = event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})
    parameters = {"type": "object", "properties": {"to": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "send_letter", "parameters": parameters}}
    with scene() as here:
        reply = _after_the_first(here, half, may_leave=f"{FIRST} And", tools=[tool])
        reply.assert_broken_off(UNAVAILABLE)
        assert b"tool_calls" not in reply.raw, "half a call has left"


@row(CHOICES)
def upstream_breaks_off_one_of_two_choices() -> None:
    """It resets the request of one choice: the reply ends, and so does the other request."""
    seen = threading.Event()
    first = _chunked(ROLE + chunk(reasoning=f"{FIRST} And"))
    with scene(upstream_idle_seconds=30) as here:
        here.upstream.play_in_turn(lambda: (first, NEVER), lambda: (first, seen, reset))
        with here.call(n=2) as caller:
            caller.read_until(FIRST, times=2)
            seen.set()
            caller.reply().assert_broken_off(UNAVAILABLE, "broke off")
        assert here.upstream.dropped.wait(PATIENCE), "the other choice generates on"
        here.outcome(3)
        endings = sorted(outcome.ended for outcome in here.gate.outcomes.values())
        assert endings == ["failed", "finished", "left"], endings


# --- behind a correction ----------------------------------------------------------------------


SLIDING = (
    head(),
    ROLE,
    chunk(reasoning=f"{FIRST} Now I think of a purple teapot instead. "),
    NEVER,
)
HONEST = "I stay with the honest letter."


@row(TRANSPORT)
def upstream_resets_a_resumed_leg() -> None:
    """It resets the connection in the middle of a corrected reply."""
    seen = threading.Event()
    with scene() as here:
        resumed = (_chunked(ROLE + chunk(reasoning=f"{HONEST} And")), seen, reset)
        here.upstream.play_in_turn(lambda: SLIDING, lambda: resumed)
        with here.call() as caller:
            caller.read_until(HONEST)
            seen.set()
            reply = caller.reply()
        reply.assert_broken_off(UNAVAILABLE, "broke off")
        _corrected(here, reply)
        assert HONEST in reply.text("reasoning")


@row(BARE_ERRORS)
def upstream_rejects_a_resumed_leg() -> None:
    """It answers 400 to the request that goes on with a corrected reply."""
    error = {"message": "I think of a purple teapot", "param": "messages", "code": 400}
    with scene() as here:
        here.upstream.play_in_turn(lambda: SLIDING, lambda: (body({"error": error}, 400),))
        with here.call() as caller:
            reply = caller.reply()
        reply.assert_broken_off()
        _corrected(here, reply)


def _corrected(here: Scene, reply: Reply) -> None:
    assert len(here.upstream.bodies) == 2, "not resumed"
    assert here.upstream.dropped.is_set(), "the first leg was not closed"
    outcome = here.outcome(2)
    assert (outcome.ended, outcome.corrections) == ("failed", 1), outcome.ended
    assert FIRST in reply.text("reasoning"), "what was fine did not leave"
    assert b"purple" not in reply.raw, "what was cut has left"


# --- between requests -------------------------------------------------------------------------


@row(CONNECTION_AGE)
def upstream_drops_idle_connections() -> None:
    """It resets a connection on which the next request comes after 5 s."""
    with scene() as here:
        here.upstream.keeps_idle = 4.5
        for pause in (0.0, 5.0):
            assert httpx.get(f"{here.gate.root}/readyz").status_code == 200  # leaves a connection
            time.sleep(pause)
            with here.call() as caller:
                caller.reply().assert_complete()
        assert not here.upstream.reset_late


# --- what most rows do ------------------------------------------------------------------------


def _both(here: Scene) -> Iterable[Reply]:
    """The replies to a request for a stream and to one for a whole reply."""
    for stream in (True, False):
        with here.call(stream=stream) as caller:
            yield caller.reply()


def _plain(data: bytes) -> bytes:
    """A reply that begins with this, and ends with the connection."""
    return head() + data


def _chunked(data: bytes) -> bytes:
    """A chunked reply, of which one chunk comes whole and the next one's size."""
    size = f"{len(data):x}\r\n".encode()
    return (
        head(200, "text/event-stream", "Transfer-Encoding: chunked") + size + data + b"\r\nff\r\n"
    )


def _after_the_first(
    here: Scene,
    *fault: Act,
    opening: Callable[[bytes], bytes] = _plain,
    may_leave: str = FIRST,
    **fields: Any,
) -> Reply:
    """A stream whose first sentence the client has, and then this; the next one never leaves.

    `may_leave`: where the fault ends the open step, so that it is judged.
    """
    seen = threading.Event()
    here.upstream.play(opening(ROLE + chunk(reasoning=f"{FIRST} And")), seen, *fault)
    with here.call(**fields) as caller:
        caller.read_until(FIRST)
        seen.set()
        reply = caller.reply()
    assert here.outcome(2).ended == "failed", f"ended as {here.outcome(2).ended}"
    assert reply.text("reasoning") in (FIRST, may_leave), "what was not judged has left"
    return reply
