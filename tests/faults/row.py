"""One row of the fault table: a fault, what keeps the gateway standing, and the proof."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from tests.faults.protections import Protection


@dataclass(frozen=True, slots=True)
class Row:
    """`play` raises AssertionError where the row does not hold."""

    name: str
    what: str
    protection: Protection
    play: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Result:
    """How a row went. `why` it does not hold; `crashed`: by an error of the row itself."""

    row: Row
    seconds: float
    why: str = ""
    crashed: bool = False

    @property
    def holds(self) -> bool:
        return not self.why


def row(protection: Protection) -> Callable[[Callable[[], None]], Row]:
    """Make a row of a function: its name is the row's, its first line says what happens."""

    def make(play: Callable[[], None]) -> Row:
        what = (play.__doc__ or "").strip().splitlines()[0].rstrip(".")
        return Row(play.__name__.replace("_", "-"), what, protection, play)

    return make


def try_row(row: Row, *, broken: bool = False) -> Result:
    """Play it, `broken` without its protection."""
    start = time.monotonic()
    why, crashed = "", False
    try:
        with row.protection.off() if broken else nullcontext():
            row.play()
    except AssertionError as error:
        why = _reason(error)
    except Exception as error:  # the row or the harness: never what a broken row is to show
        why, crashed = f"{_reason(error)} ({type(error).__name__})", True
    return Result(row, time.monotonic() - start, why, crashed)


def _reason(error: Exception) -> str:
    """The first line of the message; the failed line of code where there is none."""
    if lines := str(error).strip().splitlines():
        return lines[0]
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}: {last.line}"
