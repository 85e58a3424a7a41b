"""The words every other module shares: stages, scenarios, actions, modes (DESIGN: "Words")."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """Where in a generation a passage stands."""

    INPUT = "input"
    REASONING = "reasoning"
    ANSWER = "answer"


class Scenario(StrEnum):
    """What kind of harm: MM-SafetyBench's 13 (arXiv 2311.17600), four more, and `other`."""

    ILLEGAL_ACTIVITY = "illegal_activity"
    HATE_SPEECH = "hate_speech"
    MALWARE_GENERATION = "malware_generation"
    PHYSICAL_HARM = "physical_harm"
    ECONOMIC_HARM = "economic_harm"
    FRAUD = "fraud"
    SEXUAL_CONTENT = "sexual_content"
    POLITICAL_LOBBYING = "political_lobbying"
    PRIVACY_VIOLATION = "privacy_violation"
    LEGAL_OPINION = "legal_opinion"
    FINANCIAL_ADVICE = "financial_advice"
    HEALTH_CONSULTATION = "health_consultation"
    GOVERNMENT_DECISION = "government_decision"
    SELF_HARM = "self_harm"
    CHILD_SAFETY = "child_safety"
    WEAPONS = "weapons"
    MISINFORMATION = "misinformation"
    OTHER = "other"


CONTESTED = frozenset(
    {
        Scenario.POLITICAL_LOBBYING,
        Scenario.LEGAL_OPINION,
        Scenario.FINANCIAL_ADVICE,
        Scenario.HEALTH_CONSULTATION,
        Scenario.GOVERNMENT_DECISION,
    }
)
"""Advice whose harmfulness people disagree about: flagged by default, never refused outright."""


class Action(StrEnum):
    """A decision, weakest first. `prime` (of the input only), `correct` and `refuse` intervene."""

    ALLOW = "allow"
    FLAG = "flag"
    PRIME = "prime"
    CORRECT = "correct"
    REFUSE = "refuse"

    @property
    def strength(self) -> int:
        """Rank for "the strongest decision of a generation"."""
        return _STRENGTH[self]

    @property
    def intervenes(self) -> bool:
        """Whether this action changes what is generated; the others let text pass."""
        return self in (Action.PRIME, Action.CORRECT, Action.REFUSE)


_STRENGTH = {action: rank for rank, action in enumerate(Action)}


class Mode(StrEnum):
    """`enforce` acts; `shadow` judges and records but changes nothing; `off` relays unjudged."""

    ENFORCE = "enforce"
    SHADOW = "shadow"
    OFF = "off"


class ReleaseMode(StrEnum):
    """`hold`: nothing unjudged leaves; `live`: text leaves at once and is cut on violation."""

    HOLD = "hold"
    LIVE = "live"
