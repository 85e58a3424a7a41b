"""Runs judges off the event loop: batched over all live streams, earliest deadline first, bounded.

Every submitted passage is answered exactly once, whatever happens: a full queue answers `overload`,
a late or failing judge `timeout` or `failed`, each an unknown verdict. A judge that hangs for good
holds its thread; its stage then answers `timeout`, which the policy's fail-closed rows turn into
refusals.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from time import perf_counter
from types import TracebackType

import structlog

from monitors.judges.base import OVERLOAD, TIMEOUT, Judge, Passage, Verdict
from monitors.taxonomy import Stage

log = structlog.get_logger(__name__)

QUEUE_BOUND = 1024
"""Passages waiting per judge; at 1 ms each the last would wait a second."""

BATCH = 16
"""Passages per hand-over to the thread; small, so that an early deadline gets in between."""

Callback = Callable[[Verdict], None]


@dataclass(slots=True, order=True)
class _Job:
    deadline: float
    order: int
    passage: Passage = field(compare=False)
    callback: Callback = field(compare=False)
    submitted: float = field(compare=False)
    timer: asyncio.TimerHandle | None = field(compare=False, default=None)
    answered: bool = field(compare=False, default=False)

    def answer(self, verdict: Verdict) -> None:
        if self.answered:
            return
        self.answered = True
        if self.timer is not None:
            self.timer.cancel()
        try:
            self.callback(verdict)
        except Exception as error:  # noqa: BLE001 - one caller's bug must not end judging for all
            log.error("callback failed", judge=verdict.judge, error=type(error).__name__)


class _Lane:
    """One judge, one thread, one queue."""

    def __init__(self, judge: Judge, bound: int) -> None:
        self.judge = judge
        self._bound = bound
        self._jobs: list[_Job] = []
        self._ready = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"judge-{judge.name}")

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def submit(self, job: _Job) -> None:
        if len(self._jobs) >= self._bound:
            # Jobs that timed out stay in the heap until they surface: make room before refusing.
            self._jobs = [waiting for waiting in self._jobs if not waiting.answered]
            heapq.heapify(self._jobs)
        if len(self._jobs) >= self._bound:
            # Not at once: the caller is still doing what made it submit.
            overload = Verdict.of_unknown(self.judge.name, OVERLOAD)
            asyncio.get_running_loop().call_soon(job.answer, overload)
            return
        heapq.heappush(self._jobs, job)
        self._ready.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        batch: list[_Job] = []
        try:
            while True:
                await self._ready.wait()
                batch = self._next_batch()
                if not batch:
                    self._ready.clear()
                    continue
                passages = [job.passage for job in batch]
                verdicts = await loop.run_in_executor(self._thread, self._score, passages)
                done = perf_counter()
                for job, verdict in zip(batch, verdicts, strict=True):
                    job.answer(replace(verdict, ms=(done - job.submitted) * 1e3))
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)
            for job in [*batch, *self._jobs]:
                job.answer(Verdict.of_unknown(self.judge.name, "shutdown"))

    def _next_batch(self) -> list[_Job]:
        batch: list[_Job] = []
        while self._jobs and len(batch) < BATCH:
            job = heapq.heappop(self._jobs)
            if not job.answered:
                batch.append(job)
        return batch

    def _score(self, passages: Sequence[Passage]) -> list[Verdict]:
        """In the thread. Never raises: a judge's failure is a verdict."""
        try:
            verdicts = [_checked(verdict) for verdict in self.judge.score(passages)]
            if len(verdicts) != len(passages):
                raise ValueError(f"{len(verdicts)} verdicts for {len(passages)} passages")
        except Exception as error:  # noqa: BLE001 - whatever a judge raises, the text is unjudged
            if len(passages) > 1:  # a text it chokes on must not cost others their verdict
                return [verdict for passage in passages for verdict in self._score([passage])]
            log.error("judge failed", judge=self.judge.name, error=type(error).__name__)
            return [Verdict.of_unknown(self.judge.name, "failed")]
        return verdicts


def _checked(verdict: Verdict) -> Verdict:
    """A score outside 0..1 (or not a number) is nonsense, hence unknown."""
    scores = () if verdict.unsafe is None else (verdict.unsafe, *verdict.scenarios.values())
    if all(0.0 <= score <= 1.0 for score in scores):
        return verdict
    return Verdict.of_unknown(verdict.judge, "nonsense")


class JudgeService:
    """An async context manager around the judges of the stages; `submit` never blocks."""

    def __init__(
        self, judges: Mapping[Stage, Judge], *, timeout: float, bound: int = QUEUE_BOUND
    ) -> None:
        """`timeout` in seconds from submission to verdict."""
        self._judges, self._timeout, self._bound = judges, timeout, bound
        self._lanes: dict[Stage, _Lane] = {}
        self._order = 0
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> JudgeService:
        lanes = {id(judge): _Lane(judge, self._bound) for judge in self._judges.values()}
        self._lanes = {stage: lanes[id(judge)] for stage, judge in self._judges.items()}
        await self._group.__aenter__()
        self._tasks = [self._group.create_task(lane.run()) for lane in lanes.values()]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    @property
    def waiting(self) -> int:
        """Passages in the queues."""
        return sum({id(lane): lane.waiting for lane in self._lanes.values()}.values())

    def submit(self, passage: Passage, callback: Callback) -> None:
        """Have a passage judged; `callback` is called on the event loop, exactly once."""
        loop = asyncio.get_running_loop()
        lane = self._lanes[passage.stage]
        self._order += 1
        now = loop.time()
        job = _Job(now + self._timeout, self._order, passage, callback, perf_counter())
        late = Verdict.of_unknown(lane.judge.name, TIMEOUT, self._timeout * 1e3)
        job.timer = loop.call_at(job.deadline, job.answer, late)
        lane.submit(job)
