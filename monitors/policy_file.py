"""One YAML file -> `Policy`, with every problem as "FILE:LINE: dotted.path: what; allowed: ...".

Three kinds of problem, in this order, since each needs the one before it to hold: the form of the
YAML (`monitors.policy_yaml`), the keys and values (`monitors.policy_models`), and what contradicts
itself. A policy is never accepted that promises a check which nothing configured would run.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, cast
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from monitors import wording
from monitors.errors import PolicyError, UserError
from monitors.judges.classes import LocalClassifier
from monitors.judges.guard_models.declared import GuardModel
from monitors.judges.guard_models.policy_text import written_policy
from monitors.judges.guard_models.registry import make_format
from monitors.judges.rules import Rule, RulesJudge
from monitors.policy import (
    JUDGES,
    Calibration,
    Cell,
    Curve,
    DeclaredJudge,
    Key,
    Policy,
    Source,
    Wording,
    alarm_settings,
    content_version,
)
from monitors.policy_models import (
    CUSTOM,
    DECLARED,
    SECTIONS,
    EscalationEntry,
    PolicyDocument,
    Row,
    Thresholds,
    policy_schema,
)
from monitors.policy_yaml import (
    MAX_BYTES,
    MAX_PROBLEMS,
    TOO_LARGE,
    Document,
    Path,
    problem,
    read_document,
)
from monitors.taxonomy import Action, Mode, ReleaseMode, Scenario, Stage
from monitors.wording import LANGUAGES

__all__ = ["load_policy", "parse_policy", "policy_schema"]

BUILT_IN = Source("built in")
DEFAULT_THRESHOLDS = {Stage.INPUT: 0.5, Stage.REASONING: 1.0, Stage.ANSWER: 1.4}
"""What holds where no row gives one: a probability at the input, nats after it."""

_CALIBRATE = "`mlrm-guard calibrate --policy FILE --data FILES --false-alarm-rate R`"
_RATE_IN_ROW = (
    "stands once, at the top of the file, for the whole policy; a row has a `threshold` in nats, "
    f"which {_CALIBRATE} sets"
)


_KINDS = {
    "guard_models": "guard model",
    "classifiers": "classifier",
    "moderations": "moderation endpoint",
}
_GUARD_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


def load_policy(path: str | FilePath) -> Policy:
    """Read a policy file. Raises PolicyError with every problem, also where it cannot be read."""
    file = str(path)
    try:
        with FilePath(path).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        text = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise PolicyError([problem(file, 1, (), text)]) from error
    if len(data) > MAX_BYTES:
        raise PolicyError([problem(file, 1, (), TOO_LARGE)])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PolicyError(
            [problem(file, line, (), "not UTF-8; allowed: a UTF-8 text file")]
        ) from error
    return parse_policy(text, file)


def parse_policy(text: str, filename: str) -> Policy:
    """Read a policy from text; `filename` stands in problems. Raises PolicyError, nothing else."""
    document = read_document(text, filename)
    model = _validate(document, filename)
    found = [(document.line(path), path, text) for path, text in _contradictions(model)]
    if found:
        raise PolicyError(_lines(filename, found))
    policy = _build(model, document, filename)
    if model.false_alarm_rate is not None and _outdated(policy):
        path = ("false_alarm_rate",)
        text = f"what was calibrated has been changed since; allowed: {_CALIBRATE}, or leave it out"
        raise PolicyError(_lines(filename, [(document.line(path), path, text)]))
    return policy


# --- keys and values -------------------------------------------------------------------------


def _validate(document: Document, file: str) -> PolicyDocument:
    if not isinstance(document.value, dict):
        keys = ", ".join(PolicyDocument.model_fields)
        what = "empty" if document.value is None else "not a mapping"
        raise PolicyError([problem(file, 1, (), f"the file is {what}; allowed: {keys}")])
    try:
        # As JSON: pydantic's strict mode then takes lists and whole numbers for what they mean.
        return PolicyDocument.model_validate_json(
            json.dumps(document.value), context={DECLARED: _declared(document.value)}
        )
    except ValidationError as error:
        # Nothing in a document is null, so the null branch of an optional key says nothing.
        found = [e for e in error.errors(include_url=False) if e["type"] != "none_required"]
        schema = policy_schema()
        problems = [_translate(e, document, schema) for e in found[:MAX_PROBLEMS]]
        raise PolicyError(_lines(file, problems, more=len(found) - MAX_PROBLEMS)) from error


def _declared(value: dict[str, Any]) -> tuple[str, ...]:
    """The names that judges are declared under, whether they are any good or not."""
    found = [value.get(section) for section in SECTIONS]
    return tuple(str(name) for names in found if isinstance(names, dict) for name in names)


def _lines(file: str, problems: list[tuple[int, Path, str]], more: int = 0) -> list[str]:
    """Problems as text, in the order of the file."""
    problems.sort(key=lambda found: found[0])
    more = max(more, len(problems) - MAX_PROBLEMS)
    lines = [problem(file, *found) for found in problems[:MAX_PROBLEMS]]
    return [*lines, problem(file, 1, (), f"{more} more problems")] if more > 0 else lines


def _translate(
    error: ErrorDetails, document: Document, schema: dict[str, Any]
) -> tuple[int, Path, str]:
    """A pydantic error in the words of the file: its line, its path, what is wrong."""
    kind, loc = error["type"], error["loc"]
    path, node = _locate(loc, document.value, schema)
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        path = (*path, loc[-1])
        return document.line(path), path, _unknown_key(str(loc[-1]), _properties(node, schema))
    if kind in ("missing", "missing_argument"):
        what = "is missing"
    elif kind == CUSTOM:
        what = error["ctx"]["text"]
    elif kind in ("greater_than_equal", "less_than_equal"):
        what = f"{_shown(error['input'])} is out of range"
    else:
        what = f"{_shown(error['input'])} is not allowed"
    allowed = error.get("ctx", {}).get("allowed") or _allowed(node, schema)
    return document.line(path), path, f"{what}; allowed: {allowed}"


def _unknown_key(key: str, known: dict[str, Any]) -> str:
    if key == "false_alarm_rate":
        return _RATE_IN_ROW
    nearest = difflib.get_close_matches(key[:64], known, n=1)
    hint = f", did you mean `{nearest[0]}`?" if nearest else ""
    return f"unknown key{hint}; allowed: {', '.join(known)}"


def _locate(
    loc: tuple[int | str, ...], value: object, schema: dict[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """The path in the file that pydantic means, and its schema.

    Pydantic's location also names the branches of unions, which neither file nor schema has.
    """
    path: list[str | int] = []
    node = schema
    for part in loc:
        if isinstance(part, int) and isinstance(value, list):
            node, value = _resolved(node["items"], schema), value[part]
        elif isinstance(value, dict) and part in (known := _properties(node, schema)):
            node, value = _resolved(known[str(part)], schema), value.get(part)
        elif isinstance(value, dict) and part in value and "additionalProperties" in node:
            if not isinstance(node["additionalProperties"], dict):  # false: an unknown key
                continue
            node, value = _resolved(node["additionalProperties"], schema), value[part]
        else:
            continue
        path.append(part)
    return tuple(path), node


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        return cast(dict[str, Any], schema["$defs"][node["$ref"].rpartition("/")[2]])
    return node


def _properties(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The keys of a mapping, or of the branch of a choice that is one."""
    branches = [_resolved(branch, schema) for branch in node.get("oneOf", [node])]
    return next((branch["properties"] for branch in branches if "properties" in branch), {})


def _allowed(node: dict[str, Any], schema: dict[str, Any]) -> str:
    """What a value may be, in words, from its schema."""
    if "oneOf" in node:
        return ", or ".join(_allowed(_resolved(b, schema), schema) for b in node["oneOf"])
    if "enum" in node:
        return ", ".join(node["enum"])
    if "examples" in node:  # of an open set, these are ours
        return ", ".join(node["examples"])
    if "const" in node:
        return str(node["const"])
    return _allowed_form(node, schema)


def _allowed_form(node: dict[str, Any], schema: dict[str, Any]) -> str:
    match node["type"]:
        case "string" if "pattern" in node:
            return f"text of the form {node['pattern'].strip('^$')}"
        case "string":
            return f"text of {node['minLength']} to {node['maxLength']} characters"
        case "boolean":
            return "true, false"
        case "array":
            most = f" of at most {node['maxItems']}" if "maxItems" in node else ""
            once = ", each once" if "uniqueItems" in node else ""
            return f"a list{most}{once}: {_allowed(_resolved(node['items'], schema), schema)}"
        case "object":
            keys = ", ".join(_properties(node, schema)) or "names of your own"
            return f"a mapping with {keys}"
        case kind:
            number = "a whole number" if kind == "integer" else "a number"
            return f"{number} from {node['minimum']:g} to {node['maximum']:.10g}"


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list" if value else "an empty list"
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`{text[:40]}…`" if len(text) > 40 else f"`{text}`"


# --- what contradicts itself -----------------------------------------------------------------


def _contradictions(model: PolicyDocument) -> Iterator[tuple[Path, str]]:
    rules = [entry.rule() for entry in model.rules]
    ruled = {stage: "rules" in getattr(model.judges, stage) for stage in Stage}
    yield from _bad_patterns(model, rules)
    first: dict[str, int] = {}
    for index, (entry, rule) in enumerate(zip(model.rules, rules, strict=True)):
        path: Path = ("rules", index)
        if first.setdefault(rule.name, index) != index:
            text = f"`{rule.name}` is also the name of rule {first[rule.name]}; allowed: new names"
            yield (*path, "name"), text
        unrun = [stage for stage in Stage if stage in rule.stages and not ruled[stage]]
        if entry.stages is not None and unrun:
            text = f"`judges` has no `rules` for {', '.join(unrun)}, so nothing would run this rule"
            yield (*path, "stages"), f"{text}; allowed: {_listed(ruled)}"
        elif len(unrun) == len(Stage):
            yield path, "nothing runs this rule; allowed: list `rules` under `judges` for a stage"
    for stage in Stage:
        if ruled[stage] and not any(stage in rule.stages for rule in rules):
            text = "lists `rules`, but no rule looks at this stage; allowed: embedded, constant"
            yield ("judges", stage.value), text
    yield from _bad_names(model)
    yield from _bad_escalations(model)
    if model.evidence.drift >= model.evidence.clip:
        text = f"`drift` {model.evidence.drift:g} is not below `clip` {model.evidence.clip:g}"
        yield ("evidence", "drift"), f"{text}: evidence could never rise; allowed: less than `clip`"
    if (rate := model.false_alarm_rate) is not None:
        path = ("false_alarm_rate",)
        if model.calibrated is None:
            yield path, f"nothing proves it: there is no `calibrated` block; allowed: {_CALIBRATE}"
        elif model.calibrated.false_alarm_rate > rate:
            text = f"was calibrated to {model.calibrated.false_alarm_rate:g}"
            yield path, f"{text}; allowed: that, or {_CALIBRATE}"


def _bad_names(model: PolicyDocument) -> Iterator[tuple[Path, str]]:
    seen: set[str] = set()
    for section in SECTIONS:
        for name in getattr(model, section) or {}:
            if name in JUDGES or not _GUARD_NAME.fullmatch(name):
                what = _KINDS[section]
                text = f"`{name[:64]}` is no name for a {what}; allowed: text of the form"
                ours = ", ".join(JUDGES)
                yield (section, name), f"{text} {_GUARD_NAME.pattern}, other than {ours}"
            elif name in seen:
                yield (section, name), "declared twice; allowed: a name of its own"
            seen.add(name)
    for name, entry in (model.guard_models or {}).items():
        if entry.images and not make_format(entry.format).images:
            text = f"`{entry.format}` has no place for images; allowed: false, or another format"
            yield ("guard_models", name, "images"), text


def _bad_escalations(model: PolicyDocument) -> Iterator[tuple[Path, str]]:
    """Judges that are no stronger, bands that hold nothing, caps at which nobody is there."""
    declared: dict[str, EscalationEntry] = {
        stage.value: entry
        for stage in Stage
        if model.escalate is not None and (entry := getattr(model.escalate, stage)) is not None
    }
    for stage, entry in declared.items():
        path: Path = ("escalate", stage)
        if entry.judge in ("rules", "constant") or entry.judge in getattr(model.judges, stage):
            text = f"`{entry.judge}` is no stronger judge than those under `judges`"
            yield (*path, "judge"), f"{text}; allowed: another judge, best a guard model"
        if entry.at_least > entry.at_most:
            text = f"{entry.at_most:g} is below `at_least` {entry.at_least:g}"
            yield (*path, "at_most"), f"{text}; allowed: that or more"
    if model.caps.on_cap == "escalate":
        missing = [stage for stage in ("reasoning", "answer") if stage not in declared]
        if missing:
            text = f"`escalate` has no judge for {' and '.join(missing)}"
            yield ("caps", "on_cap"), f"{text}; allowed: refuse, release, or a judge there"


def _bad_patterns(model: PolicyDocument, rules: list[Rule]) -> Iterator[tuple[Path, str]]:
    """What the judge itself says to each rule and, where each is good, to all of them together."""
    good = True
    for index, (entry, rule) in enumerate(zip(model.rules, rules, strict=True)):
        try:
            RulesJudge([rule])
        except UserError as error:
            good = False
            given = next(k for k in ("pattern", "literal", "literals") if getattr(entry, k))
            text = f"{error}; allowed: RE2 syntax that needs at least one character"
            yield ("rules", index, given), text
    if good:
        try:
            RulesJudge(rules)
        except UserError as error:
            yield ("rules",), f"too much together: {error}; allowed: fewer or shorter rules"


def _listed(ruled: dict[Stage, bool]) -> str:
    return ", ".join(stage for stage in Stage if ruled[stage]) or "none, until `judges` lists it"


def _path(source: Source) -> Path:
    return tuple(source.place.split("."))


def _doubts(model: PolicyDocument, policy: Policy) -> Iterator[tuple[Path, str]]:
    """What is odd but has a meaning: (path, text) of each warning."""
    for index, rule in enumerate(policy.rules):
        if all(policy.action(rule.scenario, stage) is Action.ALLOW for stage in rule.stages):
            text = f"no effect: `{rule.scenario}` is allowed at every stage of this rule"
            yield ("rules", index), text
    for stage, judges in policy.judges.items():
        if judges == ("constant",):
            yield ("judges", stage.value), "`constant` looks at nothing; it is for tests"
    yield from _guard_model_doubts(policy)
    yield from _escalation_doubts(policy)
    if policy.image_classifier is not None and policy.input.images == "pass":
        yield ("image_classifier",), "no effect: `input.images` lets all images pass unjudged"
    if policy.input.images == "pass":
        for name, guard in policy.guard_models.items():
            if make_format(guard.format).takes_images(guard.images):
                text = "is shown no images: `input.images` lets all pass unjudged"
                yield ("guard_models", name), text
    if _outdated(policy):
        text = "values were changed since: its bound holds no more"
        yield ("calibrated",), f"{text}; run {_CALIBRATE}"
    yield from _unproved(policy)
    if policy.correction.budget == 0 and any(
        cell.action is Action.CORRECT for cell in policy.cells.values()
    ):
        yield ("correction", "budget"), "0 corrections: `correct` refuses at once"
    yield from _empty_promises(policy)
    for language in LANGUAGES:
        source = policy.refusals[Scenario.SELF_HARM, language].source
        if source is not BUILT_IN and not source.place.startswith("scenarios.self_harm."):
            text = "replaces the text that points people to help"
            yield _path(source), f"{text}; give `self_harm` its own `refusals.{language}`"
    yield from _unreachable(policy)


def _guard_model_doubts(policy: Policy) -> Iterator[tuple[Path, str]]:
    """Declared judges that nobody asks, that answer too late, or are told a key in the clear."""
    used = {name for names in policy.judges.values() for name in names}
    used |= {rule.judge for rule in policy.escalate.values()}
    limit = policy.limits.judge_timeout_seconds
    sections: tuple[Mapping[str, DeclaredJudge], ...] = (
        policy.guard_models,
        policy.classifiers,
        policy.moderations,
    )
    for section, judges in zip(SECTIONS, sections, strict=True):
        for name, declared in judges.items():
            path: Path = (section, name)
            if name not in used:
                yield path, "no effect: no stage under `judges` lists it"
            elif declared.timeout_seconds >= limit:
                text = f"{declared.timeout_seconds:g} s are not below"
                limits = f"`limits.judge_timeout_seconds` ({limit:g} s), which answers first"
                yield (*path, "timeout_seconds"), f"{text} {limits}"
            if isinstance(declared, LocalClassifier):
                continue
            host = urlsplit(declared.base_url).hostname or ""
            loopback = host in ("127.0.0.1", "::1", "localhost")
            if declared.api_key_env and declared.base_url.startswith("http:") and not loopback:
                text = f"its key goes to {host} in the clear; use https, or a tunnel"
                yield (*path, "base_url"), text


def _escalation_doubts(policy: Policy) -> Iterator[tuple[Path, str]]:
    """What is asked in advance without sparing time, or too late to be heard."""
    limit, models = policy.limits.judge_timeout_seconds, policy.declared
    for stage, rule in policy.escalate.items():
        if rule.ask == "parallel" and rule.judge not in models:
            text = f"no effect: `{rule.judge}` works here, and only where it is needed"
            yield ("escalate", stage.value, "ask"), text
        first = max(
            (models[n].timeout_seconds for n in policy.judges[stage] if n in models), default=0
        )
        seers = [name for name in policy.judges[stage] if _sees(policy, name)]
        if seers and not _sees(policy, rule.judge):
            text = f"`{rule.judge}` sees no images, `{seers[0]}` does"
            yield (
                ("escalate", stage.value, "judge"),
                f"{text}: of a request with images its verdict clears nothing; "
                "best a judge that sees them",
            )
        own = models[rule.judge].timeout_seconds if rule.judge in models else 0
        if first and own and rule.ask == "sequential" and first + own >= limit:
            text = f"asked after {first:g} s, it may take {own:g} s: not below"
            yield (
                ("escalate", stage.value, "judge"),
                f"{text} `limits.judge_timeout_seconds` ({limit:g} s), which answers first",
            )


def _sees(policy: Policy, judge: str) -> bool:
    declared = policy.guard_models.get(judge)
    if declared is None:
        return False
    form = make_format(declared.format, strict=declared.strict, policy=declared.policy)
    return form.takes_images(declared.images)


def _outdated(policy: Policy) -> bool:
    """Whether the values are not those that were calibrated."""
    found = policy.calibration
    return found is not None and found.settings != alarm_settings(policy)


def _unproved(policy: Policy) -> Iterator[tuple[Path, str]]:
    """Stages at which the policy acts, though its bound says nothing of them."""
    found = policy.calibration
    if found is None or found.bound.stages is None:
        return
    for stage in (Stage.REASONING, Stage.ANSWER):
        acts = any(cell.action.intervenes for (_, at), cell in policy.cells.items() if at is stage)
        if acts and stage.value not in found.bound.stages:
            text = f"shows nothing of `{stage}`: its thresholds are unproved; run {_CALIBRATE}"
            yield ("calibrated", "bound"), f"{text} on data with enough safe text of that stage"


def _empty_promises(policy: Policy) -> Iterator[tuple[Path, str]]:
    """What two sections say that cannot both hold."""
    shown = policy.correction.show_thought
    if shown and policy.reasoning.emit == "hidden":
        yield ("correction", "show_thought"), "no effect: `reasoning.emit` hides all thinking"
    if policy.reply.top_logprobs == "allow" and policy.release is ReleaseMode.HOLD:
        text = "alternatives to the tokens leave unjudged, although `release` is `hold`"
        yield ("reply", "top_logprobs"), text
    if policy.release is not ReleaseMode.LIVE:
        return
    acting = {c.action for (_, stage), c in policy.cells.items() if stage is not Stage.INPUT}
    if any(action.intervenes for action in acting):
        text = "`live`: what leaves before its verdict is not held back, only retracted: the client"
        yield ("release",), f"{text} is told from which character to erase"
    corrected = {
        cell.action_from
        for (_, stage), cell in policy.cells.items()
        if stage is Stage.ANSWER and cell.action is Action.CORRECT
    }
    for source in corrected:
        text = "`correct` refuses here with `release: live`, where an answer leaves as it comes"
        yield _path(source), text


def _unreachable(policy: Policy) -> Iterator[tuple[Path, str]]:
    """Thresholds that a capped excursion cannot cross: only rules and the cap intervene there."""
    gain = policy.evidence.clip - policy.evidence.drift
    most = policy.caps.excursion_steps * gain
    seen: set[Source] = set()
    for (_, stage), cell in policy.cells.items():
        source = cell.threshold_from
        if stage is Stage.INPUT or cell.threshold <= most or source in seen:
            continue
        if policy.judges[stage] == ("rules",):
            continue
        seen.add(source)
        path = ("caps", "excursion_steps") if source is BUILT_IN else _path(source)
        text = f"{cell.threshold:g} nats are out of reach: `caps.excursion_steps` x (clip - drift)"
        yield path, f"{text} = {most:g}, so the cap comes first and does `{policy.caps.on_cap}`"


# --- the policy ------------------------------------------------------------------------------


def _build(model: PolicyDocument, document: Document, file: str) -> Policy:
    content = model.model_dump(mode="json", exclude_none=True)
    policy = Policy(
        name=model.name,
        version=content_version(content),
        mode=Mode(model.mode),
        release=ReleaseMode(model.release),
        file=file,
        judges={stage: tuple(getattr(model.judges, stage)) for stage in Stage},
        rules=tuple(entry.rule() for entry in model.rules),
        correction=model.correction,
        reasoning=model.reasoning,
        reply=model.reply,
        input=model.input,
        evidence=model.evidence,
        caps=model.caps,
        limits=model.limits,
        cells={
            (key, stage): _cell(model, document, key, stage)
            for key in (None, *Scenario)
            for stage in Stage
        },
        safety_thoughts=_wordings(model, document, "safety_thoughts", wording.safety_thought),
        refusals=_wordings(model, document, "refusals", wording.refusal),
        unknown_closed={s: getattr(model.on_unknown, s) == "closed" for s in Stage},
        overload_closed={s: getattr(model.on_overload, s) == "closed" for s in Stage},
        warnings=(),
        content=content,
        curves=_curves(model),
        classifiers={name: e.declared() for name, e in (model.classifiers or {}).items()},
        moderations={name: e.declared() for name, e in (model.moderations or {}).items()},
        escalate={
            stage: entry.escalation()
            for stage in Stage
            if model.escalate is not None and (entry := getattr(model.escalate, stage)) is not None
        },
        calibration=_calibration(model, document),
    )
    pictures = model.image_classifier
    policy = replace(
        policy,
        guard_models=_guard_models(model, policy),
        image_classifier=pictures.declared() if pictures is not None else None,
    )
    warnings = sorted((document.line(path), path, text) for path, text in _doubts(model, policy))
    return replace(policy, warnings=tuple(problem(file, *parts) for parts in warnings))


def _guard_models(model: PolicyDocument, policy: Policy) -> dict[str, GuardModel]:
    """As declared, each with the policy in words, for formats that judge by one."""
    violates = [
        scenario
        for scenario in Scenario
        if any(policy.action(scenario, stage) is not Action.ALLOW for stage in Stage)
    ]
    words = written_policy(violates)
    return {name: entry.declared(words) for name, entry in (model.guard_models or {}).items()}


def _curves(model: PolicyDocument) -> dict[tuple[Key, Stage], Curve]:
    found: dict[tuple[Key, Stage], Curve] = {}
    for stage in (Stage.REASONING, Stage.ANSWER):
        own = getattr(model.calibrated.curves, stage) if model.calibrated is not None else None
        for key in (None, *Scenario):
            if (curve := getattr(own, key or "any", None)) is not None:
                found[key, stage] = curve
    return found


def _calibration(model: PolicyDocument, document: Document) -> Calibration | None:
    if (found := model.calibrated) is None:
        return None
    judges = {Stage.REASONING: found.judges.reasoning, Stage.ANSWER: found.judges.answer}
    return Calibration(
        false_alarm_rate=found.false_alarm_rate,
        confidence=found.confidence,
        judges=judges,
        settings=found.settings,
        bound=found.bound,
        hard=found.hard.bound if found.hard is not None else None,
        hard_sources=tuple(found.hard.sources) if found.hard is not None else (),
        worst=(found.worst.source, found.worst.bound) if found.worst is not None else None,
        date=found.date,
        line=document.line(("calibrated",)),
    )


def _rows(model: PolicyDocument, key: Key) -> list[tuple[str, Row]]:
    """The rows that speak for a scenario, its own first."""
    names = ["default"] if key is None else [key.value, "default"]
    rows = [(name, getattr(model.scenarios, name)) for name in names]
    return [(name, row) for name, row in rows if row is not None]


def _first(candidates: Iterable[tuple[Any, Path]], document: Document, built_in: Any) -> Any:
    """The first value that the file gives, with its source; else what is built in."""
    for value, path in candidates:
        if value is not None:
            return value, Source(".".join(map(str, path)), document.line(path))
    return built_in, BUILT_IN


def _cell(model: PolicyDocument, document: Document, key: Key, stage: Stage) -> Cell:
    rows = _rows(model, key)
    actions = ((getattr(cells, stage), ("scenarios", row, stage.value)) for row, cells in rows)
    # `default` names every action, so that what is built in here is never used.
    name, action_from = _first(actions, document, Action.REFUSE)
    threshold, threshold_from = _first(
        _thresholds(rows, stage), document, DEFAULT_THRESHOLDS[stage]
    )
    return Cell(
        action=Action(name),
        action_from=action_from,
        threshold=threshold,
        threshold_from=threshold_from,
    )


def _thresholds(rows: list[tuple[str, Row]], stage: Stage) -> Iterator[tuple[float | None, Path]]:
    for row, cells in rows:
        path = ("scenarios", row, "threshold")
        if isinstance(cells.threshold, Thresholds):
            yield getattr(cells.threshold, stage), (*path, stage.value)
        elif stage is not Stage.INPUT:  # a single number is in nats
            yield cells.threshold, path


def _wordings(
    model: PolicyDocument,
    document: Document,
    name: str,
    built_in: Callable[[Key, str], str],
) -> dict[tuple[Key, str], Wording]:
    """Every text, most specific first: the scenario's row, `default`, the file, built in."""
    texts: dict[tuple[Key, str], Wording] = {}
    for key in (None, *Scenario):
        places: list[tuple[Any, Path]] = [
            (getattr(cells, name), ("scenarios", row, name)) for row, cells in _rows(model, key)
        ]
        places.append((getattr(model, name), (name,)))
        for language in LANGUAGES:
            own = ((getattr(t, language, None), (*path, language)) for t, path in places)
            texts[key, language] = Wording(*_first(own, document, built_in(key, language)))
    return texts
