"""From a judge's name, as policies and command lines give it, to the judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monitors.errors import UserError
from monitors.judges.base import Judge
from monitors.judges.constant import ConstantJudge
from monitors.judges.embedded import EmbeddedJudge
from monitors.judges.rules import Rule, RulesJudge

NAMES = ("embedded", "rules", "constant")
"""The judges that need no more than their name; a path ending in .npz names a weight file."""


def make_judge(name: str, rules: Sequence[Rule] = ()) -> Judge:
    """Make one judge. Raises UserError for an unknown name, JudgeFileError for a bad file."""
    if name == "embedded":
        return EmbeddedJudge.load()
    if name == "rules":
        return RulesJudge(rules)
    if name == "constant":
        return ConstantJudge()
    if name.endswith(".npz"):
        return EmbeddedJudge.load(Path(name))
    allowed = ", ".join(NAMES)
    raise UserError(f"unknown judge {name!r}: allowed are {allowed}, or the path of an .npz file")


def build_judges(names: Sequence[str], rules: Sequence[Rule] = ()) -> dict[str, Judge]:
    """Make each named judge once; the judges by name, in the order given."""
    return {name: make_judge(name, rules) for name in dict.fromkeys(names)}
