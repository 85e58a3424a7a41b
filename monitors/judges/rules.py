"""Operator patterns: certain, instant, and without backtracking (RE2), on normalised text.

A phrase that step boundaries split must hit too, so a passage is also matched joined to the two
steps before it. Only a match that reaches into the passage counts: the earlier steps had their own
verdicts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from time import perf_counter
from typing import Any

import re2

from monitors.errors import UserError
from monitors.judges.base import Passage, Verdict
from monitors.normalise import normalise
from monitors.taxonomy import Scenario, Stage

_TAIL = 1000  # characters of the earlier steps: more than two have, so this bounds odd callers
_HEAD = 4000  # characters of the passage that a match begun in an earlier step may reach into


@dataclass(slots=True, frozen=True)
class Rule:
    """Any of `patterns` (RE2 syntax, matched ignoring case; `literal` makes one of plain text)."""

    name: str
    patterns: tuple[str, ...]
    scenario: Scenario
    stages: frozenset[Stage] = frozenset(Stage)


def literal(text: str) -> str:
    """The pattern that matches this text, normalised as the judged text will be."""
    return str(re2.escape(normalise(text)))


class RulesJudge:
    """Exactly 1.0 where a rule of the passage's stage matches, else 0.0."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.name = f"rules@{_version(rules)}"
        patterns = [(rule, _compile(rule.name, "|".join(_checked(rule)))) for rule in rules]
        self._rules = {
            stage: [(rule, pattern) for rule, pattern in patterns if stage in rule.stages]
            for stage in Stage
        }
        # One automaton per stage answers the usual case, that no rule matches at all.
        self._any = {
            stage: _compile(
                "all rules", "|".join(f"(?:{p})" for rule, _ in own for p in rule.patterns)
            )
            for stage, own in self._rules.items()
            if own
        }

    def score(self, passages: Sequence[Passage]) -> list[Verdict]:
        """One verdict per passage, in order."""
        started = perf_counter()
        return [self._verdict(passage, started) for passage in passages]

    def _verdict(self, passage: Passage, started: float) -> Verdict:
        hits = self._hits(passage) if passage.stage in self._any else {}
        ms = (perf_counter() - started) * 1000
        return Verdict(unsafe=1.0 if hits else 0.0, judge=self.name, scenarios=hits, ms=ms)

    def _hits(self, passage: Passage) -> dict[Scenario, float]:
        candidates = [
            (text, start)
            for text, start in _readings(passage)
            if _reaches(self._any[passage.stage], text, start)
        ]
        return {
            rule.scenario: 1.0
            for text, start in candidates
            for rule, pattern in self._rules[passage.stage]
            if _reaches(pattern, text, start)
        }


def _readings(passage: Passage) -> Iterator[tuple[str, int]]:
    """(normalised text, where the passage starts in it): alone, and joined to the last steps."""
    yield normalise(passage.text), 0
    earlier = [step[-_TAIL:] for step in passage.earlier[-2:]]
    # Callers may have stripped the space between two steps; a word cut in two has none.
    for joints in product(("", " "), repeat=len(earlier)) if earlier else ():
        before = "".join(map("".join, zip(earlier, joints, strict=True)))[-_TAIL:]
        yield normalise(before + passage.text[:_HEAD]), len(normalise(before))


def _reaches(pattern: Any, text: str, start: int) -> bool:
    """Whether some match ends behind `start`; patterns find the longest match of a position."""
    position = 0
    while (match := pattern.search(text, position)) is not None:
        if match.end() > start or start == 0:
            return True
        position = match.start() + 1
    return False


def _compile(name: str, pattern: str) -> Any:
    options = re2.Options()
    options.case_sensitive = False
    options.longest_match = True
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        raise UserError(f"{name}: {_reason(error)}; patterns are in RE2 syntax") from error


def _checked(rule: Rule) -> list[str]:
    """The rule's patterns as groups, each compiled alone first: an error then names the one."""
    if not rule.patterns:
        raise UserError(f"rule {rule.name}: has no patterns")
    for pattern in rule.patterns:
        if _compile(f"rule {rule.name}: pattern {pattern!r}", pattern).search("") is not None:
            raise UserError(f"rule {rule.name}: pattern {pattern!r} matches the empty text")
    return [f"(?:{pattern})" for pattern in rule.patterns]


def _reason(error: Exception) -> str:
    detail = error.args[0] if error.args else error
    return detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)


def _version(rules: Sequence[Rule]) -> str:
    rows = [[r.name, list(r.patterns), r.scenario, sorted(r.stages)] for r in rules]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:8]
