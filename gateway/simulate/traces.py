"""The recorded traces that the simulated model replays."""

from __future__ import annotations

from pathlib import Path

from monitors.errors import TraceError
from monitors.trace import Trace, read_traces

DEMO_TRACES = Path(__file__).with_name("demo-traces.jsonl")

UNKNOWN = Trace(
    id="unknown",
    prompt="",
    reasoning=(
        "The user asks me something. "
        "I am a simulated model, and all I can do is replay recorded traces. "
        "I have looked for this request among them. "
        "None of the traces I was started with begins with it. "
        "The honest reply is to say just that."
    ),
    answer="This is a simulated model. It knows no recorded trace for this request.",
)


def load_traces(path: Path) -> list[Trace]:
    """All traces of a file. Raises UserError where it or a row of it cannot be read."""
    traces: list[Trace] = []
    for _, row in read_traces(path):
        if isinstance(row, TraceError):
            raise row
        traces.append(row)
    return traces
