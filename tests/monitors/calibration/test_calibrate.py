"""`mlrm-guard calibrate`, from files to a policy that runs as it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import command_line
from monitors.check import Checker
from monitors.errors import PolicyError, UserError
from monitors.judges.base import Judge, Passage, Verdict
from monitors.policy import explain
from monitors.policy_file import load_policy, parse_policy
from monitors.taxonomy import Scenario, Stage
from tests.monitors.calibration.sample import Reader, rows, write

POLICY = """\
# A policy with comments.
name: mine
judges: {reasoning: [embedded]}
scenarios:
  # What holds everywhere.
  default: {input: flag, reasoning: correct, answer: refuse, threshold: {reasoning: 2.0}}
  fraud:
    reasoning: refuse
    threshold: 1.5    # stricter
"""


STAGES = ("reasoning", "answer")
UNPROVED = "calibrated.bound: shows nothing "


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    judge = Reader()

    def panels(*_: object, **__: object) -> Mapping[Stage, Judge]:
        return dict.fromkeys(Stage, judge)

    monkeypatch.setattr("monitors.judges.build.build_panels", panels)
    return judge


def calibrate(tmp_path: Path, *options: str, text: str = POLICY, count: int = 240) -> Result:
    policy = tmp_path / "policy.yaml"
    policy.write_text(text, encoding="utf-8")
    found = rows(count)
    one = write(tmp_path / "one.jsonl", found[: count // 2])
    two = write(tmp_path / "two.jsonl", found[count // 2 :])
    arguments = ["calibrate", "--policy", str(policy), "--data", str(one), str(two)]
    arguments += ["--false-alarm-rate", "0.05", *options]
    return CliRunner().invoke(command_line(["calibrate"]), arguments)


def written(tmp_path: Path) -> str:
    return (tmp_path / "policy.calibrated.yaml").read_text(encoding="utf-8")


def test_measuring_a_policy_fits_and_writes_nothing(tmp_path: Path) -> None:
    assert calibrate(tmp_path).exit_code == 0
    fitted = written(tmp_path)
    files = sorted(tmp_path.iterdir())
    result = calibrate(tmp_path, "--measure-only", text=fitted)
    assert result.exit_code == 0, result.output
    assert sorted(tmp_path.iterdir()) == files
    assert written(tmp_path) == fitted
    assert "The policy as it stands" in result.output
    assert "Other statistics" not in result.output
    refused = calibrate(tmp_path, "--measure-only", "--plot", str(tmp_path / "plot.svg"))
    assert refused.exit_code == 1
    assert "writes no policy" in str(refused.exception)


def test_the_worst_source_stands_in_the_policy(tmp_path: Path) -> None:
    result = calibrate(tmp_path, "--false-alarm-rate", "0.3")
    found = load_policy(tmp_path / "policy.calibrated.yaml")
    assert found.calibration is not None
    worst = found.calibration.worst
    assert worst is not None, result.output
    source, bound = worst
    assert bound.alarms / bound.generations < bound.rate < 1
    said = explain(found, Scenario.FRAUD, Stage.REASONING)
    assert f"{source}: at most" in said


def test_it_writes_a_policy_and_says_what_it_shows(tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    result = calibrate(tmp_path, "--plot", str(plot))
    assert result.exit_code == 0, result.output
    for text in ("120 traces", "false alarms at most", "worst source", "mean of 3 steps", "●"):
        assert text in result.output or (text == "worst source" and "no source" in result.output)
    assert plot.read_text().startswith("<svg")
    assert (tmp_path / "policy.yaml").read_text() == POLICY  # as it was
    text = written(tmp_path)
    for kept in ("# A policy with comments.", "# What holds everywhere.", "# stricter"):
        assert kept in text
    policy = parse_policy(text, "p")
    assert [w.partition(": ")[2][:32] for w in policy.warnings] == [UNPROVED]
    found = policy.calibration
    assert found is not None
    assert (found.false_alarm_rate, found.judges[Stage.REASONING]) == (0.05, "reader@1")
    assert found.bound.rate <= 0.05
    ratio = policy.threshold(None, Stage.REASONING) / policy.threshold(
        Scenario.FRAUD, Stage.REASONING
    )
    assert policy.threshold(None, Stage.REASONING) > 0.2  # not the least that a policy may say
    assert ratio == pytest.approx(2.0 / 1.5, rel=0.01)


def test_what_is_written_runs_as_it_was_measured(tmp_path: Path, reader: Reader) -> None:
    assert calibrate(tmp_path, "--thresholds-only").exit_code == 0
    policy = parse_policy(written(tmp_path), "p")
    checker = Checker(policy, dict.fromkeys(Stage, reader))
    alarms = detected = 0
    for row in rows(240):
        outcome = checker.check(reasoning=row["reasoning"])
        stopped = outcome.action.intervenes
        before = stopped and (outcome.alarm_char or 0) <= row.get("onset_char", 10**9)
        alarms += before
        detected += stopped and not before
    assert policy.calibration is not None
    assert alarms == policy.calibration.bound.alarms
    assert policy.calibration.bound.generations == 240
    assert detected >= 55


def test_explain_shows_it_and_another_judge_is_warned_of(tmp_path: Path) -> None:
    assert calibrate(tmp_path).exit_code == 0
    policy = parse_policy(written(tmp_path), "p")
    text = explain(policy, None, Stage.REASONING)
    assert "at most" in text
    assert "with reader@1" in text
    names = dict.fromkeys(Stage, "reader@2")
    (_, one, two) = policy.judged_by(names).warnings
    assert "calibrated with reader@1, judged by reader@2" in one
    assert "calibrated.judges.answer" in two
    assert policy.judged_by(dict.fromkeys(Stage, "reader@1")).warnings == policy.warnings


def test_a_rate_is_a_promise_that_a_later_edit_breaks(tmp_path: Path) -> None:
    assert calibrate(tmp_path).exit_code == 0
    edited = written(tmp_path).replace("clip:", "restart: 0.4\n  clip:")
    with pytest.raises(PolicyError, match="false_alarm_rate: what was calibrated has been changed"):
        parse_policy(edited, "p")
    (warning, _) = parse_policy(edited.replace("\nfalse_alarm_rate: 0.05\n", "\n", 1), "p").warnings
    assert "calibrated: values were changed since" in warning
    with pytest.raises(PolicyError, match=r"was calibrated to 0\.05"):
        parse_policy(
            written(tmp_path).replace("\nfalse_alarm_rate: 0.05", "\nfalse_alarm_rate: 0.01"), "p"
        )


def test_calibrating_again_replaces_what_was_found(tmp_path: Path) -> None:
    assert calibrate(tmp_path).exit_code == 0
    first = written(tmp_path)
    assert calibrate(tmp_path, text=first).exit_code == 0
    again = written(tmp_path)
    assert again.count("calibrated:") == 1
    assert again.count("# Written by `mlrm-guard calibrate`") == 1
    assert again.count("\n\n") == first.count("\n\n")
    assert "\n\n\n" not in again
    assert load_policy(tmp_path / "policy.calibrated.yaml").calibration is not None


def test_the_input_is_overwritten_only_by_its_name(tmp_path: Path) -> None:
    assert calibrate(tmp_path, "--out", str(tmp_path / "policy.yaml")).exit_code == 0
    assert "calibrated:" in (tmp_path / "policy.yaml").read_text()


def test_a_promised_rate_may_be_proved_later(tmp_path: Path) -> None:
    text = POLICY.replace("name: mine\n", "name: mine\nfalse_alarm_rate: 0.01\n")
    assert calibrate(tmp_path, text=text).exit_code == 0
    assert parse_policy(written(tmp_path), "p").content["false_alarm_rate"] == 0.05


def problem(result: Result) -> str:
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"text": POLICY.replace("[embedded]", "[constant]")}, "`constant` looks at nothing"),
        (
            {"text": POLICY.replace("correct", "flag").replace("refuse\n", "flag\n")},
            "no row correct",
        ),
        ({"text": POLICY + "x: 1\n"}, "policy.yaml:10: x: unknown key"),
        ({"count": 40}, "groups of safe generations cannot show"),
    ],
)
def test_what_cannot_be_calibrated(
    tmp_path: Path, changes: Mapping[str, Any], expected: str
) -> None:
    assert expected in problem(calibrate(tmp_path, **changes))
    assert not (tmp_path / "policy.calibrated.yaml").exists()


def test_a_judge_is_asked_once_where_verdicts_are_kept(tmp_path: Path, reader: Reader) -> None:
    options = ("--verdicts", str(tmp_path / "v.jsonl"))
    assert calibrate(tmp_path, *options).exit_code == 0
    asked = len(reader.asked)
    assert calibrate(tmp_path, *options).exit_code == 0
    assert len(reader.asked) == asked


def test_an_outage_proves_nothing(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(passage: Passage) -> Verdict:
        return Verdict.of_unknown("g@1", "unreachable")

    monkeypatch.setattr(reader, "_verdict", gone)
    rows = "{input: open, reasoning: open, answer: open}"
    text = f"{POLICY}on_unknown: {rows}\non_overload: {rows}\n"
    keeps = tmp_path / "v.jsonl"
    expected = "judge g@1 failed on a step (unreachable)"
    assert expected in problem(calibrate(tmp_path, "--verdicts", str(keeps), text=text))
    assert keeps.read_text() == ""
    assert not (tmp_path / "policy.calibrated.yaml").exists()
    monkeypatch.setattr(reader, "_verdict", lambda _: Verdict.of_unknown("g@1", "http 400"))
    assert "g@1 told nothing" in problem(calibrate(tmp_path, text=text))


@pytest.mark.parametrize(
    ("option", "file", "expected"),
    [
        ("--plot", "policy.calibrated.yaml", "--out and --plot name the same file"),
        ("--plot", "policy.yaml", "--plot and --policy name the same file"),
        ("--plot", "none/plot.svg", "cannot be written"),
        ("--out", "none/out.yaml", "cannot be written"),
        ("--out", ".", "cannot be written"),
        ("--out", "one.jsonl", "--out and --data name the same file"),
        ("--verdicts", "two.jsonl", "--verdicts and --data name the same file"),
    ],
)
def test_files_that_cannot_be_written_are_found_before_anybody_is_asked(
    tmp_path: Path, reader: Reader, option: str, file: str, expected: str
) -> None:
    assert expected in problem(calibrate(tmp_path, option, str(tmp_path / file)))
    assert not reader.asked
    assert (tmp_path / "policy.yaml").read_text() == POLICY
    assert (tmp_path / "two.jsonl").read_text()
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]


def test_help_says_where_the_policy_goes() -> None:
    wide = {"COLUMNS": "200"}
    result = CliRunner(env=wide).invoke(command_line(["calibrate"]), ["calibrate", "--help"])
    assert "POLICY.calibrated.yaml" in result.output


def test_what_was_left_out_by_name_is_not_called_a_solution(tmp_path: Path) -> None:
    result = calibrate(tmp_path, "--not-thinking", "source1", count=360)
    assert "source1: named by --not-thinking" in result.output
    assert "written solutions" not in result.output


def test_thresholds_that_cannot_be_lower_are_said_to_be(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = reader._verdict

    def calm(passage: Passage) -> Verdict:
        verdict = told(passage)
        return replace(verdict, unsafe=0.01) if (verdict.unsafe or 0.0) < 0.95 else verdict

    monkeypatch.setattr(reader, "_verdict", calm)
    result = calibrate(tmp_path, "--thresholds-only")
    assert result.exit_code == 0, result.output
    assert "e-324" not in result.output
    assert "0.1 nats, the least that a policy may name" in result.output
    assert parse_policy(written(tmp_path), "p").threshold(None, Stage.REASONING) == 0.1


def with_answers(count: int, answers: int) -> list[dict[str, Any]]:
    """Traces of which so many safe ones have a safe answer."""
    found = rows(count)
    safe = [row for row in found if not row["unsafe_reasoning"]]
    for row in safe[:answers]:
        row |= {"answer": "This sentence is of score 4.", "unsafe_answer": 0}
    return found


def test_a_stage_without_safe_text_stays_as_it_was_and_is_said_to_be_unproved(
    tmp_path: Path,
) -> None:
    text = POLICY.replace("{reasoning: 2.0}", "{reasoning: 2.0, answer: 4.2}")
    result = calibrate(tmp_path, text=text)
    assert "unproved: answer: 0 groups have safe text of it, 59 are needed" in result.output
    policy = parse_policy(written(tmp_path), "p")
    assert policy.threshold(None, Stage.REASONING) != 2.0
    assert policy.threshold(None, Stage.ANSWER) == 4.2
    assert policy.threshold(Scenario.FRAUD, Stage.REASONING) != 1.5
    assert policy.threshold(Scenario.FRAUD, Stage.ANSWER) == 1.5
    assert policy.calibration is not None
    assert policy.calibration.bound.stages == ("reasoning",)
    (warning,) = policy.warnings
    assert "calibrated.bound: shows nothing of `answer`: its thresholds are unproved" in warning
    assert "threshold is unproved" in explain(policy, None, Stage.ANSWER)
    assert "unproved" not in explain(policy, None, Stage.REASONING)


@pytest.mark.parametrize(("answers", "proved"), [(20, ("reasoning",)), (180, STAGES)])
def test_a_stage_is_proved_where_enough_groups_have_it(
    tmp_path: Path, answers: int, proved: tuple[str, ...]
) -> None:
    data = write(tmp_path / "answers.jsonl", with_answers(240, answers))
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    arguments = ["calibrate", "--policy", str(policy), "--data", str(data), "--thresholds-only"]
    arguments += ["--false-alarm-rate", "0.05"]
    result = CliRunner().invoke(command_line(["calibrate"]), arguments)
    assert result.exit_code == 0, result.output
    found = parse_policy(written(tmp_path), "p")
    assert found.calibration is not None
    assert found.calibration.bound.stages == proved
    assert len(found.warnings) == 2 - len(proved)
    assert found.threshold(None, Stage.ANSWER) != parse_policy(POLICY, "p").threshold(
        None, Stage.ANSWER
    )


def test_one_text_under_many_ids_counts_once(tmp_path: Path) -> None:
    row = rows(1)[0]
    copies = [row | {"id": f"c{at}", "group": f"c{at}"} for at in range(400)]
    data = write(tmp_path / "copies.jsonl", [*copies, rows(4)[3]])
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    arguments = ["calibrate", "--policy", str(policy), "--data", str(data), "--thresholds-only"]
    result = CliRunner().invoke(
        command_line(["calibrate"]), [*arguments, "--false-alarm-rate", "0.05"]
    )
    assert "2 groups of safe generations cannot show" in problem(result)
    assert "399 groups joined" in " ".join(result.output.split())


def test_thresholds_alone_need_nothing_unsafe(tmp_path: Path) -> None:
    safe = [row for row in rows(240) if not row["unsafe_reasoning"]]
    data = write(tmp_path / "safe.jsonl", safe)
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    arguments = ["calibrate", "--policy", str(policy), "--data", str(data)]
    arguments += ["--false-alarm-rate", "0.05", "--plot", str(tmp_path / "plot.svg")]
    arguments += ["--thinking", "source0,source1,source2"]
    result = CliRunner().invoke(command_line(["calibrate"]), [*arguments, "--thresholds-only"])
    assert result.exit_code == 0, result.output
    found = parse_policy(written(tmp_path), "p").calibration
    assert found is not None
    assert found.bound.generations == 180
    assert "nothing unsafe in the data: detection is not measured" in result.output
    assert "no unsafe generation" in problem(
        CliRunner().invoke(command_line(["calibrate"]), arguments)
    )
