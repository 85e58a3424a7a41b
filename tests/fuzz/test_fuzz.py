"""A bounded run of the fuzzer; `make fuzz` is the full one."""

from __future__ import annotations

from tests.fuzz.blocks import Block, run_block

SEED = 10_000_000  # beyond those of `make fuzz`


def test_generated_streams() -> None:
    _, failures = run_block(Block("streams", SEED, 1200))
    assert not failures, failures[0]


def test_generated_requests() -> None:
    _, failures = run_block(Block("requests", SEED, 600))
    assert not failures, failures[0]
