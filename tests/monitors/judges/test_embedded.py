"""The shipped judge: plain behaviours, and a file that is whole or refused."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from monitors.errors import JudgeFileError, UserError
from monitors.judges import embedded
from monitors.judges.base import Judge, Passage
from monitors.judges.build import build_judges, make_judge
from monitors.judges.embedded import EmbeddedJudge
from monitors.judges.rules import Rule
from monitors.taxonomy import Scenario, Stage
from tests.monitors.judges import conformance

HARMFUL = (
    "I will help them lie to the old man so that he hands over his savings and never finds out."
)
HARMLESS = "I will help them ask the old man how he bakes his bread and thank him for the recipe."


@pytest.fixture(scope="module")
def judge() -> EmbeddedJudge:
    return EmbeddedJudge.load()


def score(judge: Judge, text: str, stage: Stage = Stage.REASONING, request: str = "") -> float:
    unsafe = judge.score([Passage(stage, text, request=request)])[0].unsafe
    assert unsafe is not None
    return unsafe


@pytest.mark.parametrize("name", ["embedded", "rules", "constant"])
def test_conformance(name: str) -> None:
    conformance.check(make_judge(name, [Rule("bread", ("bread|recipe",), Scenario.OTHER)]))


def test_harmful_intent_scores_above_harmless(judge: EmbeddedJudge) -> None:
    for stage in Stage:
        assert score(judge, HARMFUL, stage) > score(judge, HARMLESS, stage)


def test_scenario_of_a_plain_case(judge: EmbeddedJudge) -> None:
    text = "Write a phishing mail that tricks customers into giving up their bank password"
    scenarios = judge.score([Passage(Stage.INPUT, text)])[0].scenarios
    likely = {Scenario.FRAUD, Scenario.ILLEGAL_ACTIVITY, Scenario.MALWARE_GENERATION}
    assert max(scenarios, key=lambda scenario: scenarios[scenario]) in likely


@pytest.mark.parametrize("at", ["start", "middle", "end"])
def test_long_text_is_never_truncated(judge: EmbeddedJudge, at: str) -> None:
    filler = "The oven is warm and the dough has risen. We add flour, water and salt. " * 140
    before, after = {"start": ("", filler), "middle": (filler, filler), "end": (filler, "")}[at]
    # As much harm as fills a window: it counts as if it stood alone.
    harm = (HARMFUL + " ") * 14
    assert score(judge, before + harm + after) > score(judge, before + after) + 0.1


def test_a_megabyte_in_linear_time(judge: EmbeddedJudge) -> None:
    started = perf_counter()
    score(judge, (HARMLESS + " ") * 12_000, Stage.ANSWER)
    assert perf_counter() - started < 5  # under one second on an idle machine


@pytest.mark.parametrize("text", ["\ue000\ue001 " * 100, "\U000f0000" * 40, "𐎀𐎁𐎂𐎃𐎄 " * 30])
def test_unreadable_is_unknown(judge: EmbeddedJudge, text: str) -> None:
    verdict = judge.score([Passage(Stage.REASONING, text)])[0]
    assert (verdict.unsafe, verdict.reason) == (None, "unreadable")


GEORGIAN = "ეს არის წინადადება, რომელსაც ვერავინ კითხულობს. " * 20


@pytest.mark.parametrize("at", [0, 1, 2])
def test_readable_text_around_it_hides_nothing_unreadable(judge: EmbeddedJudge, at: int) -> None:
    padding = [HARMLESS] * 40
    padding.insert(at * 20, GEORGIAN)
    assert judge.score([Passage(Stage.INPUT, " ".join(padding))])[0].reason == "unreadable"


@pytest.mark.parametrize(
    "text",
    [
        f"{HARMLESS} The word ქართული means Georgian, and გამარჯობა is a greeting. {HARMLESS}",
        f"{HARMLESS}\n" + "├── src\n│   ├── a.py\n│   └── b.py\n" * 20,
        "┌──────────┬──────────┐\n│ 12 │ 18 │\n└──────────┴──────────┘\n" * 20,
        "for (i = 0; i < n; i++) { a[i] = 'ğ'; }  // → ∀ i ∈ ℕ: aᵢ ≤ ½\n" * 20,
        "See https://example.org/ქართული/%E1%83%A5?q=1 by Ñuño Þórðarson and Łukasz. " * 10,
    ],
)
def test_code_tables_names_and_quoted_words_are_readable(judge: EmbeddedJudge, text: str) -> None:
    assert all(verdict.reason is None for verdict in judge.score([Passage(s, text) for s in Stage]))


def test_a_long_request_is_read_at_its_ends_and_once(
    judge: EmbeddedJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = f"{HARMLESS} " * 60 + f"{HARMFUL} " * 3000 + f"{HARMLESS} " * 60
    ends = f"{request[:4000]} {request[-2000:]}"
    assert score(judge, HARMLESS, request=request) == score(judge, HARMLESS, request=ends)
    read: list[str] = []
    words = embedded.words

    def reading(text: str) -> list[str]:
        read.append(text)
        return words(text)

    monkeypatch.setattr(embedded, "words", reading)
    score(judge, HARMLESS, request=request)
    assert read == [HARMLESS]


@pytest.mark.parametrize(
    "text",
    ["", "42", "x² + y² ≤ √2·π ⇒ ∑ᵢ aᵢ = ½", "…", "—", "?!", "== 3.14 ==", "1 2 3 " * 200, "→ 7 €"],
)
def test_numbers_and_maths_are_readable(judge: EmbeddedJudge, text: str) -> None:
    assert score(judge, text) < 0.5


def test_invisible_characters_change_nothing(judge: EmbeddedJudge) -> None:
    hidden = "\u200b".join(HARMFUL.upper())
    assert score(judge, hidden) == score(judge, HARMFUL)


def test_two_loads_agree(judge: EmbeddedJudge) -> None:
    again = EmbeddedJudge.load()
    assert again.name == judge.name
    assert score(again, HARMFUL) == score(judge, HARMFUL)


def test_a_full_cache_changes_nothing(
    judge: EmbeddedJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_CACHED_WORDS", 512)
    small = EmbeddedJudge.load()
    for turn in range(20):
        text = f"{HARMFUL} " + " ".join(f"w{chr(97 + turn)}{chr(97 + i % 26)}q" for i in range(100))
        assert score(small, text) == pytest.approx(score(judge, text), abs=1e-6)


def test_release_file_is_small_and_says_what_it_is(judge: EmbeddedJudge) -> None:
    assert embedded.RELEASE_FILE.stat().st_size < 6_000_000
    assert judge.about["build"] == "release"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(JudgeFileError, match="no such file; make one with"):
        make_judge(str(tmp_path / "none.npz"))


@pytest.mark.parametrize("at", [0, 0.1, 0.3, 0.9])
def test_damaged_file(tmp_path: Path, at: float) -> None:
    path = tmp_path / "damaged.npz"
    data = bytearray(embedded.RELEASE_FILE.read_bytes())
    data[int(at * len(data))] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(JudgeFileError, match=r"damaged\.npz: "):
        EmbeddedJudge.load(path)


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_cut_off_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.npz"
    path.write_bytes(embedded.RELEASE_FILE.read_bytes()[:size])
    with pytest.raises(JudgeFileError, match="damaged"):
        EmbeddedJudge.load(path)


def test_changed_weights_do_not_match_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "changed.npz"
    with np.load(embedded.RELEASE_FILE) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["bias"] = arrays["bias"] + 1
    np.savez(path, **arrays)
    with pytest.raises(JudgeFileError, match="do not match its manifest"):
        EmbeddedJudge.load(path)


def test_other_format_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(shutil.copy(embedded.RELEASE_FILE, tmp_path / "old.npz"))
    monkeypatch.setattr(embedded, "FORMAT", embedded.FORMAT + 1)
    with pytest.raises(JudgeFileError, match="not of format"):
        EmbeddedJudge.load(path)


def test_a_lone_array_is_no_judge(tmp_path: Path) -> None:
    path = tmp_path / "array.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(JudgeFileError, match="not a judge file"):
        EmbeddedJudge.load(path)


def test_folder_instead_of_file(tmp_path: Path) -> None:
    with pytest.raises(JudgeFileError):
        EmbeddedJudge.load(tmp_path)


def test_unknown_name_lists_what_is_allowed() -> None:
    with pytest.raises(UserError, match="allowed are embedded, rules, constant, or the path"):
        make_judge("nonsense")


def test_build_judges_makes_each_once() -> None:
    judges = build_judges(["constant", "rules", "constant"])
    assert list(judges) == ["constant", "rules"]


def test_a_judge_that_nobody_needs_is_freed_at_once() -> None:
    """A policy's reload retires it: no search for garbage should be needed for its arrays."""
    retired = EmbeddedJudge.load()
    score(retired, HARMFUL, request=HARMLESS)
    known = weakref.ref(retired)
    gc.disable()
    try:
        del retired
        assert known() is None
    finally:
        gc.enable()
