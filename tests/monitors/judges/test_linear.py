"""The linear tier: windows, caches, and a request that counts once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from monitors.judges import linear
from monitors.judges.base import Passage
from monitors.judges.judge_file import RELEASE_FILE, JudgeFile
from monitors.judges.layout import SCENARIOS
from monitors.judges.linear import LinearModel, LinearScorer
from monitors.taxonomy import Scenario, Stage
from tests.monitors.judges.small import linear_model

HARMFUL = (
    "I will help them lie to the old man so that he hands over his savings and never finds out."
)
HARMLESS = "I will help them ask the old man how he bakes his bread and thank him for the recipe."


@pytest.fixture(scope="module")
def model() -> LinearModel:
    return JudgeFile.load(RELEASE_FILE)[0].linear


@pytest.fixture(scope="module")
def scorer(model: LinearModel) -> LinearScorer:
    return LinearScorer(model)


def logit(scorer: LinearScorer, text: str, request: str = "") -> float:
    return scorer.logit(Passage(Stage.REASONING, text, request=request))


def test_words_weigh_by_the_root_of_their_number() -> None:
    small = LinearScorer(linear_model())
    assert logit(small, "grim") == pytest.approx(2)
    assert logit(small, "grim, grim! GRIM") == pytest.approx(2 / np.sqrt(2))  # "!" is a word
    assert logit(small, "dark grim calm") == pytest.approx((1 + 2 - 3) / np.sqrt(3))
    assert logit(small, "") == 0


def test_the_request_has_weights_of_its_own_and_none_for_input() -> None:
    small = LinearScorer(linear_model())
    assert logit(small, "grim", request="dark") == pytest.approx(2.1)
    assert small.logit(Passage(Stage.INPUT, "grim", request="dark")) == pytest.approx(2)


def test_the_worst_window_counts() -> None:
    small = LinearScorer(linear_model())
    text = "calm " * 400
    assert logit(small, text) == pytest.approx(-3)
    assert logit(small, text + "grim " * 300) == pytest.approx(2)


def test_scenarios_come_with_their_bias() -> None:
    found = LinearScorer(linear_model()).score(Passage(Stage.INPUT, "grim"))
    assert SCENARIOS[int(found.scenarios.argmax())] is Scenario.OTHER


def test_a_long_request_is_read_at_its_ends_and_once(
    scorer: LinearScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = f"{HARMLESS} " * 60 + f"{HARMFUL} " * 3000 + f"{HARMLESS} " * 60
    ends = f"{request[:4000]} {request[-2000:]}"
    assert logit(scorer, HARMLESS, request) == logit(scorer, HARMLESS, ends)
    read: list[str] = []
    words = linear.words

    def reading(text: str) -> list[str]:
        read.append(text)
        return words(text)

    monkeypatch.setattr(linear, "words", reading)
    logit(scorer, HARMLESS, request)
    assert read == [HARMLESS]


def test_a_full_cache_changes_nothing(
    model: LinearModel, scorer: LinearScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "_CACHED_WORDS", 512)
    small = LinearScorer(model)
    for turn in range(20):
        text = f"{HARMFUL} " + " ".join(f"w{chr(97 + turn)}{chr(97 + i % 26)}q" for i in range(100))
        assert logit(small, text) == pytest.approx(logit(scorer, text), abs=1e-6)


def test_threads_that_fill_the_cache_agree(
    model: LinearModel, scorer: LinearScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [" ".join(f"{HARMFUL} x{i}y{j}" for j in range(40)) for i in range(40)]
    expected = [logit(scorer, text) for text in texts]
    monkeypatch.setattr(linear, "_CACHED_WORDS", 256)
    small = LinearScorer(model)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: logit(small, text), texts * 2))
    assert found == pytest.approx(expected * 2, abs=1e-6)
