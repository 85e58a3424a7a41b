"""The README's table of clients, made of what they showed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


def table(rows: Sequence[Row], *, benign: str, corrected: str, kept: str, refusal: str) -> str:
    """Markdown; cells say `streamed; not streamed` where the two differ."""

    def cell(pair: Pair, say: Callable[[Seen], str]) -> str:
        streamed, whole = say(pair[0]), say(pair[1])
        return streamed if streamed == whole else f"{streamed}; {whole}"

    def text(expected: str) -> Callable[[Seen], str]:
        return lambda seen: f"{_same(seen, expected)}, `{seen.finish}`"

    def refused(seen: Seen) -> str:
        times = seen.text.count(refusal)
        shown = {0: "no refusal", 1: "text so far, refusal", 2: "text so far, refusal **twice**"}
        alone = ", `refusal`" if seen.refusal == refusal else ""
        assert seen.text.startswith(kept)
        return f"{shown[times]}, `{seen.finish}`{alone}"

    header = (
        "client",
        "benign",
        "corrected",
        "refused",
        "`refuse_as: error`",
        "refused, structured output",
        "tool call",
        "error in a stream",
        "thinking",
        "`guard`",
    )
    body = [
        (
            row.name,
            cell(row.benign, text(benign)),
            cell(row.corrected, text(corrected)),
            cell(row.refused, refused),
            cell(row.denied, _raised),
            cell(row.unformed, _raised),
            cell(row.called, lambda seen: f"{len(seen.calls)}, answered"),
            f"{_raised(row.broken)} after the text so far",
            cell(row.benign, lambda seen: _name(seen.reasoning_at)),
            cell(row.benign, lambda seen: _name(seen.guard_at)),
        )
        for row in rows
    ]
    lines = [header, ("---",) * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _same(seen: Seen, expected: str) -> str:
    return "as sent" if seen.text == expected else f"changed: {seen.text!r}"


def _raised(seen: Seen) -> str:
    if seen.error is None:
        return "nothing raised"
    code = seen.error["code"]
    return f"`{seen.error['kind']}`" + (f", code `{code}`" if isinstance(code, str) else "")


def _name(at: str) -> str:
    return f"`{at}`" if at else "no"
