"""The guard object: little by default, all of it by right, and as its published schema says."""

from __future__ import annotations

import json

import msgspec
from typer.testing import CliRunner

from monitors.events import Coverage, Outcome, Retraction
from monitors.formats import WireField
from monitors.guard_object import guard_object
from monitors.policy_commands import policy
from monitors.taxonomy import Action, Mode, Scenario, Stage

REFUSED = Outcome(
    action=Action.REFUSE,
    stage=Stage.REASONING,
    scenario=Scenario.FRAUD,
    reason="threshold",
    retract=[Retraction(WireField.CONTENT, 2, 3)],
    coverage={"reasoning": Coverage(5, 4, 3, {"unknown": 1})},
)


def shown(mode: Mode = Mode.ENFORCE, *, images: int = 0, detail: bool = False) -> dict[str, object]:
    made = guard_object(REFUSED, request_id="r", mode=mode, images=images, detail=detail)
    return dict(json.loads(msgspec.json.encode(made)))


def test_by_default_it_is_no_oracle() -> None:
    erase = [{"field": "content", "start": 2, "end": 3}]
    assert shown() == {"action": "refuse", "id": "r", "retract": erase}


def test_images_are_said_to_be_unjudged() -> None:
    assert shown(images=2)["images"] == "unjudged"


def test_shadow_mode_shows_what_was_done() -> None:
    assert shown(Mode.SHADOW)["action"] == "allow"
    assert shown(Mode.SHADOW, detail=True)["decision"] == "refuse"


def test_detail_has_every_property_of_the_schema() -> None:
    printed = CliRunner().invoke(policy, ["schema", "--of", "guard"])
    properties = json.loads(printed.stdout)["$defs"]["GuardObject"]["properties"]
    detailed = shown(images=1, detail=True)
    assert detailed.keys() == properties.keys() - {"choices"}  # of several
    assert detailed["category"] == "fraud"
    assert detailed["coverage"] == {
        "reasoning": {
            "received": 5,
            "judged": 4,
            "released": 3,
            "released_unjudged": {"unknown": 1},
        }
    }
