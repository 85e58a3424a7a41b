"""Exact bounds: the known numbers, and another implementation's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from monitors.calibration.bound import allowed, at_most, interval, lower, needed, upper


@pytest.mark.parametrize(("alarms", "trials"), [(0, 299), (1, 473), (2, 628)])
def test_one_percent_at_95_percent_takes_so_many(alarms: int, trials: int) -> None:
    assert needed(alarms, 0.01, 0.95) == trials
    assert allowed(trials, 0.01, 0.95) == alarms
    assert upper(alarms, trials, 0.95) <= 0.01 < upper(alarms, trials - 1, 0.95)


def test_too_few_trials_show_nothing() -> None:
    assert allowed(298, 0.01, 0.95) is None
    assert allowed(0, 0.5, 0.5) is None


def test_the_ends() -> None:
    assert (lower(0, 10, 0.95), upper(10, 10, 0.95)) == (0.0, 1.0)
    assert (at_most(-1, 10, 0.5), at_most(10, 10, 0.5), at_most(3, 10, 1.0)) == (0.0, 1.0, 0.0)


@settings(deadline=None)
@given(st.integers(1, 3000), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_as_scipy_says(trials: int, data: st.DataObject, confidence: float) -> None:
    count = data.draw(st.integers(0, trials))
    expected = beta.ppf(confidence, count + 1, trials - count) if count < trials else 1.0
    assert upper(count, trials, confidence) == pytest.approx(expected, abs=1e-9)
    expected = beta.ppf(1 - confidence, count, trials - count + 1) if count else 0.0
    assert lower(count, trials, confidence) == pytest.approx(expected, abs=1e-9)
    low, high = interval(count, trials, confidence)
    assert low <= count / trials <= high


@given(st.integers(1, 500), st.integers(0, 500), st.floats(0.001, 0.999))
def test_the_tail_as_scipy_sums_it(trials: int, count: int, rate: float) -> None:
    assert at_most(count, trials, rate) == pytest.approx(binom.cdf(count, trials, rate), abs=1e-9)
