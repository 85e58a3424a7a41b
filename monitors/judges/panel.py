"""Several judges for one stage: the strictest score wins, and who could not tell is heard."""

from __future__ import annotations

from collections.abc import Sequence

from monitors.judges.base import Judge, Passage, Verdict


class Panel:
    """Asks every judge; a panel of one is that judge."""

    def __init__(self, judges: Sequence[Judge]) -> None:
        self.judges = tuple(judges)
        self.name = "+".join(judge.name for judge in judges)

    def score(self, passages: Sequence[Passage]) -> list[Verdict]:
        """One verdict per passage, in order."""
        passages = [passage.whole for passage in passages]
        rows = [judge.score(passages) for judge in self.judges]
        if len(rows) == 1:
            return rows[0]
        return [Verdict.combined(self.name, verdicts) for verdicts in zip(*rows, strict=True)]
