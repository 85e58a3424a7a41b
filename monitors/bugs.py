"""How errors are logged that are ours: class and place, but no text, which may quote users."""

from __future__ import annotations

import os
from traceback import extract_tb

import structlog


def log_bug(error: BaseException) -> None:
    """Log an error that nobody expected."""
    structlog.get_logger("mlrm_guard").error("internal error", **bare(error))


def bare(error: BaseException) -> dict[str, object]:
    """An error's class and place; of the system's errors also the system's own words."""
    where = [f"{frame.name}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
    facts: dict[str, object] = {"error": type(error).__name__, "where": where[-8:]}
    if isinstance(error, OSError) and error.errno is not None:
        facts["system"] = os.strerror(error.errno)
    return facts
