"""Policies: what a file may say, what it then means, and that each mistake is named where it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from monitors.errors import PolicyError
from monitors.policy import Input, Policy, explain
from monitors.policy_commands import policy as policy_app
from monitors.policy_file import load_policy, parse_policy, policy_schema
from monitors.taxonomy import CONTESTED, Action, Mode, ReleaseMode, Scenario, Stage
from monitors.wording import LANGUAGES, refusal, safety_thought

POLICIES = Path(__file__).parents[2] / "deploy" / "policies"
SHIPPED = ["default", "strict", "advice-tolerant"]

SCENARIOS = "scenarios: {default: {input: flag, reasoning: correct, answer: refuse}}\n"
MINIMAL = "name: x\n" + SCENARIOS
ALL_RULES = "judges: {input: [rules], reasoning: [rules], answer: [rules]}\n"


def parse(text: str) -> Policy:
    return parse_policy(text, "p.yaml")


def problems(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse(text)
    return caught.value.problems


# --- what a file means -----------------------------------------------------------------------


def test_a_minimal_file_has_documented_defaults() -> None:
    policy = parse(MINIMAL)
    assert policy.mode is Mode.ENFORCE
    assert policy.judges == dict.fromkeys(Stage, ("embedded",))
    assert (policy.correction.budget, policy.correction.show_thought) == (2, False)
    assert (policy.evidence.drift, policy.evidence.clip, policy.evidence.restart) == (0.5, 2.0, 0.5)
    assert (policy.caps.excursion_steps, policy.caps.on_cap) == (12, "refuse")
    assert policy.limits.keep_alive_seconds == 10.0
    assert (policy.release, policy.reasoning.emit) == (ReleaseMode.HOLD, "upstream")
    assert policy.input == Input(scope="all", wait="beside", refuse_as="message")
    assert policy.reply.top_logprobs == "refuse"
    assert [policy.threshold(None, stage) for stage in Stage] == [0.5, 1.0, 1.4]
    assert all(policy.unknown_is_closed(s) and policy.overload_is_closed(s) for s in Stage)
    assert (policy.rules, policy.warnings) == ((), ())


def test_rows_fall_back_to_default_cell_by_cell() -> None:
    policy = parse(
        """
name: x
scenarios:
  default: {input: flag, reasoning: correct, answer: refuse, threshold: {input: 0.6, reasoning: 4}}
  fraud: {reasoning: flag, threshold: 1.5}
  weapons: {threshold: {input: 0.2, answer: 2}}
"""
    )
    actions = {stage: policy.action(Scenario.FRAUD, stage) for stage in Stage}
    assert actions == {
        Stage.INPUT: Action.FLAG,
        Stage.REASONING: Action.FLAG,
        Stage.ANSWER: Action.REFUSE,
    }
    assert [policy.threshold(Scenario.FRAUD, s) for s in Stage] == [0.6, 1.5, 1.5]
    assert [policy.threshold(Scenario.WEAPONS, s) for s in Stage] == [0.2, 4.0, 2.0]
    assert [policy.threshold(Scenario.OTHER, s) for s in Stage] == [0.6, 4.0, 1.4]
    assert [policy.threshold(None, s) for s in Stage] == [0.6, 4.0, 1.4]


def test_an_answer_can_be_corrected_and_a_request_primed() -> None:
    policy = parse(MINIMAL.replace("answer: refuse", "answer: correct").replace("flag", "prime"))
    assert policy.action(None, Stage.ANSWER) is Action.CORRECT
    assert policy.action(None, Stage.INPUT) is Action.PRIME
    assert policy.warnings == ()
    answer, request = (explain(policy, None, stage) for stage in (Stage.ANSWER, Stage.INPUT))
    assert "2 at most, and none once a part of the answer has left; then refuse" in answer
    assert "prime  [scenarios.default.input, line 2]" in request
    for text in (answer, request):
        assert policy.safety_thought(None, "en") in text
    assert "corrections" not in request


def test_a_file_says_how_text_leaves_and_what_is_judged_of_a_request() -> None:
    policy = parse(
        MINIMAL + "release: live\ninput: {scope: latest_turn, wait: before}\n"
        "reasoning: {emit: field}\nreply: {top_logprobs: allow}\n"
    )
    assert (policy.release, policy.reasoning.emit) == (ReleaseMode.LIVE, "field")
    assert (policy.input.scope, policy.input.wait) == ("latest_turn", "before")
    assert policy.reply.top_logprobs == "allow"
    request = explain(policy, None, Stage.INPUT)
    assert "the latest turn, and what is in no turn" in request
    assert "before" in request
    assert "at a cap" in explain(parse(MINIMAL), None, Stage.ANSWER)
    assert "at a cap" not in explain(policy, None, Stage.ANSWER)


def test_wording_most_specific_wins_and_unknown_languages_get_english() -> None:
    policy = parse(
        """
name: x
refusals: {en: File., de: Datei.}
safety_thoughts: {fr: "Pensée du fichier.\\n"}
scenarios:
  default: {input: flag, reasoning: correct, answer: refuse}
  self_harm: {refusals: {en: Row.}}
"""
    )
    assert policy.refusal(Scenario.SELF_HARM, "en") == "Row."
    assert policy.refusal(Scenario.SELF_HARM, "de") == "Datei."
    assert policy.refusal(Scenario.SELF_HARM, "es") == refusal(Scenario.SELF_HARM, "es")
    assert policy.refusal(Scenario.FRAUD, "en") == policy.refusal(None, "tlh") == "File."
    assert policy.safety_thought(None, "fr") == "Pensée du fichier."
    assert policy.safety_thought(Scenario.FRAUD, "en") == safety_thought(Scenario.FRAUD, "en")
    assert [w.partition(": ")[0] for w in policy.warnings] == ["p.yaml:3"]  # German self_harm


@pytest.mark.parametrize("name", SHIPPED)
def test_every_scenario_has_every_lookup(name: str) -> None:
    policy = load_policy(POLICIES / f"{name}.yaml")
    for scenario in (None, *Scenario):
        for stage in Stage:
            assert policy.action(scenario, stage) in Action
            assert policy.threshold(scenario, stage) > 0
            assert policy.label in explain(policy, scenario, stage)
        for language in LANGUAGES:
            assert policy.safety_thought(scenario, language)
            assert policy.refusal(scenario, language)


def test_rules_become_patterns_of_the_judge() -> None:
    policy = parse(
        "name: x\njudges: {input: [embedded], reasoning: [rules], answer: [embedded, rules]}\n"
        "rules:\n"
        '  - {name: a, pattern: "purple +teapot", scenario: other, stages: [reasoning, answer]}\n'
        "  - {name: b, literals: [a.b, Teapot], scenario: fraud}\n" + SCENARIOS
    )
    first, second = policy.rules
    assert (first.name, first.patterns, first.scenario) == (
        "a",
        ("purple +teapot",),
        Scenario.OTHER,
    )
    assert set(first.stages) == {Stage.REASONING, Stage.ANSWER}
    assert second.patterns == (r"a\.b", "teapot")
    assert set(second.stages) == set(Stage)


# --- versions and overrides ------------------------------------------------------------------


def test_the_version_follows_the_content_not_its_layout() -> None:
    version = parse(MINIMAL).version
    assert len(version) == 12
    assert parse("# note\n" + SCENARIOS + "name: 'x'  # why\nmode: enforce\n").version == version
    assert parse(MINIMAL + "caps: {excursion_seconds: 30}\n").version == version
    assert parse(MINIMAL + "caps: {excursion_seconds: 31}\n").version != version
    assert parse(MINIMAL).label == f"x@{version}"


@pytest.mark.parametrize("mode", list(Mode))
def test_with_mode_is_the_file_in_that_mode(mode: Mode) -> None:
    changed = parse(MINIMAL).with_mode(mode)
    assert changed.mode is mode
    assert changed.label == parse(MINIMAL + f"mode: {mode}\n").label


def test_with_judge_judges_every_stage() -> None:
    changed = parse(MINIMAL).with_judge("constant")
    assert changed.judges == dict.fromkeys(Stage, ("constant",))
    written = "judges: {input: [constant], reasoning: [constant], answer: [constant]}\n"
    assert changed.label == parse(MINIMAL + written).label
    assert parse(MINIMAL).with_judge("w.npz").judges[Stage.INPUT] == ("w.npz",)
    with pytest.raises(PolicyError, match="allowed: embedded, rules, constant"):
        parse(MINIMAL).with_judge("nonesuch")


def test_with_judge_never_claims_rules_that_do_not_run() -> None:
    with pytest.raises(PolicyError, match="no rule for input, reasoning, answer"):
        parse(MINIMAL).with_judge("rules")
    ruled = parse(MINIMAL + ALL_RULES + "rules: [{name: a, literal: teapot, scenario: other}]\n")
    assert "not run" in ruled.with_judge("embedded").warnings[-1]
    assert ruled.with_judge("rules").version == ruled.version


# --- mistakes --------------------------------------------------------------------------------

BAD: list[tuple[str, str, list[str]]] = [
    ("empty", "", ["p.yaml:1: (file): the file is empty"]),
    ("comment only", "# nothing\n", ["p.yaml:1: (file): the file is empty"]),
    ("list", "- a\n", ["p.yaml:1: (file): the file is not a mapping"]),
    ("scalar", "hello\n", ["p.yaml:1: (file): the file is not a mapping"]),
    ("tab", "name: x\nmode:\n\tenforce\n", ["p.yaml:3: (file): not valid YAML: a tab"]),
    ("syntax", MINIMAL + "caps: {on_cap: refuse\n", ["p.yaml:4: (file): not valid YAML"]),
    ("colon", "name: x: y\n", ["p.yaml:1: (file): not valid YAML: a `:`"]),
    ("control", "name: x\nmode: \x00\n", ["p.yaml:2: (file): not valid YAML: a control character"]),
    ("escape", 'name: "\\UFFFFFFFF"\n', ["p.yaml:1: (file): not valid YAML"]),
    ("surrogate", "name: \ud800\n", ["p.yaml:1: (file): the text has lone surrogates"]),
    ("escaped surrogate", 'name: "\\ud800"\n', ["p.yaml:1: name: text with lone surrogates"]),
    ("documents", MINIMAL + "---\na: b\n", ["p.yaml:3: (file): a second document"]),
    ("anchor", "name: &n x\n" + SCENARIOS, ["p.yaml:1: name: an anchor"]),
    (
        "alias",
        "name: &n x\nmode: *n\n",
        ["p.yaml:1: name: an anchor", "p.yaml:2: mode: an alias"],
    ),
    ("tag", "name: !!python/name:os.system x\n" + SCENARIOS, ["p.yaml:1: name: a tag"]),
    ("deep", "a: " + "[" * 30 + "]" * 30, ["p.yaml:1: a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0: nested"]),
    ("complex key", "[a]: 1\n", ["p.yaml:1: (file): a key that is a list or mapping"]),
    (
        "duplicates",
        MINIMAL + "name: y\ncaps:\n  on_cap: refuse\n  on_cap: release\n",
        ["p.yaml:3: name: written twice, also in line 1", "p.yaml:6: caps.on_cap: written twice"],
    ),
    ("null", MINIMAL + "mode:\n\n", ["p.yaml:3: mode: has no value"]),
    ("too large", "#" * 262145, ["p.yaml:1: (file): the file is too large; allowed: at most 256"]),
    ("nothing given", "{}", ["p.yaml:1: name: is missing", "p.yaml:1: scenarios: is missing"]),
    (
        "unknown keys",
        MINIMAL + "mod: enforce\ncaps:\n  on_caps: refuse\n",
        [
            "p.yaml:3: mod: unknown key, did you mean `mode`?; allowed: name, mode, ",
            "p.yaml:5: caps.on_caps: unknown key, did you mean `on_cap`?; allowed: excursion_steps",
        ],
    ),
    ("name", "name: Bad Name\n" + SCENARIOS, ["p.yaml:1: name: `Bad Name` is not allowed"]),
    ("number name", "name: 7\n" + SCENARIOS, ["p.yaml:1: name: `7` is not allowed"]),
    (
        "mode",
        MINIMAL + "mode: on\n",
        ["p.yaml:3: mode: `on` is not allowed; allowed: enforce, shadow, off"],
    ),
    (
        "release",
        MINIMAL + "release: late\ninput: {scope: last}\n",
        [
            "p.yaml:3: release: `late` is not allowed; allowed: hold, live",
            "p.yaml:4: input.scope: `last` is not allowed; allowed: all, latest_turn",
        ],
    ),
    (
        "judges",
        MINIMAL + "judges:\n  input: []\n  reasoning: [gpt]\n  answer: [embedded, embedded]\n",
        [
            "p.yaml:4: judges.input: an empty list is not allowed",
            "p.yaml:5: judges.reasoning.0: `gpt` is not allowed; allowed: embedded, rules, const",
            "p.yaml:6: judges.answer: `embedded` stands twice",
        ],
    ),
    (
        "ranges",
        MINIMAL
        + "correction: {budget: 6}\nlimits:\n  keep_alive_seconds: 16\nevidence: {restart: 1}\n",
        [
            "p.yaml:3: correction.budget: `6` is out of range; allowed: a whole number from 0 to 5",
            "p.yaml:5: limits.keep_alive_seconds: `16` is out of range; allowed: a number from 1",
            "p.yaml:6: evidence.restart: `1` is out of range",
        ],
    ),
    (
        "types",
        MINIMAL + "correction: {budget: 1.5, show_thought: 1}\ncaps: 3\nevidence: {clip: true}\n",
        [
            "p.yaml:3: correction.budget: `1.5` is not allowed",
            "p.yaml:3: correction.show_thought: `1` is not allowed; allowed: true, false",
            "p.yaml:4: caps: `3` is not allowed; allowed: a mapping with excursion_steps",
            "p.yaml:5: evidence.clip: `true` is not allowed",
        ],
    ),
    ("infinite", MINIMAL + "evidence: {clip: .inf}\n", ["p.yaml:3: evidence.clip: `.inf`"]),
    ("overflow", MINIMAL + "evidence: {clip: 1e999}\n", ["p.yaml:3: evidence.clip: `1e999`"]),
    (
        "drift",
        MINIMAL + "evidence: {drift: 2, clip: 2}\n",
        ["p.yaml:3: evidence.drift: `drift` 2 is not below `clip` 2"],
    ),
    (
        "incomplete default",
        "name: x\nscenarios:\n  default: {input: flag}\n",
        [
            "p.yaml:3: scenarios.default.reasoning: is missing; allowed: allow, flag, correct, ref",
            "p.yaml:3: scenarios.default.answer: is missing",
        ],
    ),
    (
        "scenario",
        "name: x\nscenarios:\n"
        "  default: {input: flag, reasoning: flag, answer: flag}\n  frauds: {input: flag}\n",
        ["p.yaml:4: scenarios.frauds: unknown key, did you mean `fraud`?; allowed: default, "],
    ),
    (
        "input actions",
        "name: x\nscenarios:\n"
        "  default: {input: correct, reasoning: flag, answer: flag}\n  fraud: {answer: prime}\n",
        [
            "p.yaml:3: scenarios.default.input: there is nothing to `correct` at the input; "
            "`prime` has the model begin safe; allowed: allow, flag, prime, refuse",
            "p.yaml:4: scenarios.fraud.answer: only the input can `prime`; `correct` steers back "
            "what is generated; allowed: allow, flag, correct, refuse",
        ],
    ),
    (
        "thresholds",
        "name: x\nscenarios:\n  default: {input: flag, reasoning: flag, answer: flag}\n"
        "  fraud: {threshold: 0}\n  weapons: {threshold: {input: 1.5, answers: 1}}\n"
        "  other: {threshold: high}\n",
        [
            "p.yaml:4: scenarios.fraud.threshold: `0` is out of range",
            "p.yaml:5: scenarios.weapons.threshold.input: `1.5` is out of range; allowed: a number"
            " from 0 to 1",
            "p.yaml:5: scenarios.weapons.threshold.answers: unknown key, did you mean `answer`?",
            "p.yaml:6: scenarios.other.threshold: `high` is not allowed; allowed: a number from 0.1"
            " to 100, or a mapping with input, reasoning, answer",
        ],
    ),
    (
        "a key named like a model",
        "name: x\nscenarios:\n  default: {input: flag, reasoning: flag, answer: flag}\n"
        "  fraud: {Row: {threshold: x}, threshold: x}\n",
        [
            "p.yaml:4: scenarios.fraud.threshold: `x` is not allowed",
            "p.yaml:4: scenarios.fraud.Row: unknown key",
        ],
    ),
    (
        "false alarm rates",
        MINIMAL.replace("refuse}", "refuse, false_alarm_rate: 0.1}"),
        [
            "p.yaml:2: scenarios.default.false_alarm_rate: stands once, at the top of the file, "
            "for the whole policy; a row has a `threshold` in nats",
        ],
    ),
    (
        "a false alarm rate without proof",
        MINIMAL + "false_alarm_rate: 0.01\n",
        [
            "p.yaml:3: false_alarm_rate: nothing proves it: there is no `calibrated` block; "
            "allowed: `mlrm-guard calibrate",
        ],
    ),
    (
        "wording",
        MINIMAL + 'refusals: {it: No., en: "  "}\nsafety_thoughts:\n  en: Done.</think>\n',
        [
            "p.yaml:3: refusals.en: the text is blank",
            "p.yaml:3: refusals.it: unknown key; allowed: en, zh, de, es, fr",
            "p.yaml:5: safety_thoughts.en: `<` could be read as markup by the model",
        ],
    ),
    (
        "rule entries",
        MINIMAL + ALL_RULES + "rules:\n  - {name: A, literal: x, scenario: fraud}\n"
        "  - {name: b, scenario: fraud}\n  - {name: c, literal: x, pattern: x, scenario: fraud}\n"
        "  - {name: d, literal: x, scenario: fruad, stages: []}\n  - teapot\n",
        [
            "p.yaml:5: rules.0.name: `A` is not allowed",
            "p.yaml:6: rules.1: has no single way to match; allowed: exactly one of pattern, lit",
            "p.yaml:7: rules.2: has no single way to match",
            "p.yaml:8: rules.3.scenario: `fruad` is not allowed",
            "p.yaml:8: rules.3.stages: an empty list is not allowed",
            "p.yaml:9: rules.4: `teapot` is not allowed; allowed: a mapping with name, pattern",
        ],
    ),
    (
        "patterns",
        MINIMAL + ALL_RULES + "rules:\n  - name: a\n    pattern: (teapot\n    scenario: other\n"
        "  - {name: b, pattern: t*, scenario: other}\n"
        "  - {name: c, pattern: (?=t), scenario: other}\n",
        [
            "p.yaml:6: rules.0.pattern: ",
            "p.yaml:8: rules.1.pattern: ",
            "p.yaml:9: rules.2.pattern: ",
        ],
    ),
    (
        "rules judge without rules",
        MINIMAL + "judges: {answer: [embedded, rules]}\n",
        ["p.yaml:3: judges.answer: lists `rules`, but no rule looks at this stage"],
    ),
    (
        "rules without rules judge",
        MINIMAL + "rules:\n  - {name: a, literal: t, scenario: other}\n",
        ["p.yaml:4: rules.0: nothing runs this rule"],
    ),
    (
        "rule at an unruled stage",
        MINIMAL + "judges: {answer: [rules]}\nrules:\n"
        "  - {name: a, literal: t, scenario: other, stages: [input, answer]}\n",
        ["p.yaml:5: rules.0.stages: `judges` has no `rules` for input"],
    ),
    (
        "rule names",
        MINIMAL + ALL_RULES + "rules:\n  - {name: a, literal: t, scenario: other}\n"
        "  - {name: a, literal: u, scenario: other}\n",
        ["p.yaml:6: rules.1.name: `a` is also the name of rule 0"],
    ),
]


@pytest.mark.parametrize(("text", "expected"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_each_mistake_is_named_where_it_stands(text: str, expected: list[str]) -> None:
    found = problems(text)
    assert len(found) == len(expected), found
    for problem, prefix in zip(found, expected, strict=True):
        assert problem.startswith(prefix), (problem, prefix)
        assert "\n" not in problem
        assert "allowed: " in problem or "calibrat" in problem or "not valid YAML" in problem


def test_a_flood_of_mistakes_is_counted_not_listed() -> None:
    found = problems(MINIMAL + "".join(f"k{i}: 1\n" for i in range(300)))
    assert len(found) == 101
    assert found[-1] == "p.yaml:1: (file): 200 more problems"


def test_a_problem_cannot_speak_to_the_terminal() -> None:
    text = MINIMAL + 'mode: "\\e[2J\\n"\n"\\e[2J": 1\n'
    value, key = problems(text)
    assert value == "p.yaml:3: mode: `?[2J ` is not allowed; allowed: enforce, shadow, off"
    assert key.startswith("p.yaml:4: ?2J: unknown key; allowed: name")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: x\n# naïve\n".encode("latin-1"))
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" + "é".encode() * 200_000)
    missing = tmp_path / "missing.yaml"
    expected = {
        Path("a\0b"): "a?b:1: (file): cannot be read: ",
        latin: f"{latin}:2: (file): not UTF-8",
        huge: f"{huge}:1: (file): the file is too large",
        missing: f"{missing}:1: (file): cannot be read: {os.strerror(2)}",
        tmp_path: f"{tmp_path}:1: (file): cannot be read: ",
    }
    for path, prefix in expected.items():
        with pytest.raises(PolicyError) as caught:
            load_policy(path)
        assert len(caught.value.problems) == 1
        assert caught.value.problems[0].startswith(prefix)


def test_a_byte_order_mark_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_policy(path).version == parse(MINIMAL).version


DEFAULT_TEXT = (POLICIES / "default.yaml").read_text(encoding="utf-8")
YAML_LIKE = st.lists(
    st.one_of(
        st.sampled_from(
            [*"\n :-{}[],'\"|>&*!%@#?\t\\", "\n  ", ": ", "- ", "---\n", "...\n", "<<: ", "!!int "]
        ),
        st.sampled_from(["name", "scenarios", "default", "rules", "judges", "threshold", "Row"]),
        st.sampled_from(["0x_", ".nan", "1e999", "9" * 30, "null", "true", '"\\ud800"', "2001-99"]),
        st.text(max_size=5),
    ),
    max_size=40,
).map("".join)


@given(st.one_of(st.text(max_size=200), YAML_LIKE, YAML_LIKE.map(MINIMAL.__add__)))
@example("? [1, 2]\n: 3\n")
@example("a: !!int x\n")
def test_no_text_raises_anything_but_policy_errors(text: str) -> None:
    try:
        parse(text)
    except PolicyError as error:
        assert error.problems
        assert all(p.startswith("p.yaml:") and "\n" not in p for p in error.problems)


@given(
    st.integers(min_value=0, max_value=len(DEFAULT_TEXT)),
    st.integers(min_value=0, max_value=30),
    YAML_LIKE,
)
def test_no_edit_of_a_real_file_raises_anything_else(start: int, cut: int, text: str) -> None:
    try:
        parse(DEFAULT_TEXT[:start] + text + DEFAULT_TEXT[start + cut :])
    except PolicyError as error:
        assert error.problems


# --- warnings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (MINIMAL + "correction: {budget: 0}\n", "p.yaml:3: correction.budget: 0 corrections"),
        (
            MINIMAL + "judges: {input: [constant]}\n",
            "p.yaml:3: judges.input: `constant` looks at nothing",
        ),
        (
            MINIMAL.replace("answer: refuse", "answer: refuse, threshold: 19"),
            "p.yaml:2: scenarios.default.threshold: 19 nats are out of reach",
        ),
        (
            MINIMAL + "evidence: {drift: 1.0}\ncaps:\n  excursion_steps: 1\n",
            "p.yaml:5: caps.excursion_steps: 1.4 nats are out of reach",
        ),
        (
            MINIMAL.replace("}}", "}, fraud: {reasoning: allow}}")
            + "judges: {reasoning: [rules]}\n"
            + "rules: [{name: a, literal: t, scenario: fraud, stages: [reasoning]}]\n",
            "p.yaml:4: rules.0: no effect: `fraud` is allowed",
        ),
        (
            MINIMAL + "release: live\n",
            "p.yaml:3: release: `live`: what leaves before its verdict is not held back, only",
        ),
        (
            "release: live\n" + MINIMAL.replace("answer: refuse", "answer: correct"),
            "p.yaml:3: scenarios.default.answer: `correct` refuses here with `release: live`",
        ),
        (
            MINIMAL + "reasoning: {emit: hidden}\ncorrection: {show_thought: true}\n",
            "p.yaml:4: correction.show_thought: no effect: `reasoning.emit` hides all thinking",
        ),
        (
            MINIMAL + "reply: {top_logprobs: allow}\n",
            "p.yaml:3: reply.top_logprobs: alternatives to the tokens leave unjudged",
        ),
    ],
)
def test_what_is_odd_but_has_a_meaning_is_a_warning(text: str, warning: str) -> None:
    found = parse(text).warnings
    assert found
    assert found[-1].startswith(warning), found


# --- what is shipped, and the schema ---------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_policies_load_without_a_warning_and_protect(name: str) -> None:
    policy = load_policy(POLICIES / f"{name}.yaml")
    assert (policy.name, policy.mode, policy.warnings) == (name, Mode.ENFORCE, ())
    assert all(policy.action(Scenario.CHILD_SAFETY, s) is Action.REFUSE for s in Stage)
    assert policy.threshold(Scenario.CHILD_SAFETY, Stage.ANSWER) < policy.threshold(
        None, Stage.ANSWER
    )
    assert policy.action(Scenario.SELF_HARM, Stage.INPUT) in (Action.FLAG, Action.PRIME)
    for scenario in CONTESTED:
        assert policy.action(scenario, Stage.ANSWER) is not Action.REFUSE
        assert policy.action(scenario, Stage.INPUT) is not Action.REFUSE


def test_schema_describes_every_key() -> None:
    schema = policy_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    objects = [schema, *schema["$defs"].values()]
    for node in objects:
        assert node["additionalProperties"] is False
        for key, value in node["properties"].items():
            assert value["description"], key
            assert value.get("default", 0) is not None
    assert list(schema["$defs"]["Scenarios"]["properties"]) == ["default", *Scenario]
    assert schema["required"] == ["name", "scenarios"]


def conforms(value: Any, node: dict[str, Any], schema: dict[str, Any]) -> bool:
    """As much of JSON Schema as ours uses; the real validator is not a dependency."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    if "oneOf" in node:
        return sum(conforms(value, branch, schema) for branch in node["oneOf"]) == 1
    if "anyOf" in node:
        return any(conforms(value, branch, schema) for branch in node["anyOf"])
    if isinstance(value, dict):
        return (
            node.get("type") == "object"
            and set(node.get("required", [])) <= set(value) <= set(node["properties"])
            and all(conforms(v, node["properties"][k], schema) for k, v in value.items())
        )
    if isinstance(value, list):
        return node.get("type") == "array" and all(
            conforms(v, node["items"], schema) for v in value
        )
    if "enum" in node or "const" in node:
        return value in node.get("enum", [node.get("const")])
    kinds: dict[str, tuple[type, ...]] = {
        "null": (type(None),),
        "string": (str,),
        "boolean": (bool,),
        "integer": (int,),
        "number": (int, float),
    }
    return isinstance(value, kinds.get(node["type"], ()))


@pytest.mark.parametrize("name", ["default", "advice-tolerant"])
def test_one_step_corrects_but_refuses_a_reply_for_child_safety_alone(name: str) -> None:
    policy = load_policy(POLICIES / f"{name}.yaml")
    most = policy.evidence.clip - policy.evidence.drift
    assert policy.threshold(None, Stage.REASONING) < most
    one_is_enough = {s for s in Scenario if policy.threshold(s, Stage.ANSWER) <= most}
    assert one_is_enough == {Scenario.CHILD_SAFETY}


@pytest.mark.parametrize("name", SHIPPED)
def test_schema_accepts_shipped_policies(name: str) -> None:
    schema = policy_schema()
    content = load_policy(POLICIES / f"{name}.yaml").content
    assert conforms(content, schema, schema)
    assert not conforms({**content, "mod": "x"}, schema, schema)
    assert conforms({**content, "release": "live"}, schema, schema)
    assert not conforms({**content, "release": "late"}, schema, schema)


# --- the command line ------------------------------------------------------------------------


def run(*args: str) -> Any:
    return CliRunner().invoke(policy_app, list(args))


def test_check_reports_each_file(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(MINIMAL + "correction: {budget: 0}\n")
    bad.write_text(MINIMAL + "mod: off\n")
    fine = run("check", str(good))
    assert fine.exit_code == 0
    assert fine.stdout == f"{good}: ok, {load_policy(good).label}, 1 warnings\n"
    assert fine.stderr.startswith(f"warning: {good}:3: correction.budget: ")
    both = run("check", str(bad), str(good))
    assert both.exit_code == 1
    assert both.stdout.startswith(f"{good}: ok, ")
    assert both.stderr.startswith(f"{bad}:3: mod: unknown key, did you mean `mode`?")


def test_explain_names_rows_and_lines() -> None:
    path = POLICIES / "default.yaml"
    own = run("explain", str(path), "--scenario", "self_harm", "--stage", "reasoning")
    assert own.exit_code == 0
    lines = DEFAULT_TEXT.splitlines()
    row = lines.index("  self_harm:")
    line = next(at for at in range(row, len(lines)) if "threshold: " in lines[at]) + 1
    given = lines[line - 1].partition("reasoning: ")[2].partition(",")[0]
    where = f"scenarios.self_harm.threshold.reasoning, line {line}"
    assert f"{given} nats  [{where}]" in own.stdout
    assert safety_thought(Scenario.SELF_HARM, "en") in own.stdout
    fallen = run("explain", str(path), "--scenario", "fraud", "--stage", "input")
    assert "flag  [scenarios.default.input, line " in fallen.stdout
    assert "0.5 probability" in fallen.stdout


@pytest.mark.parametrize(
    ("scenario", "stage", "allowed"),
    [("frauds", "input", "misinformation"), ("fraud", "thought", "input, reasoning, answer")],
)
def test_explain_names_what_is_allowed(scenario: str, stage: str, allowed: str) -> None:
    path = str(POLICIES / "default.yaml")
    result = run("explain", path, "--scenario", scenario, "--stage", stage)
    assert result.exit_code == 2
    assert allowed in " ".join(result.stderr.replace("│", " ").split())


def test_explain_of_a_bad_file_shows_its_problems(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    result = run("explain", str(path), "--scenario", "fraud", "--stage", "input")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{path}:1: (file): cannot be read")


def test_schema_command_prints_the_schema() -> None:
    code = "from monitors.policy_commands import policy; policy()"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "schema"], capture_output=True, check=True
    )
    assert done.stderr == b""
    assert b'"title": "mlrm-guard policy"' in done.stdout
