"""How much benign text waits for more than its own step: recorded traces in virtual time, no HTTP.

A trace comes as deltas of four characters, one per token time. Verdicts take no time, so that what
waits does so for the evidence alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from monitors.errors import TraceError
from monitors.events import (
    AbortUpstream,
    DeltaReceived,
    Effect,
    Event,
    Judge,
    Record,
    StepJudged,
    StepRecord,
    TimePassed,
    UpstreamEnded,
    WakeAt,
)
from monitors.formats import Format
from monitors.judges.base import Judge as AnyJudge
from monitors.judges.base import Passage
from monitors.policy import Policy
from monitors.stream import GuardedStream
from monitors.task import ResumeMethod, Task
from monitors.taxonomy import Stage
from monitors.trace import Trace, read_traces

TOKENS_PER_SECOND = 50.0
_TOKEN = 4


@dataclass(slots=True)
class Waiting:
    """Summed over traces."""

    traces: int = 0
    characters: int = 0
    """Of text that was judged."""
    waited: int = 0
    """Of those: what left later than with its own step's verdict, or never."""
    seconds: float = 0.0
    """In excursions."""
    generated_seconds: float = 0.0
    held: int = 0
    """Traces with at least one excursion."""
    stopped: int = 0
    """Traces that were corrected or refused."""

    @property
    def share(self) -> float:
        return self.waited / self.characters if self.characters else 0.0

    def add(self, other: Waiting) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def benign(path: Path) -> Iterator[Trace]:
    """The traces that nobody calls unsafe, and somebody calls safe."""
    for _, trace in read_traces(path):
        if isinstance(trace, TraceError):
            continue
        if trace.unsafe_reasoning == 0 and trace.unsafe_answer != 1:
            yield trace


def measure(policy: Policy, judges: Mapping[Stage, AnyJudge], traces: Iterable[Trace]) -> Waiting:
    """All of them, under one policy."""
    total = Waiting()
    for trace in traces:
        total.add(_Replay(policy, judges, trace).run())
    return total


class _Replay:
    """One trace through a guarded stream whose clock we turn."""

    def __init__(self, policy: Policy, judges: Mapping[Stage, AnyJudge], trace: Trace) -> None:
        self._judges, self._trace = judges, trace
        self._stream = GuardedStream(
            policy,
            Task(
                prompt=trace.prompt,
                inputs=(Passage(Stage.INPUT, trace.prompt),) if trace.prompt.strip() else (),
                resume=ResumeMethod.CONTINUE,
                format=Format.SEPARATED,
            ),
        )
        self._now = 0.0
        self._wake: float | None = None
        self._scored = 0  # end of the last scored step
        self._stopped = False
        self._waiting = Waiting(traces=1)

    def run(self) -> Waiting:
        self._take(self._stream.start(0.0))
        for count, event in enumerate(_events(self._trace), 1):
            self._pass_time(count / TOKENS_PER_SECOND)
            if self._stopped:
                break
            self._take(self._stream.handle(event, self._now))
        result = self._waiting
        result.characters = self._scored
        result.generated_seconds = self._now
        result.seconds = self._stream.outcome.excursion_seconds
        result.held = int(result.waited > 0)
        result.stopped = int(self._stopped)
        return result

    def _pass_time(self, until: float) -> None:
        while not self._stopped and self._wake is not None and self._wake <= until:
            self._now, self._wake = self._wake, None
            self._take(self._stream.handle(TimePassed(), self._now))
        self._now = until

    def _take(self, effects: Sequence[Effect]) -> None:
        """Do as told; what was scored and has not left once all of it is done, waits."""
        before = self._scored
        due = deque(effects)
        while due:
            match due.popleft():
                case Judge(id, passage):
                    verdict = self._judges[passage.stage].score([passage])[0]
                    due.extend(self._stream.handle(StepJudged(id, verdict), self._now))
                case Record(StepRecord() as step):
                    self._scored = max(self._scored, step.end)
                case WakeAt(time):
                    self._wake = time
                case AbortUpstream():
                    self._stopped = True
        left = max(self._stream.frontier, before)
        self._waiting.waited += max(0, self._scored - left)


def _events(trace: Trace) -> Iterator[Event]:
    for piece in _pieces(trace.reasoning or ""):
        yield DeltaReceived(0, reasoning=piece)
    for piece in _pieces(trace.answer or ""):
        yield DeltaReceived(0, content=piece)
    yield DeltaReceived(0, finish_reason="stop")
    yield UpstreamEnded(0)


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + _TOKEN] for start in range(0, len(text), _TOKEN))
