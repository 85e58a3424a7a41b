"""Runs judges off the event loop: batched over all live streams, earliest deadline first, bounded.

Every submitted passage is answered exactly once, whatever happens, unless its caller has said that
nobody waits for the answer any more (`until`): a full queue answers `overload`, a late or failing
judge `timeout` or `failed`, each an unknown verdict. A judge that hangs for good
holds its thread; its stage then answers `timeout`, which the policy's fail-closed rows turn into
refusals.

No passage holds up the others: a long one is judged in overlapping pieces, and its next piece goes
behind whoever waits by then.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
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

PIECE, OVERLAP = 20_000, 2_000
"""Characters judged at once (also per hand-over: about 20 ms with the shipped judge), and how many
of them the next piece of the same text sees again: more than a window or a phrase.
"""

Callback = Callable[[Verdict], None]


@dataclass(slots=True, order=True)
class _Job:
    turn: float
    order: int
    piece: Passage = field(compare=False)  # to be judged next
    rest: Iterator[Passage] = field(compare=False)
    callback: Callback = field(compare=False)
    submitted: float = field(compare=False)
    timeout: float = field(compare=False)
    until: asyncio.Event | None = field(compare=False)
    timer: asyncio.TimerHandle | None = field(compare=False, default=None)
    answered: bool = field(compare=False, default=False)
    verdicts: list[Verdict] = field(compare=False, default_factory=list)

    @property
    def over(self) -> bool:
        """Whether it was answered (too late, perhaps), or nobody wants the answer any more."""
        return self.answered or (self.until is not None and self.until.is_set())

    def advance(self) -> bool:
        """On to the next piece, if there is one."""
        if self.over or (piece := next(self.rest, None)) is None:
            return False
        self.piece = piece
        return True

    def answer(self, verdict: Verdict) -> None:
        if self.over:
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
        self._handed: SimpleQueue[_Batch | None] = SimpleQueue()

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def submit(self, job: _Job) -> None:
        if len(self._jobs) >= self._bound:
            # Jobs that timed out stay in the heap until they surface: make room before refusing.
            self._jobs = [waiting for waiting in self._jobs if not waiting.over]
            heapq.heapify(self._jobs)
        if len(self._jobs) >= self._bound:
            # Not at once: the caller is still doing what made it submit.
            overload = Verdict.of_unknown(self.judge.name, OVERLOAD)
            asyncio.get_running_loop().call_soon(job.answer, overload)
            return
        self._push(job)

    def _push(self, job: _Job) -> None:
        heapq.heappush(self._jobs, job)
        self._ready.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        batch: list[_Job] = []
        # A daemon: a judge that hangs for good must not keep the process from ending.
        name = f"judge-{self.judge.name}"
        threading.Thread(target=self._work, args=(loop,), name=name, daemon=True).start()
        try:
            while True:
                await self._ready.wait()
                batch = self._next_batch()
                if not batch:
                    self._ready.clear()
                    continue
                future: asyncio.Future[list[Verdict]] = loop.create_future()
                self._handed.put((batch, future))
                verdicts = await future
                done = perf_counter()
                for job, verdict in zip(batch, verdicts, strict=True):
                    job.verdicts.append(verdict)
                    if job.advance():
                        job.turn = loop.time() + job.timeout
                        self._push(job)
                        continue
                    one = len(job.verdicts) == 1
                    whole = verdict if one else Verdict.combined(self.judge.name, job.verdicts)
                    job.answer(replace(whole, ms=(done - job.submitted) * 1e3))
        finally:
            self._handed.put(None)
            for job in [*batch, *self._jobs]:
                job.answer(Verdict.of_unknown(self.judge.name, "shutdown"))

    def _next_batch(self) -> list[_Job]:
        batch: list[_Job] = []
        room = PIECE
        while self._jobs and len(batch) < BATCH:
            if self._jobs[0].over:
                heapq.heappop(self._jobs)
                continue
            room -= len(self._jobs[0].piece.text)
            if batch and room < 0:
                break
            batch.append(heapq.heappop(self._jobs))
        return batch

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread."""
        while (handed := self._handed.get()) is not None:
            batch, future = handed
            verdicts = self._score(batch)
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_settle, future, verdicts)

    def _score(self, batch: Sequence[_Job]) -> list[Verdict]:
        """In the thread. Never raises: a judge's failure is a verdict."""
        try:
            verdicts = [_checked(v) for v in self.judge.score([job.piece for job in batch])]
            if len(verdicts) != len(batch):
                raise ValueError(f"{len(verdicts)} verdicts for {len(batch)} passages")
        except BaseException as error:  # noqa: BLE001 - whatever it raises, the text is unjudged
            if len(batch) > 1:  # a text it chokes on must not cost others their verdict
                return [verdict for job in batch for verdict in self._score_alone(job)]
            log.error("judge failed", judge=self.judge.name, error=type(error).__name__)
            return [Verdict.of_unknown(self.judge.name, "failed")]
        return verdicts

    def _score_alone(self, job: _Job) -> list[Verdict]:
        if job.over:  # meanwhile
            return [Verdict.of_unknown(self.judge.name, TIMEOUT)]
        return self._score([job])


_Batch = tuple[list[_Job], asyncio.Future[list[Verdict]]]


def _settle(future: asyncio.Future[list[Verdict]], verdicts: list[Verdict]) -> None:
    if not future.done():  # cancelled: the service ends
        future.set_result(verdicts)


def _pieces(passage: Passage) -> Iterator[Passage]:
    """The passage, cut where it is long."""
    if len(passage.text) <= PIECE:
        yield passage
        return
    for start in range(0, len(passage.text) - OVERLAP, PIECE - OVERLAP):
        yield replace(passage, text=passage.text[start : start + PIECE])


def _checked(verdict: Verdict) -> Verdict:
    """A score outside 0..1 (or not a number) is nonsense, hence unknown."""
    scores = [
        score
        for one in (verdict, *verdict.parts)
        if one.unsafe is not None
        for score in (one.unsafe, *one.scenarios.values())
    ]
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

    def submit(
        self, passage: Passage, callback: Callback, *, until: asyncio.Event | None = None
    ) -> None:
        """Have a passage judged; `callback` is called on the event loop, exactly once.

        Once `until` is set nobody wants the verdict: it is not called, and what waits is dropped.
        """
        loop = asyncio.get_running_loop()
        lane = self._lanes[passage.stage]
        self._order += 1
        now = loop.time()
        rest, timeout = _pieces(passage), self._timeout
        job = _Job(
            now + timeout, self._order, next(rest), rest, callback, perf_counter(), timeout, until
        )
        late = Verdict.of_unknown(lane.judge.name, TIMEOUT, timeout * 1e3)
        job.timer = loop.call_at(job.turn, job.answer, late)
        lane.submit(job)
