"""`make faults`: play every row, say which hold.

`--break ROW` plays that row with its protection off, and must find it red; `--break all` does so
with every row, and says how many turn red.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from tests.faults.row import Result, Row, try_row
from tests.faults.table import ROWS

ROW_SECONDS = 120


def main(arguments: Sequence[str] | None = None, *, row_seconds: int | None = None) -> int:
    """Returns the exit status: 0 where every row holds (`--break all`: where none does)."""
    options = _options(arguments)
    if options.list:
        for row in ROWS:
            print(f"{row.name:40} {row.what}. Kept by: {row.protection.what}.")
        return 0
    breaks = options.without is not None
    if breaks and options.without != "all":
        names = [options.without]
    else:
        names = options.only or [row.name for row in ROWS]
    results = [_played(row, row_seconds, broken=breaks) for row in ROWS if row.name in names]
    if breaks and options.without == "all":
        red = sum(not result.holds and not result.crashed for result in results)
        print(f"{red} of {len(results)} rows turn red")
        return int(red < len(results))
    held = sum(result.holds for result in results)
    print(f"{held} of {len(results)} rows hold")
    return int(held < len(results))


def _options(arguments: Sequence[str] | None) -> Any:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--break", dest="without", metavar="ROW", choices=[*names, "all"], help="or `all`"
    )
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=names)
    parser.add_argument("--list", action="store_true", help="the rows, and what keeps each")
    return parser.parse_args(arguments)


def _played(row: Row, seconds: int | None, *, broken: bool) -> Result:
    if broken:
        print(f"off: {row.protection.what}")
    with _deadline(row, seconds) if seconds is not None else nullcontext():
        result = try_row(row, broken=broken)
    verdict = "ok  " if result.holds else "CRASH" if result.crashed else "FAIL"
    why = f": {result.why}" if result.why else ""
    print(f"{verdict} {row.name} ({result.seconds:.1f} s){why}", flush=True)
    return result


@contextmanager
def _deadline(row: Row, seconds: int) -> Iterator[None]:
    """A row that hangs is a row that crashed."""

    def late(*_: object) -> None:
        raise TimeoutError(f"{row.name} did not end within {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # of replies that the rows cut off
    sys.exit(main(row_seconds=ROW_SECONDS))
