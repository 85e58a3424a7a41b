"""The families by the names that policies give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from monitors.judges.guard_models.contract import GuardFormat
from monitors.judges.guard_models.gpt_oss_safeguard import gpt_oss_safeguard
from monitors.judges.guard_models.granite_guardian import granite_guardian_3, granite_guardian_33
from monitors.judges.guard_models.guardreasoner import guardreasoner, guardreasoner_vl
from monitors.judges.guard_models.llama_guard import llama_guard_3, llama_guard_4
from monitors.judges.guard_models.policy_text import written_policy
from monitors.judges.guard_models.qwen3guard import qwen3guard_gen
from monitors.judges.guard_models.rubric import rubric
from monitors.judges.guard_models.shieldgemma import shieldgemma
from monitors.judges.guard_models.wildguard import wildguard

FormatName = Literal[
    "llama-guard-3",
    "llama-guard-4",
    "qwen3guard-gen",
    "granite-guardian-3",
    "granite-guardian-3.3",
    "shieldgemma",
    "wildguard",
    "gpt-oss-safeguard",
    "guardreasoner",
    "guardreasoner-vl",
    "rubric",
]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)

_PLAIN: dict[str, Callable[[], GuardFormat]] = {
    "llama-guard-3": llama_guard_3,
    "llama-guard-4": llama_guard_4,
    "granite-guardian-3": granite_guardian_3,
    "granite-guardian-3.3": granite_guardian_33,
    "shieldgemma": shieldgemma,
    "wildguard": wildguard,
    "guardreasoner": guardreasoner,
    "guardreasoner-vl": guardreasoner_vl,
}


def make_format(name: FormatName, *, strict: bool = True, policy: str = "") -> GuardFormat:
    """The format of this name. `strict` and `policy` (as text) matter to those that have a use
    for them; without a policy all scenarios violate it.
    """
    policy = policy or written_policy()
    if name == "qwen3guard-gen":
        return qwen3guard_gen(strict=strict)
    if name == "gpt-oss-safeguard":
        return gpt_oss_safeguard(policy=policy)
    if name == "rubric":
        return rubric(policy=policy)
    return _PLAIN[name]()
