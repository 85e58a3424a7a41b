"""Fuzz the machine and the app: `python -m tests.fuzz`.

Case number N is drawn from the seed SEED + N, so one case is replayed by its own seed. Exits with 1
where a case failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator

from tests.fuzz.blocks import Block, Failure, Kind, run_block

MOST_SHOWN = 20
BLOCK: dict[Kind, int] = {"streams": 250, "requests": 1000}


def main() -> int:
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    options = parser.parse_args()
    blocks = [
        *_blocks("streams", options.seed, options.streams),
        *_blocks("requests", options.seed, options.requests),
    ]
    done: Counter[Kind] = Counter()
    failures: list[Failure] = []
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        results = pool.imap_unordered(run_block, blocks)
        left = len(blocks)
        told = started
        while left:
            try:
                block, failed = results.next(timeout=10)
            except multiprocessing.TimeoutError:
                pass
            else:
                left -= 1
                done[block.kind] += block.size
                failures += failed
                for failure in failed[: MOST_SHOWN - len(failures) + len(failed)]:
                    _show(failure)
            if time.monotonic() - told >= 9.9:
                told = time.monotonic()
                _say(done, failures, f"after {told - started:.0f} s")
    _say(done, failures)
    return bool(failures)


def _blocks(kind: Kind, seed: int, count: int) -> Iterator[Block]:
    size = BLOCK[kind]
    for start in range(0, count, size):
        yield Block(kind, seed + start, min(size, count - start))


def _show(failure: Failure) -> None:
    other = "requests" if failure.kind == "streams" else "streams"
    print(f"FAILED {failure.kind} seed {failure.seed}\n{failure.text}")
    print(
        f"replay: python -m tests.fuzz --seed {failure.seed} --{failure.kind} 1 --{other} 0",
        flush=True,
    )


def _say(done: Counter[Kind], failures: list[Failure], when: str = "") -> None:
    cases = f"{done['streams']} streams, {done['requests']} requests"
    print(f"fuzz: {cases}, {len(failures)} failures {when}".rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
