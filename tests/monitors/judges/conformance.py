"""What every judge owes its callers, whatever it thinks of a text."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from monitors.judges.base import Judge, Passage, Verdict
from monitors.taxonomy import Scenario, Stage

ODD_TEXTS = (
    "",
    " \n\t",
    "2 + 2 = 4.",
    "?!",
    "Let me think about the recipe.",
    "Überlegen wir: 12 % davon.",
    "我们先想一想。",
    "\x00\x1b[0m",
    "\ud83d",
    "\u200b" * 50,
    "👩🏽‍🚀" * 20,
    "\ue000" * 300,
    "a" * 20_000,
    "word " * 5_000,
)
PASSAGES = [
    Passage(stage, text, request=request, earlier=earlier)
    for stage in Stage
    for text in ODD_TEXTS
    for request, earlier in (("", ()), ("How is bread made?", ("First,", "\ud83d")))
]


def check(judge: Judge) -> None:
    """Run the whole suite on one judge."""
    _check_verdicts(judge, PASSAGES)
    _check_order_and_batching(judge, PASSAGES)
    _check_threads(judge, PASSAGES)
    assert judge.score([]) == []


def _check_verdicts(judge: Judge, passages: Sequence[Passage]) -> None:
    for passage, verdict in zip(passages, judge.score(passages), strict=True):
        assert verdict.judge == judge.name
        assert verdict.ms >= 0
        assert set(verdict.scenarios) <= set(Scenario)
        if verdict.unsafe is None:
            assert verdict.reason, passage
            assert not verdict.scenarios
            continue
        assert 0 <= verdict.unsafe <= 1
        assert verdict.reason is None
        assert all(0 <= share <= 1 for share in verdict.scenarios.values())
        if verdict.unsafe < 1:  # certainty is for rules alone, and several of them may be certain
            assert sum(verdict.scenarios.values()) <= verdict.unsafe + 1e-5


def _check_order_and_batching(judge: Judge, passages: Sequence[Passage]) -> None:
    batch = [_timeless(verdict) for verdict in judge.score(passages)]
    single = [_timeless(judge.score([passage])[0]) for passage in passages]
    backwards = [_timeless(verdict) for verdict in judge.score(passages[::-1])]
    assert batch == single == backwards[::-1]


def _check_threads(judge: Judge, passages: Sequence[Passage]) -> None:
    expected = [_timeless(verdict) for verdict in judge.score(passages)]
    with ThreadPoolExecutor(4) as pool:
        for verdicts in pool.map(judge.score, [passages] * 4):
            assert [_timeless(verdict) for verdict in verdicts] == expected


def _timeless(verdict: Verdict) -> tuple[object, ...]:
    return verdict.unsafe, verdict.judge, dict(verdict.scenarios), verdict.reason
