"""NeMo Guardrails' trivial rail."""

from __future__ import annotations

from nemoguardrails.actions import action
from nemoguardrails.actions.rail_outcome import RailOutcome


@action(is_system_action=True)  # type: ignore[untyped-decorator]
async def trivial_check(text: str) -> RailOutcome:
    """Blocks a phrase that the bench never says."""
    return RailOutcome.block() if "purple teapot" in text else RailOutcome.allow()
