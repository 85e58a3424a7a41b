"""Judge finished texts as the guarded stream would have: the same machine, without asyncio.

    Checker.load(Path("policy.yaml")).check(prompt=.., reasoning=.., answer=..).action

Steps are judged in order, each before the next text comes, so a decision falls at the earliest
moment that it could. Where a live stream would be corrected, the check ends: nobody generates the
rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from monitors.events import (
    AbortUpstream,
    DeltaReceived,
    Effect,
    Event,
    Judge,
    Outcome,
    Refuse,
    Resume,
    StepJudged,
    UpstreamEnded,
)
from monitors.formats import SEPARATED
from monitors.judges.base import Judge as AnyJudge
from monitors.judges.base import Passage
from monitors.judges.build import build_panels, names_of
from monitors.policy import Policy
from monitors.policy_file import load_policy
from monitors.stream import GuardedStream
from monitors.task import ResumeMethod, Task
from monitors.taxonomy import Stage
from monitors.wording import detect_language

_DELTA = 16
"""Characters per delta; decisions do not depend on it, what was released by less than that."""


@dataclass(slots=True, frozen=True)
class Checker:
    """Judges finished texts as the guarded stream would have, in the thread that calls."""

    policy: Policy
    judges: Mapping[Stage, AnyJudge]

    @classmethod
    def load(cls, policy: Path) -> Checker:
        """A policy file and its judges. Raises UserError for what cannot be used."""
        loaded = load_policy(policy)
        panels = build_panels(loaded.judges, loaded.rules, guard_models=loaded.guard_models)
        return cls(loaded.judged_by(names_of(panels)), panels)

    def check(self, *, prompt: str = "", reasoning: str = "", answer: str = "") -> Outcome:
        """What the policy decides on a generation with these texts; the strongest decision."""
        return self.run(prompt, reasoning, answer).outcome

    def run(self, prompt: str, reasoning: str, answer: str) -> GuardedStream:
        """The stream at its end: where it was stopped, or behind its last character."""
        task = Task(
            prompt=prompt,
            inputs=(Passage(Stage.INPUT, prompt),) if prompt.strip() else (),
            language=detect_language(prompt),
            resume=ResumeMethod.CONTINUE,
            format=SEPARATED,
        )
        stream = GuardedStream(self.policy, task)
        due = deque[Effect](stream.start(0.0))
        for event in _events(reasoning, answer):
            if not self._settle(stream, due):
                break
            due.extend(stream.handle(event, 0.0))
        self._settle(stream, due)
        return stream

    def _settle(self, stream: GuardedStream, due: deque[Effect]) -> bool:
        """Answer what is to be judged; whether the generation goes on."""
        going_on = True
        while due:
            effect = due.popleft()
            if isinstance(effect, AbortUpstream | Resume | Refuse):
                going_on = False
            elif isinstance(effect, Judge) and going_on:
                verdict = self.judges[effect.passage.stage].score([effect.passage])[0]
                due.extend(stream.handle(StepJudged(effect.id, verdict), 0.0))
        return going_on


def _events(reasoning: str, answer: str) -> Iterator[Event]:
    for piece in _pieces(reasoning):
        yield DeltaReceived(0, reasoning=piece)
    for piece in _pieces(answer):
        yield DeltaReceived(0, content=piece)
    yield DeltaReceived(0, finish_reason="stop")
    yield UpstreamEnded(0)


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + _DELTA] for start in range(0, len(text), _DELTA))
