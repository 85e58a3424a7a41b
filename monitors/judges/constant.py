"""A judge that finds nothing: for benchmarks of everything around a judge."""

from __future__ import annotations

from collections.abc import Sequence

from monitors.judges.base import Passage, Verdict


class ConstantJudge:
    """Scores every passage 0.0."""

    name = "constant"

    def score(self, passages: Sequence[Passage]) -> list[Verdict]:
        """One verdict of 0.0 per passage."""
        return [Verdict(unsafe=0.0, judge=self.name) for _ in passages]
