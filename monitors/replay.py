"""Run recorded traces through the guarded stream: the very object that guards live ones, no HTTP.

A trace's steps are judged in order, each before the next text comes, so a decision falls at the
earliest moment that it could. Where a live stream would be corrected, replay ends: nobody generates
the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from monitors.errors import TraceError
from monitors.events import (
    AbortUpstream,
    DeltaReceived,
    Effect,
    Event,
    Judge,
    StepJudged,
    UpstreamEnded,
)
from monitors.formats import SEPARATED
from monitors.judges.base import Judge as AnyJudge
from monitors.judges.base import Passage
from monitors.judges.build import build_panels
from monitors.policy import Policy
from monitors.policy_file import load_policy
from monitors.stream import GuardedStream
from monitors.task import ResumeMethod, Task
from monitors.taxonomy import Action, Mode, Stage
from monitors.trace import Trace, read_traces, write_rows
from monitors.wording import detect_language

_DELTA = 16
"""Characters per delta; decisions do not depend on it, `released_*` by less than that."""


def replay_trace(policy: Policy, judges: Mapping[Stage, AnyJudge], trace: Trace) -> dict[str, Any]:
    """Run one trace; the row that `mlrm-guard replay` writes."""
    stream = _run(policy, judges, trace)
    outcome = stream.outcome
    nothing_decided = outcome.action is Action.ALLOW
    return {
        "id": trace.id,
        "decision": outcome.action.value,
        "stage": outcome.stage.value if outcome.stage else None,
        "scenario": outcome.scenario.value if outcome.scenario else None,
        "onset_step": outcome.onset_step,
        "onset_char": outcome.onset_char,
        "alarm_char": outcome.alarm_char,
        "steps": outcome.steps,
        "released_hold": stream.frontier if nothing_decided else outcome.released_at_decision,
        "released_live": stream.frontier if nothing_decided else outcome.generated_at_decision,
        "judge_ms": round(outcome.judge_ms, 3),
    }


def _run(policy: Policy, judges: Mapping[Stage, AnyJudge], trace: Trace) -> GuardedStream:
    task = Task(
        prompt=trace.prompt,
        inputs=(Passage(Stage.INPUT, trace.prompt),) if trace.prompt.strip() else (),
        language=detect_language(trace.prompt),
        resume=ResumeMethod.CONTINUE,
        format=SEPARATED,
    )
    stream = GuardedStream(policy, task)
    due = deque[Effect](stream.start(0.0))
    for event in _events(trace):
        if not _settle(stream, judges, due):
            break
        due.extend(stream.handle(event, 0.0))
    _settle(stream, judges, due)
    return stream


def _settle(stream: GuardedStream, judges: Mapping[Stage, AnyJudge], due: deque[Effect]) -> bool:
    """Answer what is to be judged; whether the generation goes on."""
    going_on = True
    while due:
        effect = due.popleft()
        if isinstance(effect, AbortUpstream):
            going_on = False
        elif isinstance(effect, Judge) and going_on:
            verdict = judges[effect.passage.stage].score([effect.passage])[0]
            due.extend(stream.handle(StepJudged(effect.id, verdict), 0.0))
    return going_on


def _events(trace: Trace) -> Iterator[Event]:
    for piece in _pieces(trace.reasoning or ""):
        yield DeltaReceived(0, reasoning=piece)
    for piece in _pieces(trace.answer or ""):
        yield DeltaReceived(0, content=piece)
    yield DeltaReceived(0, finish_reason="stop")
    yield UpstreamEnded(0)


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + _DELTA] for start in range(0, len(text), _DELTA))


def replay(
    traces: Annotated[Path, typer.Argument(help="Trace file (JSON lines, gzip by name).")],
    policy: Annotated[Path, typer.Option(help="Policy file (YAML).")],
    out: Annotated[Path, typer.Option(help="Where to write one row per trace.")],
    judge: Annotated[str | None, typer.Option(help="Overrides the judges of all stages.")] = None,
) -> None:
    """Run recorded traces through a policy: what would have been decided, and where.

    A bad row gives `{id: null, error}` in its place, and exit code 1 at the end.
    """
    loaded = load_policy(policy).with_mode(Mode.ENFORCE)
    if judge is not None:
        loaded = loaded.with_judge(judge)
    panels = build_panels(loaded.judges, loaded.rules)
    bad = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal bad
        for _, trace in read_traces(traces):
            if isinstance(trace, TraceError):
                bad += 1
                yield {"id": None, "error": str(trace)}
            else:
                yield replay_trace(loaded, panels, trace)

    write_rows(out, traces, rows())
    if bad:
        typer.echo(f"mlrm-guard: {bad} bad rows, each with its error in {out}", err=True)
        raise typer.Exit(1)
