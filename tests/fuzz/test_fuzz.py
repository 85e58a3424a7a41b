"""A bounded run of the fuzzer; `make fuzz` is the full one."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import streams
from tests.fuzz.blocks import Block, run_block

SEED = 10_000_000  # beyond those of `make fuzz`


def test_generated_streams() -> None:
    _, failures = run_block(Block("streams", SEED, 800))
    assert not failures, failures[0]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_generated_streams_that_hypothesis_shrinks(draw: random.Random) -> None:
    streams.check(draw)


def test_generated_requests() -> None:
    _, failures = run_block(Block("requests", SEED, 400))
    assert not failures, failures[0]
