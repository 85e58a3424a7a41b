"""What a client can do wrong, and what it must be spared."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from monitors.judges.base import Passage, Verdict
from tests.faults.caller import PATIENCE
from tests.faults.judge_rows import TOUCHY, touchy_reply
from tests.faults.protections import (
    ADMISSION,
    ALL_EVENTS,
    BODY,
    BUFFER,
    HEARTBEAT,
    KEEP_ALIVE,
    SHARE,
    UNREAD,
    WATCH,
    WRITE,
    WRITERS,
    lowered,
)
from tests.faults.row import row
from tests.faults.scene import Scene, scene
from tests.faults.upstream import (
    BENIGN,
    DONE,
    FINISH,
    FIRST,
    NEVER,
    ROLE,
    Act,
    chunk,
    head,
)
from tests.gateway.harness import CONSTANT, FakeJudge, wait_until

LONG_IDLE = 30.0
"""The upstream's idle time-out where it must not be what ends the row."""

IN_SOCKETS = 32 << 20
"""Bytes: more than the kernel holds of one reply between an upstream and a client."""

SMALL = 256 << 10
"""Bytes: a receive buffer that is soon full."""

THINKING = (head(), ROLE, chunk(reasoning=f"{FIRST} And"), NEVER)


def _endless() -> Iterator[Act]:
    yield from (head(), ROLE)
    while True:
        yield chunk(reasoning="A plain sentence of the endless kind. " * 200)


# --- it leaves --------------------------------------------------------------------------------


@row(WATCH)
def client_leaves() -> None:
    """It closes the connection in mid-stream."""
    with scene(upstream_idle_seconds=LONG_IDLE) as here:
        here.upstream.play(*THINKING)
        with here.call() as caller:
            caller.read_until(FIRST)
            assert here.live == 1
            caller.leave()
            _stops_the_upstream(here)


@row(WATCH)
def client_leaves_before_the_first_byte() -> None:
    """It closes the connection while the upstream still thinks; streamed or not."""
    with scene(upstream_idle_seconds=LONG_IDLE) as here:
        for count, stream in ((2, True), (3, False)):
            here.upstream.play(NEVER)
            with here.call(stream=stream) as caller:
                assert here.upstream.asked.wait(PATIENCE), "the upstream was not asked"
                caller.leave()
                _stops_the_upstream(here, count)


@row(WATCH)
def client_closes_half() -> None:
    """It closes its half of the connection: the server takes that for leaving."""
    with scene(upstream_idle_seconds=LONG_IDLE) as here:
        here.upstream.play(*THINKING)
        with here.call() as caller:
            caller.read_until(FIRST)
            caller.close_half()
            _stops_the_upstream(here)


def _stops_the_upstream(here: Scene, count: int = 2) -> None:
    assert here.upstream.dropped.wait(PATIENCE), "the upstream generates on"
    assert here.outcome(count).ended == "left", f"ended as {here.outcome(count).ended}"


# --- it reads slowly --------------------------------------------------------------------------


@row(BUFFER)
def client_reads_slowly() -> None:
    """It reads nothing for a while, and the upstream floods; then it reads on."""
    with _flooded() as here, here.call(receive_buffer=SMALL) as caller:
        held = _standing_still(here)
        caller.read_some(held)
        assert here.upstream.sent > held, "the upstream does not go on"
        assert _standing_still(here, read=held) > held
        assert here.live == 1
        caller.leave()
        _stops_the_upstream(here)


@row(WRITE)
def client_reads_nothing() -> None:
    """It never reads again: the generation ends."""
    with lowered("gateway.relay.WRITE_SECONDS", 0.5), _flooded() as here:
        with here.call(receive_buffer=SMALL):
            _stops_the_upstream(here)


@row(UNREAD)
def client_neither_reads_nor_leaves() -> None:
    """It never reads again, nor does it close: its connection is ended for it."""
    with (
        lowered("gateway.relay.WRITE_SECONDS", 0.5),
        lowered("gateway.connection.UNREAD_SECONDS", 1.0),
        _flooded() as here,
        here.call(receive_buffer=SMALL),
    ):
        _stops_the_upstream(here)
        wait_until(lambda: not here.sockets, "its socket stays open", 2 * PATIENCE)


@row(WRITERS)
def client_reads_slowly_beside_another() -> None:
    """One reads nothing; the other is served as if it were alone."""
    with _flooded() as here, here.call(receive_buffer=SMALL) as slow:
        _standing_still(here)
        here.upstream.play(*BENIGN)
        with here.call() as other:
            other.reply().assert_complete(reasoning=f"{FIRST} ")
        slow.leave()
        _stops_the_upstream(here, 3)


@contextmanager
def _flooded() -> Iterator[Scene]:
    """Nothing is judged, so that nothing but the client is slow."""
    unjudged = {**CONSTANT, "mode": "off"}
    many = 100_000_000
    with scene(unjudged, max_generated_chars=many, upstream_idle_seconds=LONG_IDLE) as here:
        here.upstream.play_in_turn(_endless)
        yield here


def _standing_still(here: Scene, read: int = 0) -> int:
    """How much the upstream could send before nobody took any more; `read`: by the client."""
    seen = [-1, -2]
    while len(set(seen[-3:])) > 1:  # standing still is seen over time only
        seen.append(here.upstream.sent)
        assert seen[-1] - read <= IN_SOCKETS, (
            "no end of what is held for a client that reads nothing"
        )
        time.sleep(0.3)
    return seen[-1]


# --- it must not be left without a byte -------------------------------------------------------


@row(KEEP_ALIVE)
def proxy_is_impatient() -> None:
    """Text is held for longer than a proxy keeps a silent connection: comments go on."""
    seen = threading.Event()
    with _undecided() as (here, judged):
        here.upstream.play(*touchy_reply(seen))
        with here.call() as caller:
            caller.read_until(FIRST)
            seen.set()
            caller.read_until(": keep-alive\n\n", times=2)
            assert caller.so_far.text("reasoning") == FIRST, "what is not judged has left"
            judged.set()
            caller.reply().assert_complete(reasoning=f"{FIRST} {TOUCHY} ", content="Done.")


@row(HEARTBEAT)
def proxy_is_impatient_of_a_whole_reply() -> None:
    """The same for a reply in one piece: blanks come before its JSON."""
    with _undecided() as (here, judged):
        here.upstream.play(*touchy_reply())
        with here.call(stream=False) as caller:
            caller.read_until("\r\n\r\n")
            waiting = caller.so_far
            assert waiting.status == 200
            assert waiting.headers["content-type"] == "application/json"
            caller.read_some(2)
            assert not caller.so_far.raw.strip(), "what is not judged has left"
            judged.set()
            reply = caller.reply()
        assert reply.whole, "the connection was lost"
        (choice,) = reply.json["choices"]
        assert choice["message"]["content"] == "Done."
        assert choice["message"]["reasoning"] == f"{FIRST} {TOUCHY} "
        assert reply.json["guard"]["action"] == "allow"


@row(HEARTBEAT)
def proxy_is_impatient_and_the_upstream_fails() -> None:
    """It fails behind the blanks, whose status cannot be taken back: the body is the error."""
    with scene(heartbeat_after_seconds=1, upstream_idle_seconds=2) as here:
        here.upstream.play(head(), ROLE, NEVER)
        with here.call(stream=False) as caller:
            reply = caller.reply()
        assert reply.whole, "the connection was lost"
        assert reply.raw.startswith(b" "), "no blank came"
        reply.assert_error(200, "upstream_unavailable", "in time")


@contextmanager
def _undecided() -> Iterator[tuple[Scene, threading.Event]]:
    """A judge that makes up its mind about one sentence when it is told to."""
    judged = threading.Event()

    def score(passage: Passage) -> Verdict:
        if TOUCHY in passage.text:
            judged.wait(20)
        return Verdict(0.0, "fake")

    with scene(
        judge=FakeJudge(score),
        keep_alive_seconds=1,
        heartbeat_after_seconds=1,
        judge_timeout_seconds=30,
    ) as here:
        try:
            yield here, judged
        finally:
            judged.set()


# --- it asks for much -------------------------------------------------------------------------


@row(BODY)
def client_sends_half_a_request() -> None:
    """The rest of its request never comes."""
    with scene() as here, lowered("gateway.chat.BODY_SECONDS", 0.5):
        with here.call(withheld=10) as caller:
            caller.reply().assert_error(400, None, "too long to arrive")


@row(ADMISSION)
def clients_are_too_many() -> None:
    """One more than the gateway guards at a time."""
    with scene(settings={"max_streams": 2}, upstream_idle_seconds=LONG_IDLE) as here:
        here.upstream.play(*THINKING)
        with here.call() as one, here.call() as other:
            one.read_until(FIRST)
            other.read_until(FIRST)
            with here.call() as third:
                reply = third.reply()
            reply.assert_error(503, "overloaded")
            assert reply.headers["retry-after"] == "1"
            assert here.live == 2


# --- much comes at once -----------------------------------------------------------------------


@row(SHARE)
def delta_of_a_megabyte() -> None:
    """One delta of 1 MB: more sentences than the judges' queue has room for."""
    text = (f"{FIRST[:-1]}, " * 5 + FIRST + " ") * ((1 << 20) // (6 * len(FIRST)))
    with scene(judge_timeout_seconds=30) as here:
        here.upstream.play(head(), ROLE, chunk(content=text), FINISH, DONE)
        with here.call() as caller:
            caller.reply(60).assert_complete(content=text)


@row(ALL_EVENTS)
def ten_thousand_deltas_at_once() -> None:
    """10,000 deltas of a word each, which the upstream sends in one piece."""
    words = [f"word{number}{'. ' if number % 10 == 9 else ' '}" for number in range(10_000)]
    with scene() as here:
        here.upstream.play(
            head() + ROLE + b"".join(chunk(content=word) for word in words), FINISH, DONE
        )
        with here.call() as caller:
            caller.reply(60).assert_complete(content="".join(words))
