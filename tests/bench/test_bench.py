"""The bench's own parts, at tiny sizes: what it reports is what happened. No time is asserted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from monitors.judges.build import build_panels
from monitors.judges.constant import ConstantJudge
from monitors.policy_file import load_policy
from monitors.taxonomy import Stage
from monitors.trace import Trace
from tests.bench.__main__ import TRACES
from tests.bench.excursions import benign, measure
from tests.bench.lags import character_delays, hold_lags
from tests.bench.load import Received, stream_all
from tests.bench.rounds import run_round, sent_times
from tests.bench.servers import BARE, POLICY, ROOT, Server, gateway, serving, upstream_server
from tests.bench.soak import LIMITS, grows, left_over
from tests.bench.text import Script, script
from tests.bench.upstream import Order

MARKERS = ROOT / "deploy" / "policies" / "demo-rules.yaml"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Server]:
    with upstream_server() as server:
        yield server


def test_upstream_sends_what_it_is_told_and_remembers_when(upstream: Server) -> None:
    orders = [Order("a", 12, 0), Order("b", 9, 200, burst=4)]
    for order, got in zip(orders, asyncio.run(stream_all(upstream.base, orders)), strict=True):
        text = script(order.chunks)
        assert (got.status, got.done) == (200, True)
        assert (got.reasoning, got.content) == ("".join(text.reasoning), "".join(text.content))
        sent = sent_times(upstream, [order])[order.name]
        assert len(sent) == order.chunks + 3  # role, finish, end mark
        assert sent == sorted(sent)
        assert min(character_delays(text, sent, got)) >= 0
    assert sent_times(upstream, orders) == {"a": [], "b": []}  # told once, then forgotten


def test_proxies_deliver_the_whole_text_and_cost_something(upstream: Server) -> None:
    programs = {"bare": BARE, "hold": gateway("--judge", "constant")}
    with serving(programs, upstream.base) as servers:
        for name, server in servers.items():
            orders = [Order(f"{name}-{number}", 40, 0) for number in range(2)]
            result = run_round(server, upstream, orders, held=name == "hold", timed=True)
            assert result.whole == 2
            assert result.delivered == 1.0
            assert result.cpu > 0
            assert len(result.delays) == 2 * script(40).ends[-1]
            assert min(result.delays) >= 0
            assert server.rss() > 0


SCRIPT = Script(["ab", "cd"], ["ef", "gh"])
SENT = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]  # role, four tokens, finish, end mark


def _got(arrivals: list[tuple[int, float]], reasoning: str = "abcd") -> Received:
    return Received(Order("x", 4, 0), 0.0, reasoning=reasoning, content="efgh", arrivals=arrivals)


def test_a_character_is_under_way_from_its_chunk_to_its_arrival() -> None:
    delays = character_delays(SCRIPT, SENT, _got([(3, 2.5), (8, 4.25)]))
    assert delays.tolist() == [1.5, 1.5, 0.5, 2.25, 1.25, 1.25, 0.25, 0.25]


def test_a_step_is_held_from_the_chunk_that_closes_it() -> None:
    got = _got([(4, 3.25), (8, 7.0)])
    assert hold_lags(SCRIPT, SENT, got, held=True).tolist() == [0.25]  # the end closed the other
    assert hold_lags(SCRIPT, SENT, got, held=False).tolist() == [1.25, 3.0]


def test_a_proxy_that_drops_the_thinking_is_measured_by_the_answer() -> None:
    got = _got([(2, 3.5), (4, 4.5)], reasoning="")
    assert character_delays(SCRIPT, SENT, got).tolist() == [0.5] * 4


def test_what_waits_is_counted_once_and_only_while_it_waits() -> None:
    trace = Trace(
        id="t",
        prompt="How do I lay out a garden?",
        reasoning="First I think of the paths. Then of a purple teapot. Then of the trees.",
        answer="Begin with the paths.",
    )
    policy = load_policy(MARKERS)
    judges = build_panels(policy.judges, policy.rules)
    waiting = measure(policy, judges, [trace])
    assert waiting.stopped == 1
    assert waiting.waited == pytest.approx(len("Then of a purple teapot. "), abs=2)
    harmless = {stage: ConstantJudge() for stage in Stage}
    calm = measure(policy, harmless, [trace, trace])
    assert (calm.traces, calm.waited, calm.stopped) == (2, 0, 0)
    assert calm.characters == 2 * len((trace.reasoning or "") + (trace.answer or ""))


@pytest.mark.skipif(not TRACES.exists(), reason="needs the traces in ../shared/data/safety")
def test_benign_traces_are_replayed() -> None:
    policy = load_policy(POLICY)
    judges = build_panels(policy.judges, policy.rules)
    waiting = measure(policy, judges, islice(benign(TRACES), 5))
    assert waiting.traces == 5
    assert waiting.characters > 1000


def _samples(values: list[float], name: str) -> list[dict[str, float]]:
    return [{"at": 10.0 * at, name: value} for at, value in enumerate(values)]


@pytest.mark.parametrize("name", LIMITS)
def test_a_leak_is_growth_and_noise_is_not(name: str) -> None:
    noise = np.random.default_rng(1).normal(0, 0.2, 40)
    steady = [150 + float(wobble) for wobble in noise]
    leaking = [value + at for at, value in enumerate(steady)]
    assert not grows(_samples(steady, name), name)
    assert grows(_samples(leaking, name), name)
    assert grows(_samples([*steady, float("nan")], name), name)  # not counted is not flat


def test_what_stays_behind_is_named() -> None:
    idle = {"tasks": 4.0, "threads": 7.0, "sockets": 3.0, "files": 16.0, "queue": 0.0, "live": 0.0}
    assert left_over(idle, idle) == []
    assert left_over(idle, {**idle, "live": 1.0, "tasks": 9.0}) == ["tasks", "live"]
