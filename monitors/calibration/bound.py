"""Exact statements about a share, from counts: Clopper and Pearson 1934, "The use of confidence or
fiducial limits illustrated in the case of the binomial". No library needed: the binomial tail is
summed, and inverted by bisection.

A threshold may be read off the very counts that bound it. It is one parameter, and the number of
alarms only falls as it rises: k alarms are allowed where P(at most k | n, rate) <= 1 - confidence.
The threshold found is too low only if the lowest one that keeps the rate had at most k alarms, and
that happens with that same probability. Whatever else is chosen (drift, clip, curves) must be
chosen on other data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import exp, fsum, lgamma, log, log1p

_ROUNDS = 60  # of bisection: past the precision of a float between 0 and 1


def at_most(count: int, trials: int, rate: float) -> float:
    """The probability of at most so many hits in so many trials."""
    if count >= trials or rate <= 0.0:
        return 1.0
    if count < 0 or rate >= 1.0:
        return 0.0
    if count > trials * rate:
        return 1.0 - fsum(_terms(trials - count - 1, trials, 1.0 - rate))
    return fsum(_terms(count, trials, rate))


def _terms(count: int, trials: int, rate: float) -> Iterator[float]:
    """The probabilities of so many hits and of fewer, as far as they matter; below the mean, where
    each is smaller than the one before it.
    """
    ways = lgamma(trials + 1) - lgamma(count + 1) - lgamma(trials - count + 1)
    term = first = exp(ways + count * log(rate) + (trials - count) * log1p(-rate))
    while count >= 0 and term > 1e-17 * first:
        yield term
        term *= count / (trials - count + 1) * (1.0 - rate) / rate
        count -= 1


def upper(count: int, trials: int, confidence: float) -> float:
    """The share is at most this, with so much confidence."""
    if count >= trials:
        return 1.0
    return _root(lambda rate: at_most(count, trials, rate) > 1.0 - confidence)


def lower(count: int, trials: int, confidence: float) -> float:
    """The share is at least this, with so much confidence."""
    if count <= 0:
        return 0.0
    return _root(lambda rate: 1.0 - at_most(count - 1, trials, rate) < 1.0 - confidence)


def interval(count: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The share lies between these, with so much confidence."""
    side = (1.0 + confidence) / 2.0
    return lower(count, trials, side), upper(count, trials, side)


def allowed(trials: int, rate: float, confidence: float) -> int | None:
    """Most hits that still show a share of at most `rate`; None: not even none at all does."""
    if at_most(0, trials, rate) > 1.0 - confidence:
        return None
    low, high = 0, trials  # `low` is allowed, `high` is not
    while high - low > 1:
        middle = (low + high) // 2
        if at_most(middle, trials, rate) <= 1.0 - confidence:
            low = middle
        else:
            high = middle
    return low


def needed(hits: int, rate: float, confidence: float) -> int:
    """Fewest trials in which so many hits show a share of at most `rate`."""
    high = hits + 1
    while at_most(hits, high, rate) > 1.0 - confidence:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if at_most(hits, middle, rate) <= 1.0 - confidence:
            high = middle
        else:
            low = middle
    return high


def _root(below: Callable[[float], bool]) -> float:
    """Where a condition that holds from 0 up to some rate ceases to hold."""
    low, high = 0.0, 1.0
    for _ in range(_ROUNDS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if below(middle) else (low, middle)
    return high
