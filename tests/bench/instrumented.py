"""`mlrm-guard`, as it is, plus two things that only a bench wants, each by an environment variable.

BENCH_JUDGE_MS: the `constant` judge takes so long per passage: a judge that can be saturated.
BENCH_TASKS: a file that SIGUSR1 writes the number of asyncio tasks to.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from gateway.cli import main
from monitors.judges.base import Passage, Verdict
from monitors.judges.constant import ConstantJudge


def _slow_down(seconds: float) -> None:
    score = ConstantJudge.score

    def slow(self: ConstantJudge, passages: Sequence[Passage]) -> list[Verdict]:
        time.sleep(seconds * len(passages))
        return score(self, passages)

    ConstantJudge.score = slow  # type: ignore[method-assign]


def _count_tasks(file: Path) -> None:
    def write(*_: object) -> None:  # a signal handler runs in the loop's own thread
        file.write_text(str(len(asyncio.all_tasks())))

    signal.signal(signal.SIGUSR1, write)


if __name__ == "__main__":
    if wait := os.environ.get("BENCH_JUDGE_MS"):
        _slow_down(float(wait) / 1e3)
    if file := os.environ.get("BENCH_TASKS"):
        _count_tasks(Path(file))
    main()
