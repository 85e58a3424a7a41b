"""What to do at which evidence: the validated policy, its lookups, and its explanation.

`monitors.policy_file` reads one from YAML. The section dataclasses below are also what that file is
validated against: their `Annotated` bounds and descriptions are those of the published JSON Schema.

Every lookup that the stream makes per step is one dictionary hit: rows that fall back to `default`
and wordings that fall back to English were resolved when the file was read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import exp, log
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field

from monitors.classifier_file import ClassifierFile
from monitors.errors import PolicyError
from monitors.judges.cascade import Escalation
from monitors.judges.classes import Classifier, LocalClassifier, Moderation
from monitors.judges.guard_models.declared import GuardModel
from monitors.judges.rules import Rule
from monitors.taxonomy import Action, Mode, ReleaseMode, Scenario, Stage
from monitors.wording import LANGUAGES

JudgeName = Literal["embedded", "rules", "constant"]
JUDGES: tuple[JudgeName, ...] = get_args(JudgeName)

DeclaredJudge = GuardModel | Classifier | LocalClassifier | Moderation
"""A judge that a policy gives a name of its own."""

_SECTION = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class Correction:
    """How the guard steers a generation back."""

    __pydantic_config__ = _SECTION

    budget: Annotated[
        int, Field(ge=0, le=5, description="Corrections per generation; the next one refuses.")
    ] = 2
    show_thought: Annotated[
        bool, Field(description="Whether the client sees the safety thought that was put in.")
    ] = False


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What the client gets to see of the reasoning."""

    __pydantic_config__ = _SECTION

    emit: Annotated[
        Literal["upstream", "field", "inline", "hidden"],
        Field(
            description="`upstream`: as the model server writes it. `field`: always in the "
            "reasoning field of the reply. `inline`: always in the content, between tags. "
            "`hidden`: dropped from what the client gets; it is still judged."
        ),
    ] = "upstream"


@dataclass(frozen=True, slots=True)
class Input:
    """What of a request is judged, when, and how a refused one is answered."""

    __pydantic_config__ = _SECTION

    scope: Annotated[
        Literal["all", "latest_turn"],
        Field(
            description="`all`: every message of every role. `latest_turn`: from the last user "
            "message on, and what is in no turn (system messages, tools); so that one old hit does "
            "not refuse a session for ever."
        ),
    ] = "all"
    wait: Annotated[
        Literal["beside", "before"],
        Field(
            description="`beside`: generation starts at once, and no text leaves before the "
            "input's verdict. `before`: the model is asked only then."
        ),
    ] = "beside"

    images: Annotated[
        Literal["judge", "pass"],
        Field(
            description="`judge`: the text in images is read and judged with the request; an image "
            "that cannot be read is unknown (see `on_unknown`). `pass`: images pass unjudged."
        ),
    ] = "judge"

    refuse_as: Annotated[
        Literal["message", "error"],
        Field(
            description="`message`: a 200 reply with the refusal text. `error`: a 400 with "
            "error.code content_policy_violation."
        ),
    ] = "message"


@dataclass(frozen=True, slots=True)
class Reply:
    """What else of a generation a client may ask for."""

    __pydantic_config__ = _SECTION

    top_logprobs: Annotated[
        Literal["refuse", "allow"],
        Field(
            description="Alternatives to the tokens of a reply show text that nobody judged: "
            "`refuse` the request, or `allow` it all the same."
        ),
    ] = "refuse"


@dataclass(frozen=True, slots=True)
class EvidenceParameters:
    """How evidence accumulates over the steps of a generation, in nats (`monitors.evidence`)."""

    __pydantic_config__ = _SECTION

    drift: Annotated[
        float,
        Field(ge=0.0, le=10.0, description="Nats that every step takes off; must be below `clip`."),
    ] = 0.5
    clip: Annotated[
        float,
        Field(ge=0.1, le=20.0, description="Most nats that one step can add or take off."),
    ] = 2.0
    restart: Annotated[
        float,
        Field(
            ge=0.0,
            le=0.9,
            description="Share of the threshold at which evidence restarts after a correction.",
        ),
    ] = 0.5


@dataclass(frozen=True, slots=True)
class Caps:
    """How long text may be held back while evidence is above its floor, and what happens then."""

    __pydantic_config__ = _SECTION

    excursion_steps: Annotated[
        int, Field(ge=1, le=1000, description="Steps that are held back at most.")
    ] = 12
    excursion_chars: Annotated[
        int, Field(ge=100, le=1_000_000, description="Characters that are held back at most.")
    ] = 6000
    excursion_seconds: Annotated[
        float, Field(ge=0.5, le=600.0, description="Seconds that text is held back at most.")
    ] = 30.0
    on_cap: Annotated[
        Literal["refuse", "release", "escalate"],
        Field(
            description="At a cap: `refuse`, `release` (fail-open: the text leaves, flagged), or "
            "`escalate`: the stage's stronger judge decides on all that was held back."
        ),
    ] = "refuse"


@dataclass(frozen=True, slots=True)
class Limits:
    """Time and size limits of one generation."""

    __pydantic_config__ = _SECTION

    judge_timeout_seconds: Annotated[
        float, Field(ge=0.05, le=60.0, description="A judge that takes longer is unknown.")
    ] = 5.0
    provisional_after_seconds: Annotated[
        float,
        Field(
            ge=0.1,
            le=30.0,
            description="Seconds without a token after which the words of an open step are judged "
            "by themselves, and may leave.",
        ),
    ] = 2.0
    keep_alive_seconds: Annotated[
        float,
        Field(ge=1.0, le=15.0, description="Silence after which the client gets a comment."),
    ] = 10.0
    heartbeat_after_seconds: Annotated[
        float,
        Field(
            ge=1.0,
            le=3600.0,
            description="Seconds after which a reply that is not streamed begins with whitespace, "
            "so that no proxy cuts it off; its status is 200 from then on, whatever happens.",
        ),
    ] = 25.0
    upstream_idle_seconds: Annotated[
        float, Field(ge=1.0, le=3600.0, description="Silence after which the upstream failed.")
    ] = 120.0
    max_generated_chars: Annotated[
        int,
        Field(ge=1000, le=100_000_000, description="Characters per generation, both channels."),
    ] = 2_000_000


@dataclass(frozen=True, slots=True)
class Curve:
    """A monotone correction of a judge's probabilities: logit(p') = slope * logit(p) + offset.

    Certainty, and p = 0, stay what they are.
    """

    __pydantic_config__ = _SECTION

    slope: Annotated[float, Field(ge=0.01, le=100.0, description="Factor of the logit.")] = 1.0
    offset: Annotated[float, Field(ge=-20.0, le=20.0, description="Nats that are added to it.")] = (
        0.0
    )

    def __call__(self, probability: float) -> float:
        """The corrected probability."""
        if not 0.0 < probability < 1.0:
            return probability
        logit = self.slope * log(probability / (1.0 - probability)) + self.offset
        return 1.0 / (1.0 + exp(-min(30.0, max(-30.0, logit))))  # 30: short of certainty


@dataclass(frozen=True, slots=True)
class Bound:
    """What was shown of false alarms: at most `rate`, with the confidence of the calibration."""

    __pydantic_config__ = _SECTION

    generations: Annotated[
        int, Field(ge=1, le=10**9, description="Generations, those of one group counted as one.")
    ]
    alarms: Annotated[int, Field(ge=0, le=10**9, description="False alarms among them.")]
    rate: Annotated[
        float, Field(ge=0.0, le=1.0, description="Upper bound of their share (Clopper-Pearson).")
    ]
    stages: Annotated[
        tuple[Literal["reasoning", "answer"], ...] | None,
        Field(strict=False, description="Stages that enough of them have; not said: unknown."),
    ] = None


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that a policy was calibrated with."""

    __pydantic_config__ = _SECTION

    file: Annotated[str, Field(min_length=1, max_length=1000, description="Its name.")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="Its digest.")]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `mlrm-guard calibrate` found, and for which judges and values it holds."""

    false_alarm_rate: float
    confidence: float
    judges: Mapping[Stage, str]
    settings: str
    bound: Bound
    hard: Bound | None
    hard_sources: tuple[str, ...]
    worst: tuple[str, Bound] | None
    """The source with the highest share of false alarms, and that share."""
    date: str
    line: int
    """Where the file says so."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from: a place in the file and its line, or what is built in (no line)."""

    place: str
    line: int | None = None

    def __str__(self) -> str:
        return self.place if self.line is None else f"{self.place}, line {self.line}"


@dataclass(frozen=True, slots=True)
class Cell:
    """What the policy says of one scenario at one stage.

    `threshold`: nats, at the input stage a probability.
    """

    action: Action
    action_from: Source
    threshold: float
    threshold_from: Source


@dataclass(frozen=True, slots=True)
class Wording:
    """A text that a policy uses, and where it comes from."""

    text: str
    source: Source


_SCOPES = {"all": "all messages", "latest_turn": "the latest turn, and what is in no turn"}
_IMAGES = {"judge": "their text is read and judged", "pass": "pass unjudged"}

Key = Scenario | None
"""A scenario, or None for the `default` row, which also rules the `any` statistic."""


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """One validated policy. `version` hashes its content, so comments and order do not matter."""

    name: str
    version: str
    mode: Mode
    file: str
    judges: Mapping[Stage, tuple[str, ...]]
    rules: tuple[Rule, ...]
    correction: Correction
    reasoning: Reasoning
    input: Input
    evidence: EvidenceParameters
    caps: Caps
    limits: Limits
    cells: Mapping[tuple[Key, Stage], Cell]
    safety_thoughts: Mapping[tuple[Key, str], Wording]
    refusals: Mapping[tuple[Key, str], Wording]
    unknown_closed: Mapping[Stage, bool]
    overload_closed: Mapping[Stage, bool]
    warnings: tuple[str, ...]
    content: Mapping[str, Any] = field(repr=False)
    release: ReleaseMode = ReleaseMode.HOLD
    reply: Reply = Reply()
    curves: Mapping[tuple[Key, Stage], Curve] = field(default_factory=dict)
    """How probabilities are corrected; None: that of any harm. Left out: not at all."""
    calibration: Calibration | None = None
    guard_models: Mapping[str, GuardModel] = field(default_factory=dict)
    classifiers: Mapping[str, Classifier | LocalClassifier] = field(default_factory=dict)
    moderations: Mapping[str, Moderation] = field(default_factory=dict)
    image_classifier: ClassifierFile | None = None
    escalate: Mapping[Stage, Escalation] = field(default_factory=dict)
    """Who is asked for what the judges of a stage leave uncertain."""

    @property
    def declared(self) -> dict[str, DeclaredJudge]:
        """All judges that it gives names of its own."""
        return {**self.guard_models, **self.classifiers, **self.moderations}

    @property
    def label(self) -> str:
        """`name@version`, as headers and audit records show it."""
        return f"{self.name}@{self.version}"

    def action(self, scenario: Key, stage: Stage) -> Action:
        """What happens when this scenario crosses its threshold at this stage."""
        return self.cells[scenario, stage].action

    def threshold(self, scenario: Key, stage: Stage) -> float:
        """The threshold: nats of evidence; at the input stage a probability per passage."""
        return self.cells[scenario, stage].threshold

    def safety_thought(self, scenario: Key, language: str) -> str:
        """The thought that steers a generation back; English where the language is unknown."""
        return _wording(self.safety_thoughts, scenario, language).text

    def refusal(self, scenario: Key, language: str) -> str:
        """The text that the client gets instead; English where the language is unknown."""
        return _wording(self.refusals, scenario, language).text

    def unknown_is_closed(self, stage: Stage) -> bool:
        """Whether text that a judge could not tell about is held back (else released, flagged)."""
        return self.unknown_closed[stage]

    def overload_is_closed(self, stage: Stage) -> bool:
        """Whether text is held back when judges are overloaded or late (else released, flagged)."""
        return self.overload_closed[stage]

    def with_mode(self, mode: Mode) -> Policy:
        """This policy in another mode: the one that the file would give with that `mode`."""
        content = {**self.content, "mode": mode.value}
        return replace(self, mode=mode, content=content, version=content_version(content))

    def judged_by(self, names: Mapping[Stage, str]) -> Policy:
        """This policy, with a warning where it was calibrated with other judges than these.

        `names`: with their versions, as judges call themselves.
        """
        if self.calibration is None:
            return self
        warnings = tuple(
            f"{self.file}:{self.calibration.line}: calibrated.judges.{stage}: calibrated with "
            f"{was}, judged by {names[stage]}: its false alarms are not known; "
            "run `mlrm-guard calibrate` again"
            for stage, was in self.calibration.judges.items()
            if names.get(stage, was) != was
        )
        return replace(self, warnings=self.warnings + warnings)

    def with_judge(self, name: str) -> Policy:
        """This policy with all stages judged by that judge alone: one of ours, a declared guard
        model, or a weight file (.npz).

        Nothing is escalated then; at a cap where it would be, it is refused. Rules that no longer
        run become a warning. Raises PolicyError for a judge that there is
        not, and for `rules` where a stage has none.
        """
        if name not in (*JUDGES, *self.declared) and not name.endswith(".npz"):
            known = f"{', '.join((*JUDGES, *self.declared))}, or the path of an .npz file"
            raise PolicyError([f"{self.file}:1: judges: no judge `{name}`; allowed: {known}"])
        judges: dict[Stage, tuple[str, ...]] = dict.fromkeys(Stage, (name,))
        warnings: tuple[str, ...] = ()
        if name == "rules":
            ruled = {stage for rule in self.rules for stage in rule.stages}
            if bare := [stage for stage in Stage if stage not in ruled]:
                raise PolicyError([f"{self.file}:1: rules: no rule for {', '.join(bare)}"])
        elif self.rules:
            warnings = (f"{self.file}:1: rules: not run, every stage is judged by `{name}` alone",)
        content = {**self.content, "judges": {stage.value: [name] for stage in Stage}}
        content.pop("escalate", None)
        caps = self.caps
        if caps.on_cap == "escalate":
            caps = replace(caps, on_cap="refuse")
            content["caps"] = asdict(caps)
        return replace(
            self,
            judges=judges,
            escalate={},
            caps=caps,
            warnings=self.warnings + warnings,
            content=content,
            version=content_version(content),
        )


def alarm_settings(policy: Policy) -> str:
    """12 hex digits that change with whatever false alarms in thinking and answers depend on,
    the judges' versions aside.
    """
    stages = (Stage.REASONING, Stage.ANSWER)
    return content_version(
        {
            "evidence": asdict(policy.evidence),
            "caps": asdict(policy.caps),
            "rules": policy.content["rules"],
            "judges": {stage: list(policy.judges[stage]) for stage in stages},
            **_escalations(policy, stages),
            "unknown": {stage: policy.unknown_is_closed(stage) for stage in stages},
            "curves": {
                f"{key or 'any'} {stage}": asdict(curve)
                for (key, stage), curve in policy.curves.items()
            },
            "cells": {
                f"{key or 'default'} {stage}": [policy.action(key, stage), cell.threshold]
                for (key, stage), cell in policy.cells.items()
                if stage in stages
            },
        }
    )


def _escalations(policy: Policy, stages: Iterable[Stage]) -> dict[str, Any]:
    """Left out where there are none, so that digests from before there were any stand."""
    found = {s: asdict(policy.escalate[s]) for s in stages if s in policy.escalate}
    for rule in found.values():
        del rule["ask"]  # the same verdicts, sooner
    return {"escalate": found} if found else {}


def content_version(content: Mapping[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of the content's canonical JSON."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def explain(policy: Policy, scenario: Key, stage: Stage) -> str:
    """Say what would happen to this scenario at this stage, and which line or row says so."""
    cell = policy.cells[scenario, stage]
    unit = "probability" if stage is Stage.INPUT else "nats"
    rules = [r.name for r in policy.rules if r.scenario is scenario and stage in r.stages]
    rows = [
        ("judged by", ", ".join(policy.judges[stage])),
        *_escalation(policy, stage),
        *_guard_models(policy, stage),
        ("rules", ", ".join(rules) if rules else "none for this scenario"),
        ("action", f"{cell.action}  [{cell.action_from}]"),
        ("threshold", f"{cell.threshold:g} {unit}  [{cell.threshold_from}]"),
    ]
    if stage is not Stage.INPUT:
        rows += _calibrated(policy, scenario, stage)
    if cell.action is Action.PRIME:
        rows.append(("primed", "the model's thinking begins with the safety thought"))
    if cell.action is Action.CORRECT:
        rows.append(("corrections", _corrections(policy, stage)))
    if cell.action in (Action.PRIME, Action.CORRECT):
        rows += _texts("safety thought", policy.safety_thoughts, scenario)
    if cell.action.intervenes:
        rows += _texts("refusal", policy.refusals, scenario)
    if stage is Stage.INPUT:
        rows += [("judged are", _SCOPES[policy.input.scope]), ("judged when", policy.input.wait)]
        rows.append(("images", _IMAGES[policy.input.images]))
        rows += _classifier(policy, scenario)
        if cell.action.intervenes:
            rows.append(("refused as", policy.input.refuse_as))
    else:
        rows.append(("release", policy.release))
        if cell.action.intervenes and policy.release is ReleaseMode.HOLD:
            rows.append(("at a cap", policy.caps.on_cap))
    rows.append(("judge unknown", _failure(policy.unknown_is_closed(stage))))
    rows.append(("judge overloaded", _failure(policy.overload_is_closed(stage))))
    title = f"{policy.label} ({policy.file}), mode {policy.mode}: {scenario or 'default'}, {stage}"
    notes = {
        Mode.SHADOW: ["Mode shadow: all this is recorded and nothing of it is done."],
        Mode.OFF: ["Mode off: nothing is judged."],
    }
    lines = [f"  {name:<17}  {text}" for name, text in rows]
    return "\n".join([title, *lines, *notes.get(policy.mode, [])])


def _escalation(policy: Policy, stage: Stage) -> list[tuple[str, str]]:
    return [("escalated", escalation_text(policy, stage))] if stage in policy.escalate else []


def escalation_text(policy: Policy, stage: Stage) -> str:
    """What of a stage is escalated to whom, in words; it must be some."""
    rule = policy.escalate[stage]
    what = [f"scores from {rule.at_least:g} to {rule.at_most:g}"]
    if rule.unknown == "escalates":
        what.append("unknown")
    if policy.caps.on_cap == "escalate" and stage is not Stage.INPUT:
        what.append("excursions at a cap")
    when = "at once" if rule.ask == "parallel" else "then"
    return f"{', '.join(what)} -> {rule.judge}, asked {when}"


def _classifier(policy: Policy, scenario: Key) -> list[tuple[str, str]]:
    declared = policy.image_classifier
    if declared is None or scenario not in declared.scenarios.values():
        return []
    labels = [label for label, stands_for in declared.scenarios.items() if stands_for is scenario]
    return [("image classifier", f"{declared.model}: {', '.join(labels)}")]


def _guard_models(policy: Policy, stage: Stage) -> list[tuple[str, str]]:
    names = list(policy.judges[stage])
    if stage in policy.escalate:
        names.append(policy.escalate[stage].judge)
    declared = policy.declared
    return [(name, shown_as(declared[name])) for name in names if name in declared]


def shown_as(judge: DeclaredJudge) -> str:
    """What a declared judge is, and where."""
    match judge:
        case GuardModel():
            return f"{judge.model} as {judge.format}, at {judge.base_url}"
        case Classifier():
            what = "a classifier" + (
                " of step and request" if "{request}" in judge.template else ""
            )
            return f"{judge.model} as {what}, at {judge.base_url}/{judge.endpoint}"
        case LocalClassifier():
            return f"{judge.folder} as a classifier in this process"
        case Moderation():
            return f"{judge.model} as a moderation endpoint, at {judge.base_url}/moderations"


def _calibrated(policy: Policy, scenario: Key, stage: Stage) -> list[tuple[str, str]]:
    found = policy.calibration
    if found is None:
        return [("false alarms", "not calibrated (`mlrm-guard calibrate`)")]
    of = f"with {found.judges[stage]}, {found.date}" if stage in found.judges else found.date
    rows = [("false alarms", f"{_shown(found.bound, found)}  [calibrated, line {found.line}]")]
    if found.hard is not None:
        sources = ", ".join(found.hard_sources)
        rows.append(("on the hard kind", f"{_shown(found.hard, found)} ({sources})"))
    if found.worst is not None:
        source, bound = found.worst
        rows.append(("worst source", f"{source}: {_shown(bound, found)}"))
    rows.append(("calibrated", of))
    if found.bound.stages is not None and stage.value not in found.bound.stages:
        rows.append(("but", f"of `{stage}` the data showed too little: its threshold is unproved"))
    if found.settings != alarm_settings(policy):
        rows.append(("but", "values were changed since: the bound holds no more"))
    for key in dict.fromkeys((None, scenario)):
        if curve := policy.curves.get((key, stage)):
            text = f"{curve.slope:g} x logit {curve.offset:+g}"
            rows.append((f"curve of {key or 'any'}", text))
    return rows


def _shown(bound: Bound, of: Calibration) -> str:
    of_stages = "" if bound.stages is None else f" ({', '.join(bound.stages) or 'no stage'})"
    return (
        f"at most {100 * bound.rate:.2g} % of generations at {100 * of.confidence:g} % confidence: "
        f"{bound.alarms} in {bound.generations}{of_stages}"
    )


def _corrections(policy: Policy, stage: Stage) -> str:
    most = f"{policy.correction.budget} at most"
    if stage is Stage.ANSWER:
        return f"{most}, and none once a part of the answer has left; then refuse"
    return f"{most}, then refuse"


def _wording(texts: Mapping[tuple[Key, str], Wording], scenario: Key, language: str) -> Wording:
    return texts.get((scenario, language)) or texts[scenario, "en"]


def _texts(
    name: str, texts: Mapping[tuple[Key, str], Wording], scenario: Key
) -> list[tuple[str, str]]:
    return [
        (f"{name} {language}", f"{wording.text}  [{wording.source}]")
        for language in LANGUAGES
        for wording in [texts[scenario, language]]
    ]


def _failure(closed: bool) -> str:
    return "closed: the reply is refused" if closed else "open: released and flagged"
