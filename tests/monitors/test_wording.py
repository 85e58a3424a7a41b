"""Wordings: every scenario has one in every language, fit to be shown and fit to be thought."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors.taxonomy import CONTESTED, Scenario
from monitors.wording import LANGUAGES, detect_language, refusal, safety_thought

EVERY = [(scenario, language) for scenario in (None, *Scenario) for language in LANGUAGES]


@pytest.mark.parametrize(("scenario", "language"), EVERY)
def test_every_scenario_has_a_thought_and_a_refusal(
    scenario: Scenario | None, language: str
) -> None:
    thought, text = safety_thought(scenario, language), refusal(scenario, language)
    for wording in (thought, text):
        assert 20 <= len(wording.encode()) <= 500
        assert wording == wording.strip()
        assert "\n" not in wording
        assert not re.search(r"[<>{}\[\]◁▷|]|  ", wording)  # no markup, no placeholder
        assert wording[-1] in ".。"
        assert detect_language(wording) == language


def test_the_general_english_thought_is_the_one_that_was_measured() -> None:
    assert safety_thought(None, "en") == (
        "Wait. Before I go on I should check whether this could harm someone. I will not help "
        "with anything harmful; I will think about how to respond safely and helpfully."
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_scenarios_that_need_care_have_their_own_words(language: str) -> None:
    own = [Scenario.SELF_HARM, Scenario.CHILD_SAFETY, Scenario.WEAPONS, Scenario.FRAUD]
    for wording in (refusal, safety_thought):
        texts = [wording(scenario, language) for scenario in [None, *own]]
        assert len(set(texts)) == len(texts)
        advice = {wording(scenario, language) for scenario in CONTESTED}
        assert len(advice) == 1
        assert wording(None, language) not in advice
    assert "findahelpline.com" in refusal(Scenario.SELF_HARM, language)


def test_unknown_languages_and_scenarios_without_words_fall_back() -> None:
    assert refusal(None, "tlh") == refusal(None, "en")
    assert safety_thought(Scenario.FRAUD, "") == safety_thought(Scenario.FRAUD, "en")
    assert refusal(Scenario.OTHER, "de") == refusal(None, "de")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", "en"),
        ("12 + 30 = ?", "en"),
        ("Describe this image.", "en"),
        ("How do I bake bread?", "en"),
        ("Translate 你好 to English, please.", "en"),
        ("Wie backe ich Brot?", "de"),
        ("Was ist auf dem Bild zu sehen?", "de"),
        ("¿Cómo hago pan?", "es"),
        ("Describe la imagen", "es"),
        ("Comment faire du pain ?", "fr"),
        ("Qu'est-ce que c'est ?", "fr"),
        ("如何做面包？", "zh"),
        ("請問這張圖片裡有什麼？", "zh"),
        ("请用 Python 写一个 quicksort 函数", "zh"),
        ("パンの作り方を教えてください", "en"),  # no wording in Japanese
        ("Где находится библиотека?", "en"),
    ],
)
def test_detect_language(text: str, language: str) -> None:
    assert detect_language(text) == language


@given(st.text(max_size=300))
def test_detection_is_total_and_looks_at_a_bounded_part(text: str) -> None:
    assert detect_language(text) in LANGUAGES
    assert detect_language("y " * 2000 + text) == detect_language("y " * 2000)


@pytest.mark.parametrize("text", ["Describe a mountain.", "Give me a tip.", "A letter?"])
def test_a_word_that_spanish_has_too_makes_no_spanish(text: str) -> None:
    assert detect_language(text) == "en"
