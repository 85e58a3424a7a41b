"""The card says what the score files say, and nothing else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from monitors.measure.card import render_card


def row(name: str, figure: str, judge: float, control: float | None = None) -> dict[str, Any]:
    """With intervals of one point to either side."""
    lead = None if control is None else [judge - control, judge - control - 1, judge - control + 1]
    return {
        "where": "dev",
        "row": name,
        "rows": "10 / 20",
        "figure": figure,
        "unit": "%",
        "judge": [judge, judge - 1, judge + 1],
        "control": None if control is None else [control, control, control],
        "lead": lead,
    }


def scores(build: str, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "format": 2,
        "judge": f"embedded@{build}",
        "build": build,
        "left out": None,
        "control": "embedded@voice",
        "command": "mlrm-guard judge measure --data DIR",
        "seed": 0,
        "notes": [],
        "data": {"dev.jsonl.gz": "0123456789abcdef"},
        "passages": 7,
        "thinned": {"p07_math": 4},
        "group folds": "not measured",
        "about": {"seed": 3},
        "trained on": {"told, input": ["MIT", 30, 40], "pairs:read, reasoning": ["Own", 5, 6]},
        "licences": {"MIT": 70, "Own": 11},
        "sources": ["told", "khalaf_r1", "khalaf_r1:read", "pairs:read"],
        "unknown": {"input, safe": 0},
        "reasons": {},
        "tables": {
            "read": [row("khalaf_r1, traces", "AUROC, mean of top 3 steps", 80, 60)],
            "stages": [row("input", "AUROC", 90, 89.5)],
            "contrast": [row("input: contrast", "false alarms at 0.5", 20)],
        },
        "seconds": 5,
    }
    return copy.deepcopy(made | changes)


def test_builds_stand_side_by_side_and_controls_in_brackets() -> None:
    research = scores("research")
    research["trained on"]["khalaf_r1:read, reasoning"] = ["none-stated", 3, 4]
    del research["tables"]["stages"]
    card = render_card([research, scores("release")])
    assert "|  | rows | figure | release | research |" in card
    assert (
        "| khalaf_r1, traces | 10 / 20 | AUROC, mean of top 3 steps"
        " | 80 (79 to 81) [60]† | 80 (79 to 81) [60] |" in card
    )
    assert "| input | 10 / 20 | AUROC | 90 (89 to 91) [89.5] | – |" in card
    assert "`release` learned nothing of: khalaf_r1." in card
    assert card == render_card([scores("release"), research])


def test_the_controls_lead() -> None:
    heads = [line for line in render_card([scores("release")]).splitlines() if line[:1] == "#"]
    assert heads[:3] == [
        "# Model card: embedded@release (release)",
        "## Controls that style cannot pass",
        "### Every headline beside the control",
    ]


def test_a_lead_is_clear_or_it_is_none() -> None:
    card = render_card([scores("release")])
    assert "| 80 (79 to 81) [60]† | 20 (19 to 21) |" in card
    assert "| 90 (89 to 91) [89.5] | 0.5 (-0.5 to 1.5), no clear lead |" in card
    assert "does not clearly beat the control: input, AUROC (dev)." in card
    assert "beat the control: khalaf_r1" not in card


def test_what_it_cannot_do_follows_from_the_figures() -> None:
    card = render_card([scores("release", unknown={"input, safe": 3}, reasons={"unreadable": 3})])
    assert "20 % of the contrast rows (input)" in card
    assert "could not tell about 3 rows of dev (unreadable 3)" in card
    better = scores("release")
    better["tables"]["contrast"] = [row("input: contrast", "false alarms at 0.5", 10)]
    card = render_card([better])
    assert "of the contrast rows" not in card
    assert "could not tell" not in card
    assert "not measured beside a control" in render_card([scores("release", control=None)])


def test_templates_and_our_own_thinking_are_not_natural() -> None:
    limit = "`release`: learned from no natural unsafe thinking"
    own = {
        "grid, reasoning": ["several licences", 1500, 4500],
        "dna+revoiced, reasoning": ["MIT", 40, 40],
        "pairs:read, reasoning": ["Apache-2.0 (written for mlrm-guard)", 5, 6],
    }
    assert limit in render_card([scores("release", **{"trained on": own})])
    natural = own | {"khalaf_r1:read, reasoning": ["none-stated", 3, 4]}
    assert limit not in render_card([scores("release", **{"trained on": natural})])


def test_a_source_left_out_stands_beside_its_build() -> None:
    held = scores("research", **{"left out": "khalaf_r1"})
    held["tables"]["read"][0]["judge"] = [71, 70, 72]
    card = render_card([scores("research"), held])
    assert (
        "| khalaf_r1 (research, alone): dev, khalaf_r1, traces | 10 / 20"
        " | AUROC, mean of top 3 steps | 80 (79 to 81) | 71 (70 to 72) |" in card
    )
    assert "|  | rows | figure | research |" in card  # no column of its own
    assert "No build was trained" not in card


def test_what_a_build_may_not_use_stands_beside_the_build_that_learned_from_it() -> None:
    release, research = scores("release"), scores("research")
    research["trained on"] = {**research["trained on"], "khalaf_r1:read, reasoning": ["No", 7, 8]}
    research["tables"]["read"][0]["judge"] = [88, 87, 89]
    card = render_card([release, research])
    assert (
        "| khalaf_r1 (release; research): dev, khalaf_r1, traces | 10 / 20"
        " | AUROC, mean of top 3 steps | 88 (87 to 89) | 80 (79 to 81) |" in card
    )


def test_facts_and_notes() -> None:
    about = {"seed": 3, "command": "mlrm-guard judge train --data DIR"}
    card = render_card([scores("release", notes=["Dev was looked at twice."], about=about)])
    assert "Dev was looked at twice." in card
    assert "| trained by | `mlrm-guard judge train --data DIR` |" in card
    assert "| told, input (MIT) | 30 / 40 |" in card
    assert "| MIT | 70 |" in card
    assert "dev.jsonl.gz 01234567" in card


def test_levers_stand_beside_their_reference() -> None:
    def lever(says: str, judge: float, lead: list[float]) -> dict[str, Any]:
        cell = row("khalaf_r1, traces", "AUROC, mean of top 3 steps", judge)
        return {"says": says, "tables": {"read": [cell | {"where": "fold 0", "lead": lead}]}}

    levers = {
        "fold": "fold 0",
        "bags": 8,
        "plan": {"thinking": {"research": 18}},
        "levers": {
            "reference": lever("everything", 90, [0, 0, 0]),
            "no pairs": lever("without pairs", 80, [-10, -15, -5]),
            "longer": lever("twice", 91, [1, -2, 4]),
        },
    }
    card = render_card([scores("release")], [levers])
    assert "| **reference**: everything | 90 | – |" in card
    assert "| **no pairs**: without pairs | 80 [**-10 (-15 to -5)**] | – |" in card
    assert "| **longer**: twice | 91 [+1 (-2 to +4)] | – |" in card
    assert "## What moves what" not in render_card([scores("release")])
    assert "by another plan" not in card
    both = render_card([scores("release")], [levers, levers])
    assert both.count("## What moves what") == both.count("### An earlier run") == 1
    later = scores("release", about={"plan": {"thinking": {"research": 14}}})
    assert "trained later, by another plan" in render_card([later], [levers])


def test_the_encoder_alone_stands_beside_the_mix() -> None:
    cost = {"step, ms": {"64": [0.7, 14.3]}, "encoder, ms": {"64": [4.1, 6.2], "128": [7.3, 9.8]}}
    card = render_card([scores("release", cost=cost)])
    assert "| encoder alone, 64 tokens | 4.1 / 6.2 ms |" in card
    assert "| encoder alone, 128 tokens | 7.3 / 9.8 ms |" in card
    assert "| as they come, 64 tokens | 0.7 / 14.3 ms |" in card
    assert "The README's figures (Cost; `make\nbench QUICK=1`" in card
    assert "hold lag p50 23.1 ms, p99 28.2 ms" in card
    old = render_card([scores("release", cost={"step, ms": {"64": [0.7, 14.3]}})])
    assert "| encoder alone, 64 tokens | not recorded by this build: measure again |" in old


def test_what_a_build_does_not_say_is_said_to_be_missing() -> None:
    card = render_card([scores("release")])
    assert "| trained by | not recorded by this build |" in card
    assert "| trained on (hardware) | not recorded by this build |" in card
    card = render_card([scores("release", about={"seed": 3, "hardware": "2 cores of a kind"})])
    assert "| trained on (hardware) | 2 cores of a kind |" in card


def test_an_interval_of_no_width_is_none() -> None:
    found = scores("release")
    found["tables"]["stages"][0] |= {"judge": [50, 50, 50], "lead": [10, None, None]}
    found["tables"]["read"][0] |= {"judge": [100, None, None], "lead": [40, 40, 40]}
    card = render_card([found])
    assert "50 (no interval) [89.5] | 10 (no interval), no clear lead |" in card
    assert "100 (no interval) [60]† | 40 (no interval), no clear lead |" in card
    assert "50 to 50" not in card
    assert "None" not in card


def test_the_readmes_figures_of_the_bench_are_the_readmes() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
    assert "23.1 / 28.2 ms" in readme
    assert "686 benign traces: 0.11 %" in " ".join(readme.split())
