"""The README's table of clients, made of what they showed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tests.clients.driver import Seen

Pair = tuple[Seen, Seen]
"""Streamed, and not streamed."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one client showed in each case."""

    name: str
    benign: Pair
    corrected: Pair
    refused: Pair
    denied: Pair
    unformed: Pair
    called: Pair
    broken: Seen


def table(rows: Sequence[Row], *, benign: str, corrected: str, answered: str, refusal: str) -> str:
    """Markdown; the other arguments are the texts that should be seen."""

    def refused(seen: Seen) -> str:
        times = {1: "once", 2: "**twice**"}[seen.text.count(refusal)]
        return f"{times}, `{seen.finish}`"

    def alone(seen: Seen) -> str:
        return "yes" if seen.refusal == refusal else "no"

    def called(seen: Seen) -> str:
        return "answered" if len(seen.calls) == 1 and seen.text == answered else "no"

    columns: dict[str, Callable[[Row], str]] = {
        "client": lambda row: row.name,
        "benign": lambda row: _cell(row.benign, partial(_text, expected=benign)),
        "corrected": lambda row: _cell(row.corrected, partial(_text, expected=corrected)),
        "tool call": lambda row: _cell(row.called, called),
        "refusal shown": lambda row: _cell(row.refused, refused),
        "`refusal`": lambda row: _cell(row.refused, alone),
        "`refuse_as: error`": lambda row: _cell(row.denied, _denied),
        "refused structured output": lambda row: _cell(row.unformed, _raised),
        "error in a stream": lambda row: _raised(row.broken),
        "thinking": lambda row: _cell(row.benign, lambda seen: _name(seen.reasoning_at)),
        "`guard`": lambda row: _cell(row.benign, lambda seen: _name(seen.guard_at)),
    }
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[say(row) for say in columns.values()] for row in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(pair: Pair, say: Callable[[Seen], str]) -> str:
    """One word for both, or `streamed; not streamed`."""
    streamed, whole = say(pair[0]), say(pair[1])
    return streamed if streamed == whole else f"{streamed}; {whole}"


def _text(seen: Seen, expected: str) -> str:
    return f"whole, `{seen.finish}`" if seen.text == expected else "changed"


def _denied(seen: Seen) -> str:
    told = seen.error is not None and seen.error["code"] == "content_policy_violation"
    return _raised(seen) + ("" if told else ", `code` only in its text")


def _raised(seen: Seen) -> str:
    return f"`{seen.error['kind']}`" if seen.error else "nothing raised"


def _name(at: str) -> str:
    return f"`{at}`" if at else "no"
