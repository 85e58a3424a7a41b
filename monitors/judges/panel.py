"""Several judges for one stage: the strictest score wins, and who could not tell is heard."""

from __future__ import annotations

from collections.abc import Sequence

from monitors.judges.base import Judge, Passage, Verdict
from monitors.taxonomy import Scenario


class Panel:
    """Asks every judge; a panel of one is that judge.

    The combined score is the highest per scenario and overall. If one judge could not tell, the
    panel could not, unless another is certain (exactly 1.0): no score below that outweighs a blind
    spot.
    """

    def __init__(self, judges: Sequence[Judge]) -> None:
        self._judges = tuple(judges)
        self.name = "+".join(judge.name for judge in judges)

    def score(self, passages: Sequence[Passage]) -> list[Verdict]:
        """One verdict per passage, in order."""
        rows = [judge.score(passages) for judge in self._judges]
        if len(rows) == 1:
            return rows[0]
        return [self._combine(verdicts) for verdicts in zip(*rows, strict=True)]

    def _combine(self, verdicts: Sequence[Verdict]) -> Verdict:
        known = [verdict.unsafe for verdict in verdicts if verdict.unsafe is not None]
        unsafe = max(known, default=0.0)
        blind = next((verdict for verdict in verdicts if verdict.unknown), None)
        if blind is not None and unsafe < 1.0:
            return blind
        scenarios: dict[Scenario, float] = {}
        for verdict in verdicts:
            for scenario, score in verdict.scenarios.items():
                scenarios[scenario] = max(score, scenarios.get(scenario, 0.0))
        return Verdict(unsafe, self.name, scenarios)
