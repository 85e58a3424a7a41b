"""What a policy file may hold: the pydantic models and the JSON Schema that comes from them.

They are the one source of validation, of the "allowed" part of each problem, and of what editors
complete. Optional keys are `None` when left out; a file cannot write null.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Annotated, Any, Literal, Self, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from monitors.classifier_file import ClassifierFile
from monitors.judges.cascade import Escalation
from monitors.judges.classes import (
    TEXT_ONLY,
    Classifier,
    Label,
    LocalClassifier,
    Moderation,
    template_problem,
)
from monitors.judges.guard_models.declared import GuardModel
from monitors.judges.guard_models.registry import FormatName
from monitors.judges.rules import Rule, literal
from monitors.policy import (
    JUDGES,
    Bound,
    Caps,
    Correction,
    Curve,
    DataFile,
    EvidenceParameters,
    Input,
    Limits,
    Reasoning,
    Reply,
)
from monitors.taxonomy import Scenario, Stage
from monitors.wording import LANGUAGES

CUSTOM = "policy"
"""Type of our own pydantic errors, whose message says everything about the value."""

DECLARED = "declared"
"""Key of the validation context: the names under `SECTIONS`, which `judges` may list."""

SECTIONS = ("guard_models", "classifiers", "moderations")
"""Where a policy declares judges under names of its own."""

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,99}")
_VARIABLE_SCHEMA = f"^{_VARIABLE.pattern}$"
_URLS = "http://HOST[:PORT]/PATH or https://.., without user, query and fragment"

T = TypeVar("T", bound=Hashable)
_Absent = SkipJsonSchema[None]

_MARKUP = re.compile(r"[<>◁▷]|\[/?THINK\]", re.IGNORECASE)


def _problem(text: str, allowed: str = "") -> PydanticCustomError:
    """A problem in our own words; `allowed` where the schema's words would not help."""
    # Passed as context: a brace in the text is not to be read as a placeholder.
    return PydanticCustomError(CUSTOM, "{text}", {"text": text, "allowed": allowed})


def _input_action(value: object) -> object:
    if value == "correct":
        raise _problem(
            "there is nothing to `correct` at the input; `prime` has the model begin safe"
        )
    return value


def _output_action(value: object) -> object:
    if value == "prime":
        raise _problem("only the input can `prime`; `correct` steers back what is generated")
    return value


def _unique(values: list[T]) -> list[T]:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise _problem(f"`{twice[0]}` stands twice")
    return values


def _text(value: str) -> str:
    if not (stripped := value.strip()):
        raise _problem("the text is blank")
    return stripped


def _judge(value: object, info: ValidationInfo) -> object:
    """One of ours, or one that the file declares (`DECLARED` of the context)."""
    declared = (info.context or {}).get(DECLARED, ())
    known = tuple(dict.fromkeys((*JUDGES, *declared)))
    if not isinstance(value, str) or value not in known:
        plain = isinstance(value, str | int | float)
        shown = f"`{str(value)[:40]}`" if plain else "a list or mapping"
        raise _problem(f"{shown} is not allowed", ", ".join(known))
    return value


def _base_url(value: str) -> str:
    """No problem shows the value: people write keys into URLs."""
    try:
        parts = urlsplit(value)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise _problem("is no URL", _URLS) from error
    strange = parts.username is not None or parts.query or parts.fragment or port == 0
    if parts.scheme not in ("http", "https") or not host or strange or not value.isprintable():
        raise _problem("is a URL that cannot be used", _URLS)
    return value


def _variable(value: object) -> object:
    """The name of an environment variable; what is none may be the key, and is not shown."""
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
        text = "is no name of an environment variable; a key itself never stands in a policy"
        raise _problem(text, f"text of the form {_VARIABLE.pattern}")
    return value


def _template(value: str) -> str:
    if (problem := template_problem(value)) is not None:
        raise _problem(problem, "text with one `{text}` and at most one `{request}`")
    return value


def _thought(value: str) -> str:
    """A thought goes into the model's context: markup there could end its thinking or its turn."""
    if found := _MARKUP.search(value):
        raise _problem(f"`{found.group()}` could be read as markup by the model", "plain text")
    return value


_UNIQUE = Field(min_length=1, json_schema_extra={"uniqueItems": True})
Text = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_text)]
Thought = Annotated[Text, AfterValidator(_thought)]
Literally = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_text)]
Pattern = Annotated[str, Field(min_length=1, max_length=1000)]
InputAction = Annotated[Literal["allow", "flag", "prime", "refuse"], BeforeValidator(_input_action)]
OutputAction = Annotated[
    Literal["allow", "flag", "correct", "refuse"], BeforeValidator(_output_action)
]
StageName = Literal["input", "reasoning", "answer"]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Nats = Annotated[float, Field(ge=0.1, le=100.0)]
JudgeRef = Annotated[
    str,
    BeforeValidator(_judge),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^[a-z0-9][a-z0-9.-]{0,63}$",
            "examples": list(JUDGES),
            "description": "One of these, or a name under `guard_models`, `classifiers` or "
            "`moderations`.",
        }
    ),
]
JudgeList = Annotated[list[JudgeRef], _UNIQUE, AfterValidator(_unique)]
StageList = Annotated[list[StageName], _UNIQUE, AfterValidator(_unique)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Judges(_Section):
    """Which judges look at each stage."""

    input: JudgeList = Field(default=["embedded"], description="Judges of prompts and images.")
    reasoning: JudgeList = Field(
        default=["embedded"], description="Judges of the model's thinking."
    )
    answer: JudgeList = Field(default=["embedded"], description="Judges of the model's answer.")


class Failure(_Section):
    """What happens at each stage where a judge gives no verdict."""

    input: Literal["closed", "open"] = Field(default="closed", description="At the input stage.")
    reasoning: Literal["closed", "open"] = Field(
        default="closed", description="At the reasoning stage."
    )
    answer: Literal["closed", "open"] = Field(default="closed", description="At the answer stage.")


class Thresholds(_Section):
    """A threshold for each stage."""

    input: Probability | _Absent = Field(
        default=None, description="Probability from 0 to 1, per passage of the request."
    )
    reasoning: Nats | _Absent = Field(default=None, description="Evidence in nats.")
    answer: Nats | _Absent = Field(default=None, description="Evidence in nats.")


_Threshold = Annotated[
    Annotated[Nats, Tag("(number)")] | Annotated[Thresholds, Tag("(stages)")],
    Discriminator(lambda value: "(stages)" if isinstance(value, dict | Thresholds) else "(number)"),
]


def _per_language(name: str, doc: str, text: Any, what: str) -> type[_Section]:
    fields: dict[str, Any] = {
        code: (text | _Absent, Field(default=None, description=f"{what} in {language}."))
        for code, language in LANGUAGES.items()
    }
    return create_model(name, __base__=_Section, __doc__=doc, **fields)


SafetyThoughts = _per_language(
    "SafetyThoughts", "Safety thoughts per language.", Thought, "First-person thought"
)
Refusals = _per_language("Refusals", "Refusal texts per language.", Text, "Refusal text")


class Row(_Section):
    """What to do about one scenario; cells that are left out come from the `default` row."""

    input: InputAction | _Absent = Field(
        default=None,
        description="What to do at the input stage. `prime`: the model begins its thinking behind "
        "a safety thought.",
    )
    reasoning: OutputAction | _Absent = Field(
        default=None, description="What to do at the reasoning stage."
    )
    answer: OutputAction | _Absent = Field(
        default=None,
        description="What to do at the answer stage. `correct`: back to thinking, behind a safety "
        "thought; `refuse` once a part of the answer has left.",
    )
    threshold: _Threshold | _Absent = Field(
        default=None,
        description="Evidence in nats for reasoning and answer; or a threshold per stage, which "
        "for the input is a probability. Lower is stricter.",
    )
    safety_thoughts: SafetyThoughts | _Absent = Field(  # type: ignore[valid-type]
        default=None, description="Thoughts that steer the model back, for this scenario."
    )
    refusals: Refusals | _Absent = Field(  # type: ignore[valid-type]
        default=None, description="Refusal texts for this scenario."
    )


class DefaultRow(Row):
    """The row that rules all harm that no other row rules; it must name all three actions."""

    input: InputAction = Field(description="What to do at the input stage.")
    reasoning: OutputAction = Field(description="What to do at the reasoning stage.")
    answer: OutputAction = Field(description="What to do at the answer stage.")


_SCENARIO_FIELDS: dict[str, Any] = {
    scenario.value: (
        Row | _Absent,
        Field(default=None, description=f"What to do about `{scenario}`; else as `default` says."),
    )
    for scenario in Scenario
}
Scenarios = create_model(
    "Scenarios",
    __base__=_Section,
    __doc__="One row per kind of harm.",
    default=(DefaultRow, Field(description="What holds where a row says nothing.")),
    **_SCENARIO_FIELDS,
)


class RuleEntry(_Section):
    """One rule: exactly one of `pattern`, `literal` and `literals`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")] = Field(
        description="Name of the rule, as records show it."
    )
    pattern: Pattern | _Absent = Field(
        default=None, description="A regular expression in RE2 syntax; case is ignored."
    )
    literal: Literally | _Absent = Field(
        default=None, description="A text to look for; case is ignored."
    )
    literals: Annotated[list[Literally], Field(min_length=1)] | _Absent = Field(
        default=None, description="Texts to look for; one is enough, case is ignored."
    )
    scenario: Literal[*(s.value for s in Scenario)] = Field(  # type: ignore[valid-type]
        description="The scenario whose row rules what happens on a match."
    )
    stages: StageList | _Absent = Field(
        default=None, description="The stages where the rule looks; left out: all of them."
    )

    @model_validator(mode="after")
    def _one_way_to_match(self) -> RuleEntry:
        given = [self.pattern, self.literal, self.literals]
        if sum(way is not None for way in given) != 1:
            raise _problem(
                "has no single way to match", "exactly one of pattern, literal, literals"
            )
        return self

    def rule(self) -> Rule:
        """What the `rules` judge runs; its constructor says whether the patterns are any good."""
        literals = self.literals or ([self.literal] if self.literal is not None else [])
        return Rule(
            name=self.name,
            patterns=tuple(map(literal, literals)) if self.pattern is None else (self.pattern,),
            scenario=Scenario(self.scenario),
            stages=frozenset(map(Stage, self.stages)) if self.stages else frozenset(Stage),
        )


Folder = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_text)]
_BaseUrl = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_base_url)]
_ModelName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_text)]
_Template = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_template)]
_KeyName = Annotated[
    str, BeforeValidator(_variable), Field(json_schema_extra={"pattern": _VARIABLE_SCHEMA})
]


class _ServerEntry(_Section):
    """What every judge behind a server has."""

    api_key_env: _KeyName | _Absent = Field(
        default=None,
        description="Environment variable that holds the server's key. Never the key itself.",
    )
    connect_timeout_seconds: Annotated[float, Field(ge=0.05, le=30.0)] = Field(
        default=1.0, description="Seconds to connect."
    )
    timeout_seconds: Annotated[float, Field(ge=0.05, le=60.0)] = Field(
        default=4.0,
        description="Seconds for a verdict, retries included; below "
        "`limits.judge_timeout_seconds`.",
    )
    parallel: Annotated[int, Field(ge=1, le=64)] = Field(
        default=8, description="Requests at once, at most."
    )


class GuardModelEntry(_ServerEntry):
    """A guard model behind an OpenAI-compatible server, for `judges` to name."""

    format: FormatName = Field(
        description="Family of the model: its prompt, categories and verdicts "
        "(`mlrm-guard judge list`)."
    )
    base_url: _BaseUrl = Field(description="Where its API begins, e.g. http://127.0.0.1:8001/v1.")
    model: _ModelName = Field(description="Its name on that server.")
    strict: bool = Field(
        default=True,
        description="Whether `controversial` counts as unsafe (qwen3guard-gen).",
    )
    logprobs: bool = Field(
        default=True,
        description="Whether log-probabilities are asked for. Without them scores are all or "
        "nothing.",
    )
    images: bool | _Absent = Field(
        default=None,
        description="Whether it is shown the request's images. Without a word: llama-guard-4 and "
        "guardreasoner-vl are; `rubric` models are if it says true.",
    )

    def declared(self, policy: str) -> GuardModel:
        """What the judge is made of; `policy` in words."""
        return GuardModel(**self.model_dump(), policy=policy)


class LabelEntry(_Section):
    """One class of a classifier, in the order of the model's."""

    name: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="Its name in the model's configuration."
    )
    means: Literal["safe", "unsafe", *(s.value for s in Scenario)] = Field(  # type: ignore[valid-type]
        description="`safe`, `unsafe` (of no particular kind), or a scenario."
    )


class ClassifierEntry(_ServerEntry):
    """A sequence classifier: behind a vLLM (`base_url`, `model`), or in this process (`folder`)."""

    base_url: _BaseUrl | _Absent = Field(
        default=None,
        description="Of its vLLM, e.g. http://127.0.0.1:8002; its endpoint is not under /v1.",
    )
    model: _ModelName | _Absent = Field(default=None, description="Its name on that server.")
    endpoint: Literal["classify", "pooling"] = Field(
        default="classify", description="What that server is asked at."
    )
    template: _Template = Field(
        default=TEXT_ONLY,
        description="How that server is shown a step of thinking or answer: `{text}` stands for "
        "the step behind the two before it, `{request}` for the request, e.g. "
        "`{request} [SEP] {text}`. The request by itself is shown as it is.",
    )
    folder: Folder | _Absent = Field(
        default=None,
        description="A transformers model to run in this process (extra `classifier`): its folder.",
    )
    labels: Annotated[list[LabelEntry], Field(min_length=1, max_length=100)] = Field(
        description="What each class means, in the model's order."
    )
    exclusive: bool = Field(
        default=True,
        description="Whether one class alone applies, so that probabilities add up to 1; false: "
        "each stands for itself.",
    )
    window: Annotated[int, Field(ge=16, le=8192)] = Field(
        default=512, description="Tokens that it reads at once, in this process."
    )
    threads: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Threads that it may use, in this process."
    )

    @model_validator(mode="after")
    def _one_place(self) -> ClassifierEntry:
        if (self.base_url is None) == (self.folder is None):
            raise _problem("has no single place", "either base_url with model, or folder")
        if self.folder is not None and self.template != TEXT_ONLY:
            raise _problem("has a `template`, which only a server is shown", "base_url with model")
        if self.base_url is not None and self.model is None:
            raise _problem("names no `model` on that server", "its name there")
        if all(label.means == "safe" for label in self.labels):
            raise _problem("finds nothing: all its `labels` mean `safe`", "one that does not")
        if self.exclusive and len(self.labels) == 1:
            raise _problem("has one class, which excludes nothing", "`exclusive: false`")
        return self

    def declared(self) -> Classifier | LocalClassifier:
        """What the judge is made of."""
        labels = tuple(Label(entry.name, entry.means) for entry in self.labels)
        if self.folder is not None:
            return LocalClassifier(
                self.folder,
                labels,
                exclusive=self.exclusive,
                window=self.window,
                threads=self.threads,
                timeout_seconds=self.timeout_seconds,
            )
        return Classifier(
            self.base_url or "",
            self.model or "",
            labels,
            exclusive=self.exclusive,
            endpoint=self.endpoint,
            template=self.template,
            api_key_env=self.api_key_env,
            connect_timeout_seconds=self.connect_timeout_seconds,
            timeout_seconds=self.timeout_seconds,
            parallel=self.parallel,
        )


class ModerationEntry(_ServerEntry):
    """A moderation endpoint that speaks as OpenAI's."""

    base_url: _BaseUrl = Field(
        description="Where its API begins, e.g. https://api.openai.com/v1; asked at /moderations."
    )
    model: _ModelName = Field(
        default="omni-moderation-latest", description="Its name on that server."
    )
    categories: (
        Annotated[
            dict[str, Literal[*(s.value for s in Scenario)]],  # type: ignore[valid-type]
            Field(max_length=100),
        ]
        | _Absent
    ) = Field(
        default=None,
        description="Scenarios of the server's own categories; OpenAI's are known, others are "
        "`other`.",
    )

    def declared(self) -> Moderation:
        """What the judge is made of."""
        own = sorted((self.categories or {}).items())
        return Moderation(
            self.base_url,
            self.model,
            api_key_env=self.api_key_env,
            categories=tuple((name, Scenario(scenario)) for name, scenario in own),
            connect_timeout_seconds=self.connect_timeout_seconds,
            timeout_seconds=self.timeout_seconds,
            parallel=self.parallel,
        )


class EscalationEntry(_Section):
    """What of a stage goes to a stronger judge, whose verdict then counts instead."""

    judge: JudgeRef = Field(description="Who is asked for what the stage's judges leave uncertain.")
    at_least: Probability = Field(
        default=0.2, description="Scores below this are safe enough: they stand."
    )
    at_most: Probability = Field(
        default=0.8, description="Scores above this are unsafe enough: they stand."
    )
    ask: Literal["sequential", "parallel"] = Field(
        default="sequential",
        description="`sequential`: asked where the score was uncertain. `parallel`: asked about "
        "everything at once, and the answer dropped where it is not needed: sooner and dearer.",
    )
    unknown: Literal["stays", "escalates"] = Field(
        default="stays",
        description="What the stage's judges could not tell about: `stays` unknown (see "
        "`on_unknown`), or `escalates` to this judge, too.",
    )

    def escalation(self) -> Escalation:
        """What the cascade runs."""
        return Escalation(**self.model_dump())


class Escalations(_Section):
    """Who is asked for what is left uncertain, per stage."""

    input: EscalationEntry | _Absent = Field(default=None, description="At the input stage.")
    reasoning: EscalationEntry | _Absent = Field(
        default=None, description="At the reasoning stage."
    )
    answer: EscalationEntry | _Absent = Field(default=None, description="At the answer stage.")


_CURVE_FIELDS: dict[str, Any] = {
    "any": (Curve | _Absent, Field(default=None, description="That of any harm.")),
    **{
        scenario.value: (
            Curve | _Absent,
            Field(default=None, description=f"That of `{scenario}`, after the one of any harm."),
        )
        for scenario in Scenario
    },
}
Curves = create_model(
    "Curves",
    __base__=_Section,
    __doc__="How the judges' probabilities are corrected at a stage.",
    **_CURVE_FIELDS,
)
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]


class StageCurves(_Section):
    """The curves of each calibrated stage."""

    reasoning: Curves | _Absent = Field(  # type: ignore[valid-type]
        default=None, description="Of the model's thinking."
    )
    answer: Curves | _Absent = Field(  # type: ignore[valid-type]
        default=None, description="Of the model's answer."
    )


class JudgeVersions(_Section):
    """The judges of a calibration, as records show them."""

    reasoning: Name = Field(description="Judge of the model's thinking.")
    answer: Name = Field(description="Judge of the model's answer.")


class HardBound(_Section):
    """What was shown on the sources that are hardest for a judge."""

    sources: Annotated[list[Name], Field(min_length=1, max_length=100)] = Field(
        description="Which they are."
    )
    bound: Bound = Field(description="What was shown.")


class WorstSource(_Section):
    """The source with the highest share of false alarms, at the thresholds of this file."""

    source: Name = Field(description="Which it is.")
    bound: Bound = Field(description="What was seen of it, and what its share may be.")


class Calibrated(_Section):
    """What `mlrm-guard calibrate` found. It writes this; do not edit it."""

    false_alarm_rate: Probability = Field(description="The rate that was asked for.")
    confidence: Probability = Field(description="How sure the bound is.")
    judges: JudgeVersions = Field(description="Which judges it holds for.")
    settings: Digest = Field(description="Digest of the values that it holds for.")
    bound: Bound = Field(description="What was shown of false alarms per generation.")
    hard: HardBound | _Absent = Field(default=None, description="The same, on the hard kind.")
    worst: WorstSource | _Absent = Field(default=None, description="Where it holds least.")
    curves: StageCurves = Field(
        default=StageCurves(), description="How the judges' probabilities are corrected."
    )
    data: Annotated[list[DataFile], Field(min_length=1, max_length=100)] = Field(
        description="The files that it was calibrated with."
    )
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] = Field(description="When.")
    command: Annotated[str, Field(min_length=1, max_length=10_000)] = Field(
        description="The command that did it."
    )


_Side = Annotated[int, Field(ge=8, le=2048)]
_Three = Annotated[list[float], Field(min_length=3, max_length=3)]
_Label = Annotated[str, Field(min_length=1, max_length=100)]


class ImageClassifierEntry(_Section):
    """A classifier of pictures: a local ONNX file, how it takes its pixels, what it tells."""

    model: str = Field(
        min_length=1, max_length=1000, description="The file; relative to the policy's folder."
    )
    labels: Annotated[
        list[_Label], Field(min_length=1, max_length=1000), AfterValidator(_unique)
    ] = Field(description="Of the model's numbers, in their order.")
    scenarios: Annotated[
        dict[str, Literal[*(s.value for s in Scenario)]],  # type: ignore[valid-type]
        Field(min_length=1),
    ] = Field(description="Which scenario a label stands for; a label without one is harmless.")
    size: Annotated[list[_Side], Field(min_length=2, max_length=2)] = Field(
        default=[224, 224], description="Width and height that the model takes, in pixels."
    )
    mean: _Three = Field(default=[0.0, 0.0, 0.0], description="Taken from channels (0 to 1).")
    std: _Three = Field(default=[1.0, 1.0, 1.0], description="Divides what is left.")
    layout: Literal["nchw", "nhwc"] = Field(default="nchw", description="Order of the axes.")
    channels: Literal["rgb", "bgr"] = Field(default="rgb", description="Order of the colours.")
    fit: Literal["stretch", "crop"] = Field(
        default="stretch", description="How a picture of another shape comes to that size."
    )
    output: Literal["softmax", "sigmoid", "scores"] = Field(
        default="softmax",
        description="What makes probabilities of the numbers; `scores` are some already.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        strange = sorted(self.scenarios.keys() - set(self.labels))
        if strange:
            raise _problem(f"`{strange[0][:40]}` under `scenarios` is none of its `labels`")
        if not all(self.std):
            raise _problem("`std` must not be 0")
        return self

    def declared(self) -> ClassifierFile:
        """As the classifier takes it."""
        red, green, blue = self.mean
        by_red, by_green, by_blue = self.std
        return ClassifierFile(
            model=self.model,
            labels=tuple(self.labels),
            scenarios={label: Scenario(name) for label, name in self.scenarios.items()},
            size=(self.size[0], self.size[1]),
            mean=(red, green, blue),
            std=(by_red, by_green, by_blue),
            layout=self.layout,
            channels=self.channels,
            fit=self.fit,
            output=self.output,
        )


class PolicyDocument(_Section):
    """A policy of mlrm-guard: what to do at which evidence."""

    name: str = Field(
        pattern=r"^[a-z0-9-]{1,64}$",
        description="Name of the policy, as headers and records show it.",
    )
    mode: Literal["enforce", "shadow", "off"] = Field(
        default="enforce",
        description="`enforce` acts; `shadow` judges and records but changes nothing; `off` "
        "relays unjudged.",
    )
    release: Literal["hold", "live"] = Field(
        default="hold",
        description="`hold`: nothing unjudged leaves. `live`: text leaves at once; on a violation "
        "it stops, and the client is told from where to erase it.",
    )
    judges: Judges = Field(default=Judges(), description="Judges per stage.")
    escalate: Escalations | _Absent = Field(
        default=None,
        description="Cheap judges first: a stronger one for what those of a stage leave uncertain.",
    )
    guard_models: Annotated[dict[str, GuardModelEntry], Field(max_length=16)] | _Absent = Field(
        default=None,
        description="Guard models behind OpenAI-compatible servers, by the names that `judges` "
        "gives them.",
    )
    classifiers: Annotated[dict[str, ClassifierEntry], Field(max_length=16)] | _Absent = Field(
        default=None,
        description="Sequence classifiers, by the names that `judges` gives them.",
    )
    moderations: Annotated[dict[str, ModerationEntry], Field(max_length=16)] | _Absent = Field(
        default=None,
        description="Moderation endpoints, by the names that `judges` gives them.",
    )
    image_classifier: ImageClassifierEntry | _Absent = Field(
        default=None, description="What judges pictures themselves, at the input; else nothing."
    )
    rules: list[RuleEntry] = Field(
        default_factory=list, max_length=200, description="What the `rules` judge looks for."
    )
    on_unknown: Failure = Field(
        default=Failure(),
        description="When a judge fails or cannot read a text: `closed` holds back and refuses, "
        "`open` releases and flags.",
    )
    on_overload: Failure = Field(
        default=Failure(),
        description="When the judge's queue is full or the judge is late: `closed` or `open`.",
    )
    correction: Correction = Field(default=Correction(), description="Steering back.")
    reasoning: Reasoning = Field(default=Reasoning(), description="What of it is shown.")
    reply: Reply = Field(default=Reply(), description="What else a client may ask for.")
    input: Input = Field(default=Input(), description="What of a request is judged, and when.")
    evidence: EvidenceParameters = Field(
        default=EvidenceParameters(), description="How evidence accumulates."
    )
    caps: Caps = Field(default=Caps(), description="How long text may be held back.")
    limits: Limits = Field(default=Limits(), description="Time and size limits.")
    safety_thoughts: SafetyThoughts | _Absent = Field(  # type: ignore[valid-type]
        default=None,
        description="Thoughts that steer the model back. Replaces the built-in ones of that "
        "language for all scenarios whose row has none of its own.",
    )
    refusals: Refusals | _Absent = Field(  # type: ignore[valid-type]
        default=None,
        description="Refusal texts. Replaces the built-in ones of that language for all "
        "scenarios whose row has none of its own.",
    )
    false_alarm_rate: Probability | _Absent = Field(
        default=None,
        description="Share of generations that may be interrupted wrongly. It is a promise: only "
        "with a `calibrated` block that proves it. Rows have a `threshold` instead.",
    )
    calibrated: Calibrated | _Absent = Field(
        default=None, description="What `mlrm-guard calibrate` found."
    )
    scenarios: Scenarios = Field(  # type: ignore[valid-type]
        description="What to do about each kind of harm."
    )


def policy_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a policy file, with a description of every key."""
    schema = PolicyDocument.model_json_schema()
    tidy = cast(dict[str, Any], _tidy(schema))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **tidy,
        "title": "mlrm-guard policy",
    }


def _tidy(node: object) -> object:
    """Leave out what pydantic adds and no reader needs: generated titles, defaults of null."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _tidy(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
        and not (key == "default" and value is None)
    }
