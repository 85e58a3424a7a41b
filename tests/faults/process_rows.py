"""What an operator does while streams are live."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from tests.faults.caller import PATIENCE
from tests.faults.protections import GRACE, PINNED, SHUTDOWN
from tests.faults.row import row
from tests.faults.served import GRACE as GRACE_OF
from tests.faults.served import Served, serving
from tests.faults.upstream import (
    BENIGN,
    DONE,
    FINISH,
    FIRST,
    NEVER,
    ROLE,
    Act,
    FaultyUpstream,
    chunk,
    faulty_upstream,
    head,
)
from tests.gateway.harness import RULES, wait_until

STREAMS = 5


@row(GRACE)
def sigterm_while_streams_can_finish() -> None:
    """SIGTERM with live streams: they finish, and nobody new is let in."""
    rest = threading.Event()

    def unhurried() -> Iterator[Act]:
        yield from (head(), ROLE, chunk(reasoning=f"{FIRST} And"), rest)
        for _ in range(5):
            time.sleep(0.1)
            yield chunk(reasoning=" so on")
        yield from (chunk(reasoning=". "), chunk(content="Fine, that is all."), FINISH, DONE)

    with faulty_upstream() as upstream, serving(upstream.root) as gate, ExitStack() as stack:
        upstream.play_in_turn(unhurried)
        callers = [stack.enter_context(gate.call()) for _ in range(STREAMS)]
        for caller in callers:
            caller.read_until(FIRST)
        gate.signal(signal.SIGTERM)
        wait_until(lambda: not _listens(gate), "it lets others in")
        rest.set()
        for caller in callers:
            text = f"{FIRST} And{' so on' * 5}. "
            caller.reply().assert_complete(reasoning=text, content="Fine, that is all.")
        gate.assert_ended()
        assert gate.endings == ["finished"] * STREAMS, gate.endings
        assert not upstream.dropped.is_set(), "an upstream request was cut"


@row(SHUTDOWN)
def sigterm_while_streams_cannot_finish() -> None:
    """SIGTERM with streams that outlast the grace: each ends with an error that clients raise."""
    prelude = GRACE_OF.replace("SECONDS", "1")
    with faulty_upstream() as upstream, serving(upstream.root, prelude=prelude) as gate:
        upstream.play(head(), ROLE, chunk(reasoning=f"{FIRST} And"), NEVER)
        with ExitStack() as stack:
            callers = [stack.enter_context(gate.call()) for _ in range(STREAMS)]
            for caller in callers:
                caller.read_until(FIRST)
            gate.signal(signal.SIGTERM)
            for caller in callers:
                caller.reply().assert_broken_off()
        gate.assert_ended()
        assert len(gate.endings) == STREAMS, "a generation without a record"
        assert upstream.dropped.wait(PATIENCE), "an upstream request goes on"


def _listens(gate: Served) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(gate.root.rpartition(":")[2]))).close()
    except ConnectionRefusedError:
        return False
    return True


@row(PINNED)
def policy_is_reloaded_while_streams_run() -> None:
    """Ten reloads while a hundred streams run: each stream ends under the policy it began with."""
    rest = threading.Event()
    with faulty_upstream() as upstream, serving(upstream.root, _policy(0)) as gate:
        upstream.play(
            head(), ROLE, chunk(reasoning=f"{FIRST} "), chunk(content="Well, I never"), rest,
            chunk(content=" saw it. Look, a purple teapot! It pours."), FINISH, DONE,
        )  # fmt: skip
        with ExitStack() as stack:
            callers = []
            for number in range(10):
                begun = [stack.enter_context(gate.call()) for _ in range(10)]
                for caller in begun:
                    caller.read_until(FIRST)
                callers += [(number, caller) for caller in begun]
                _reload(gate, number + 1)
            rest.set()
            for number, caller in callers:
                reply = caller.reply(4 * PATIENCE)
                began = reply.headers["x-guard-policy"].partition("@")[0]
                assert began == f"policy{number}", f"begun under {began}, not policy{number}"
                said = f"Well, I never saw it.\n\n{_refusal(number)}"
                reply.assert_complete(reasoning=f"{FIRST} ", content=said)
        _serves(gate, upstream)
        gate.assert_nothing_is_left()


def _reload(gate: Served, number: int) -> None:
    """Replace the policy; before each, one that cannot be read, which changes nothing."""
    before = gate.policy_label
    gate.write_policy("name: [broken")
    gate.signal(signal.SIGHUP)
    assert gate.policy_label == before
    gate.write_policy(_policy(number))
    gate.signal(signal.SIGHUP)
    wait_until(lambda: gate.policy_label.startswith(f"policy{number}@"), "not reloaded", PATIENCE)


def _policy(number: int) -> dict[str, Any]:
    """Differs in what it says, and in a rule, hence in its judges."""
    rule = {"name": f"pan{number}", "literal": f"azure pan {number}", "scenario": "other"}
    return {
        **RULES,
        "name": f"policy{number}",
        "rules": [*RULES["rules"], rule],
        "refusals": {"en": _refusal(number)},
    }


def _refusal(number: int) -> str:
    return f"I would rather not, for reason {number}."


def _serves(gate: Served, upstream: FaultyUpstream) -> None:
    upstream.play(*BENIGN)
    with gate.call() as caller:
        caller.reply().assert_complete(reasoning=f"{FIRST} ")
