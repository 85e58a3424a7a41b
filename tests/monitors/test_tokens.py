"""Tokens of all legs: what was delivered and what was thrown away add up."""

from __future__ import annotations

from monitors.tokens import TokenLedger
from monitors.wire import Usage


def ledger(*deltas: tuple[int, int]) -> TokenLedger:
    """Deltas of (characters, tokens so far)."""
    tokens = TokenLedger()
    for characters, count in deltas:
        tokens.delta(Usage(5, count, 5 + count), characters)
    return tokens


def test_what_was_delivered_and_discarded_adds_up() -> None:
    tokens = ledger((0, 0), (4, 1), (4, 2), (4, 3))
    tokens.release(8)
    tokens.cut()
    assert (tokens.spent, tokens.discarded) == (2, 1)
    tokens.delta(Usage(9, 2, 11), 6)
    assert tokens.total() == Usage(5, 4, 9)


def test_a_delta_delivered_in_part_counts_as_delivered() -> None:
    tokens = ledger((4, 1), (4, 2), (4, 3))
    tokens.release(3)
    tokens.release(2)
    tokens.cut()
    assert (tokens.spent, tokens.discarded) == (2, 1)


def test_nothing_delivered_is_nothing_spent() -> None:
    tokens = ledger((4, 1), (4, 2))
    tokens.cut()
    assert (tokens.spent, tokens.discarded) == (0, 2)


def test_deltas_without_text_take_no_memory() -> None:
    tokens = ledger((4, 1), *((0, count) for count in range(1000)))
    tokens.delta(None, 0)
    assert len(tokens._marks) == 1
    tokens.release(4)
    tokens.cut()
    assert (tokens.spent, tokens.discarded) == (999, 0)


def test_without_usage_deltas_with_text_are_counted() -> None:
    tokens = TokenLedger()
    for characters in (0, 3, 3, 0):
        tokens.delta(None, characters)
    assert tokens.generated == 2
    assert tokens.total() is None
