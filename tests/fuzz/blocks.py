"""Blocks of cases, as workers run them."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable
from typing import Literal, NamedTuple

from tests.fuzz import bodies, streams

Kind = Literal["streams", "requests"]


class Block(NamedTuple):
    """So many cases of one kind, from this seed on."""

    kind: Kind
    start: int
    size: int


class Failure(NamedTuple):
    """A case that failed."""

    kind: Kind
    seed: int
    text: str


def run_block(block: Block) -> tuple[Block, list[Failure]]:
    """Run the cases of a block."""
    seeds = range(block.start, block.start + block.size)
    if block.kind == "streams":
        found = (_try(seed, streams.check) for seed in seeds)
        return block, [Failure("streams", *failed) for failed in found if failed]
    return block, asyncio.run(_requests(seeds))


def _try(seed: int, check: Callable[[random.Random], None]) -> tuple[int, str] | None:
    try:
        check(random.Random(seed))
    except Exception:
        return seed, traceback.format_exc(limit=-3)
    return None


async def _requests(seeds: range) -> list[Failure]:
    failures: list[Failure] = []
    for odd, wait in enumerate(("before", "beside")):
        mine = [seed for seed in seeds if seed % 2 == odd]
        if not mine:
            continue
        async with bodies.open_world(wait) as (app, world):
            for seed in mine:
                try:
                    await bodies.check(app, world, random.Random(seed))
                except Exception:
                    failures.append(Failure("requests", seed, traceback.format_exc(limit=-3)))
    return failures
