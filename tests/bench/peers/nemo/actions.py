"""NeMo Guardrails' trivial rail."""

from __future__ import annotations

from nemoguardrails.actions import action  # type: ignore[import-not-found]
from nemoguardrails.actions.rail_outcome import (  # type: ignore[import-not-found]
    RailOutcome,
)


@action(is_system_action=True)  # type: ignore[untyped-decorator]
async def trivial_check(text: str, **_: object) -> RailOutcome:
    """Blocks a phrase that the bench never says."""
    return RailOutcome.block() if "purple teapot" in text else RailOutcome.allow()
