"""Scripted and driven runs of a `GuardedStream`, without asyncio.

`Playbook` reads like a transcript: `>>` is what happens, `<<` is what the stream then does, in
order. Questions are answered by `judged(p)`. Wake-ups and step records are left out of transcripts.

    Playbook() >> said("Hello.") << Open() >> ended() << asks("Hello.") >> judged(0.1) << ...

`drive` runs a whole generation, any chunking, verdicts in any order, and collects what the client
gets.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from monitors.events import (
    AbortUpstream,
    Begin,
    ClientLeft,
    DeltaReceived,
    Effect,
    Event,
    Fail,
    Finish,
    Judge,
    Outcome,
    Record,
    Refuse,
    Release,
    ReleaseCall,
    Restart,
    Resume,
    StepJudged,
    StepRecord,
    StepReleased,
    TimePassed,
    ToolCall,
    UpstreamEnded,
    UpstreamFailed,
    WakeAt,
)
from monitors.formats import WireField
from monitors.judges.base import Passage, Verdict
from monitors.policy import Policy
from monitors.policy_file import parse_policy
from monitors.stream import GuardedStream
from monitors.task import ResumeMethod, Task
from monitors.taxonomy import Scenario
from monitors.wire import TokenLogprob, Usage

THOUGHT = "I should keep this safe."
REFUSAL = "I can't help with that."
TASK = Task("How do I do it?", resume=ResumeMethod.CONTINUE)

_ROWS = {
    "default": {
        "input": "refuse",
        "reasoning": "correct",
        "answer": "refuse",
        # Not the built-in ones, which move with the embedded judge.
        "threshold": {"input": 0.5, "reasoning": 3.0, "answer": 3.0},
    },
    "legal_opinion": {"input": "flag", "reasoning": "flag", "answer": "flag"},
}


def policy(rows: Mapping[str, Any] | None = None, **sections: Any) -> Policy:
    """The tests' policy; `rows` are scenario rows and `sections` the other keys of the file."""
    return _policy(json.dumps([{**_ROWS, **(rows or {})}, sections]))


@cache
def _policy(text: str) -> Policy:
    rows, sections = json.loads(text)
    texts = {"safety_thoughts": {"en": THOUGHT}, "refusals": {"en": REFUSAL}}
    return parse_policy(
        json.dumps({"name": "test", **texts, **sections, "scenarios": rows}), "test"
    )


def verdict(score: float | str, scenario: Scenario | None = None) -> Verdict:
    """A verdict: a probability, or why it is unknown."""
    if isinstance(score, str):
        return Verdict.of_unknown("test", score)
    return Verdict(score, "test", {scenario: score} if scenario else {})


# --- transcripts ------------------------------------------------------------------------------


@dataclass
class Judged:
    """The oldest question, or the newest, is answered."""

    verdict: Verdict
    newest: bool = False


@dataclass
class Waited:
    """This many seconds pass, and the stream is told."""

    seconds: float


@dataclass
class Asks:
    """Matches a `Judge` effect by its text."""

    text: str


def thought(text: str, leg: int = 0) -> DeltaReceived:
    return DeltaReceived(leg, reasoning=text)


def said(text: str, leg: int = 0, finish: str | None = None) -> DeltaReceived:
    return DeltaReceived(leg, content=text, finish_reason=finish)


def ended(leg: int = 0) -> UpstreamEnded:
    return UpstreamEnded(leg)


def failed(leg: int = 0) -> UpstreamFailed:
    return UpstreamFailed(leg, ERROR)


def left() -> ClientLeft:
    return ClientLeft()


def judged(score: float | str, scenario: Scenario | None = None, *, newest: bool = False) -> Judged:
    return Judged(verdict(score, scenario), newest)


def waited(seconds: float) -> Waited:
    return Waited(seconds)


def asks(text: str) -> Asks:
    return Asks(text)


def thinks(text: str) -> Release:
    return Release(WireField.REASONING, text)


def says(text: str) -> Release:
    return Release(WireField.CONTENT, text)


def finishes(reason: str = "stop", stop: str | None = None, usage: Usage | None = None) -> Finish:
    return Finish(reason, stop, usage)


ERROR = RuntimeError("upstream")


class Playbook:
    """A transcript that is checked while it is written."""

    def __init__(self, rules: Policy | None = None, task: Task = TASK) -> None:
        self.stream = GuardedStream(rules or policy(), task)
        self.now = 0.0
        self.steps: list[StepRecord] = []
        self.wakes: list[float] = []
        self.lags: list[StepReleased] = []
        self.begun = False
        self._asked: list[int] = []
        self._done: list[Effect] = []
        self._note(self.stream.start(0.0))

    def __rshift__(self, event: Event | Judged | Waited) -> Playbook:
        assert not self._done, f"before {event}: unexpected {self._done[0]}"
        if isinstance(event, Judged):
            event = StepJudged(self._asked.pop(-1 if event.newest else 0), event.verdict)
        elif isinstance(event, Waited):
            self.now += event.seconds
            event = TimePassed()
        self._note(self.stream.handle(event, self.now))
        return self

    def __lshift__(self, expected: Effect | Asks | type[Record]) -> Playbook:
        assert self._done, f"nothing happens, expected {expected}"
        effect = self._done.pop(0)
        if isinstance(expected, Asks):
            assert isinstance(effect, Judge), f"{effect}, expected {expected}"
            assert effect.passage.text == expected.text
        elif expected is Record:
            assert effect == Record(self.stream.outcome)
        else:
            assert effect == expected, f"{effect}, expected {expected}"
        return self

    @property
    def outcome(self) -> Outcome:
        """The outcome so far, once everything that happened was expected."""
        assert not self._done, f"unexpected {self._done[0]}"
        return self.stream.outcome

    def _note(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Record) and isinstance(effect.what, StepRecord):
                self.steps.append(effect.what)
            elif isinstance(effect, WakeAt):
                self.wakes.append(effect.time)
            elif isinstance(effect, Record) and isinstance(effect.what, StepReleased):
                self.lags.append(effect.what)
            elif isinstance(effect, Begin):
                self.begun = True
            else:
                self._done.append(effect)
                if isinstance(effect, Judge):
                    self._asked.append(effect.id)


# --- driven runs ------------------------------------------------------------------------------

Ending = UpstreamEnded | UpstreamFailed | ClientLeft
Chunk = tuple[str, str] | DeltaReceived | Ending
"""Reasoning and content of one delta, a delta, or what ends the leg."""


@dataclass
class Seen:
    """What came of one generation, and what of it the client got."""

    outcome: Outcome = field(default_factory=Outcome)
    reasoning: str = ""
    content: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    refusal: str | None = None
    finish: list[Finish] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    outcomes: int = 0
    steps: list[StepRecord] = field(default_factory=list)
    begun: bool = False
    """The upstream was asked for leg 0."""
    resumed: list[Resume | Restart] = field(default_factory=list)
    asked: list[list[tuple[int, Passage]]] = field(default_factory=lambda: [[]])
    """Per leg, in order."""
    answered: set[int] = field(default_factory=set)
    leg_text: list[str] = field(default_factory=lambda: [""])
    """What the client got of each leg."""
    leg_steps: list[list[StepRecord]] = field(default_factory=lambda: [[]])
    leg_tokens: list[int] = field(default_factory=lambda: [0])
    order: list[str] = field(default_factory=list)
    """The kinds of all effects."""


def drive(
    stream: GuardedStream,
    chunks: Iterable[Chunk],
    judge: Callable[[Passage], Verdict],
    *,
    order: random.Random | None = None,
    resume: Callable[[int], Iterable[Chunk]] = lambda leg: [],
    wake: bool = False,
    usage: bool = True,
    last: Ending | None = None,
    weights: tuple[int, int, int] = (3, 2, 1),
    watch: Callable[[Seen, Effect], None] = lambda seen, effect: None,
    tell: Callable[[Event], None] = lambda event: None,
) -> Seen:
    """Run a generation to its end.

    Without `order` every question is answered at once; with it, what happens next is drawn by
    `weights`: a delta, one of the open verdicts, with `wake` also `TimePassed`. Each delta is one
    token. `last` comes instead of the upstream's end. `tell` is called before each event, `watch`
    after each effect.
    """
    seen = Seen(stream.outcome)
    open_questions: list[tuple[int, Passage]] = []
    now = 0.0

    def deltas(leg: int, chunks: Iterable[Chunk]) -> list[Event]:
        events: list[Event] = []
        for n, chunk in enumerate(chunks, start=1):
            if isinstance(chunk, tuple):
                count = Usage(7, n, 7 + n) if usage else None
                events.append(DeltaReceived(leg, *chunk, usage=count))
            elif isinstance(chunk, ClientLeft):
                events.append(chunk)
            else:
                events.append(replace(chunk, leg=leg))
        if not events or isinstance(events[-1], DeltaReceived):
            events.append(UpstreamEnded(leg) if leg or last is None else last)
        return events

    upstream: list[Event] = []

    def do(effects: Sequence[Effect]) -> None:
        nonlocal upstream
        for effect in effects:
            seen.order.append(type(effect).__name__)
            match effect:
                case Begin():
                    seen.begun = True
                    upstream = deltas(0, chunks)
                case Judge(id, passage):
                    open_questions.append((id, passage))
                    seen.asked[-1].append((id, passage))
                case Release(where, text, logprobs):
                    seen.leg_text[-1] += text
                    seen.logprobs += logprobs
                    if where is WireField.REASONING:
                        seen.reasoning += text
                    else:
                        seen.content += text
                case ReleaseCall(call):
                    seen.calls.append(call)
                case Refuse(text):
                    seen.refusal = text
                case AbortUpstream(leg):
                    upstream = []
                case Resume(leg) | Restart(leg):
                    seen.resumed.append(effect)
                    seen.asked.append([])
                    seen.leg_text.append("")
                    seen.leg_steps.append([])
                    seen.leg_tokens.append(0)
                    upstream = deltas(leg, resume(leg))
                case Finish():
                    seen.finish.append(effect)
                case Fail(error):
                    seen.failures.append(error)
                case Record(StepRecord() as step):
                    seen.steps.append(step)
                    seen.leg_steps[-1].append(step)
                case Record(Outcome()):
                    seen.outcomes += 1
            watch(seen, effect)

    def happens(event: Event) -> None:
        tell(event)
        do(stream.handle(event, now))

    def answer(index: int) -> None:
        number, passage = open_questions.pop(index)
        seen.answered.add(number)
        happens(StepJudged(number, judge(passage)))

    do(stream.start(now))
    if not seen.begun and not open_questions:  # a playbook's stream, which has begun
        upstream = deltas(0, chunks)
    while upstream or open_questions:
        if order is None:
            draw = 1 if open_questions else 0
        else:
            delta, verdict, time = weights
            likely = [delta * bool(upstream), verdict * bool(open_questions), time * wake]
            draw = order.choices(range(3), likely)[0]
            now += order.random()
        if draw == 2:
            happens(TimePassed())
        elif draw == 1:
            answer(order.randrange(len(open_questions)) if order else 0)
        else:
            event = upstream.pop(0)
            if isinstance(event, DeltaReceived):
                seen.leg_tokens[-1] += 1
            happens(event)
    return seen
