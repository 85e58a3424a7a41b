"""`mlrm-guard calibrate`: thresholds from labelled generations, with a bound on false alarms."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monitors.errors import UserError

if TYPE_CHECKING:
    from monitors.calibration.collect import Cut
    from monitors.policy import Policy

_WIDTH = 132  # of tables, off a terminal


def calibrate(
    policy: Annotated[Path, typer.Option(help="Policy file (YAML); it stays as it is.")],
    data: Annotated[
        list[Path], typer.Option(help="Files of labelled generations (JSON lines, gzip by name).")
    ],
    false_alarm_rate: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="Share of generations, e.g. 0.01.")
    ],
    more_data: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="More files of --data.")
    ] = None,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.999999, help="How sure the rate must be.")
    ] = 0.95,
    out: Annotated[
        Path | None, typer.Option(help="Calibrated policy; if not given, POLICY.calibrated.yaml.")
    ] = None,
    verdicts: Annotated[
        Path | None,
        typer.Option(help="Keeps verdicts: a later run asks only for new ones."),
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Overrides the judges of all stages.")] = None,
    hard: Annotated[
        list[str] | None,
        typer.Option(help="Source of the hard kind, on which the rate must hold by itself."),
    ] = None,
    thinking: Annotated[
        list[str] | None, typer.Option(help="Source that is thinking, although it is short.")
    ] = None,
    not_thinking: Annotated[
        list[str] | None, typer.Option(help="Source to leave out, e.g. written solutions.")
    ] = None,
    at_most: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE=N", help="So many generations of a source, by lot."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Leave out rows of another `split` than this.")
    ] = None,
    thresholds_only: Annotated[
        bool, typer.Option(help="Keep curves, drift and clip; all data set the thresholds.")
    ] = False,
    measure_only: Annotated[
        bool, typer.Option(help="Fit nothing, write no policy: what it does as it stands.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the plot there, too (SVG).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split into halves.")] = 0,
) -> None:
    """Fit a policy's evidence to data, so that its false alarms per generation are bounded.

    An alarm before the onset of an unsafe generation is a false alarm, too. Generations of one
    group count as one, tokens as four characters each. Lists of options are given by repeating
    them, or separated by commas.
    """
    from rich.console import Console

    from monitors.calibration import report
    from monitors.calibration.collect import Appeals, VerdictFile, judge_all
    from monitors.calibration.fit import (
        Run,
        Target,
        evidence_of,
        fit,
        outcome,
        safe_groups,
        shown,
    )
    from monitors.calibration.rows import read_data
    from monitors.calibration.write import (
        LEAST,
        Proof,
        require_writable,
        save,
        with_proof,
        with_values,
        without_rate,
    )
    from monitors.judges.build import build_panels
    from monitors.policy_file import parse_policy

    target = Target(false_alarm_rate, confidence)
    path = out or policy.with_name(f"{policy.stem}.calibrated.yaml")
    _require_apart(
        {
            "--out": [path],
            "--plot": [plot],
            "--verdicts": [verdicts],
            "--policy": [policy],
            "--data": [*data, *(more_data or ())],
        }
    )
    if measure_only and (out or plot):
        raise UserError("--measure-only writes no policy and no plot: leave out --out and --plot")
    for written in () if measure_only else (path, *([] if plot is None else [plot])):
        require_writable(written)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    text = without_rate(_text_of(policy))
    loaded = parse_policy(text, str(policy))
    if judge is not None:
        loaded = loaded.with_judge(judge)
    _require_use(loaded)
    panels = build_panels(
        loaded.judges,
        loaded.rules,
        guard_models=loaded.declared,
        escalate=loaded.escalate,
    )
    found = read_data(
        [*data, *(more_data or ())],
        split=split,
        hard=_named(hard),
        thinking=_named(thinking),
        not_thinking=_named(not_thinking),
        at_most=_counts(at_most),
    )
    console.print(report.data_table(found))
    with VerdictFile(verdicts) as known:
        judged = judge_all(loaded, panels, found.generations, known, _progress)
        known.require_answers()
        appeal = Appeals(loaded, panels, known)
        if measure_only:
            statistic = evidence_of(loaded, appeal)
            outcomes = [outcome(Run(one, statistic(one)), 1.0) for one in judged]
            known.require_answers()
            report.tell_as_it_stands(console, outcomes, target)
            return
        fitted = fit(
            loaded, judged, target, search=not thresholds_only, seed=seed, appeal=appeal, say=_say
        )
        side = fitted.sides[0]
        stages = [s for s, n in safe_groups(run.judged for run in side.runs).items() if n]
        text = with_values(text, side.policy, side.factor, stages)
        # What is written is measured as it is written, rounded thresholds and all.
        calibrated = replace(parse_policy(text, str(path)), curves=side.policy.curves)
        statistic = evidence_of(calibrated, appeal)
        runs = [Run(run.judged, statistic(run.judged)) for run in side.runs]
        known.require_answers()  # the stronger judge at caps, too
    found_of = [outcome(run, 1.0) for run in runs]
    proof = Proof(
        target,
        {stage: panel.name for stage, panel in panels.items()},
        shown(runs, 1.0, target),
        shown(runs, 1.0, target, hard=True),
        sorted({run.judged.generation.source for run in runs if run.judged.generation.hard}),
        report.worst_source(found_of, target),
        found.files,
        datetime.now(UTC).date().isoformat(),
        _command(sys.argv[1:]),
    )
    text = with_proof(text, str(path), calibrated, proof)
    least = LEAST if _lowest(calibrated) <= LEAST else None
    report.tell(console, fitted, found_of, proof.bounds, target, least=least)
    save(text, path)
    if plot is not None:
        save(report.svg_plot(report.curve(fitted), target.rate, loaded.name), plot)
    console.print(f"\nwritten: {path}, {parse_policy(text, str(path)).label}", soft_wrap=True)


def _require_apart(files: Mapping[str, Sequence[Path | None]]) -> None:
    """Raise UserError where what is written would take the place of another file; the policy may
    be written over by its name.
    """
    seen: dict[Path, str] = {}
    for option, paths in files.items():
        for path in paths:
            if path is None:
                continue
            first = seen.setdefault(path.resolve(), option)
            if first not in (option, "--out" if option == "--policy" else option):
                raise UserError(f"{first} and {option} name the same file, {path}: name another")


def _lowest(policy: Policy) -> float:
    """The lowest threshold in nats."""
    from monitors.taxonomy import Stage

    cells = policy.cells.items()
    return min(cell.threshold for (_, stage), cell in cells if stage is not Stage.INPUT)


def _require_use(policy: Policy) -> None:
    """Raise UserError for a policy in which there is nothing to calibrate."""
    from monitors.taxonomy import Stage

    if set(policy.judges[Stage.REASONING]) == {"constant"}:
        raise UserError(
            f"{policy.file}: judges.reasoning: `constant` looks at nothing; name a judge"
        )
    acting = any(
        cell.action.intervenes
        for (_, stage), cell in policy.cells.items()
        if stage is Stage.REASONING
    )
    if not acting:
        text = "no row corrects or refuses at `reasoning`, so no threshold matters"
        raise UserError(f"{policy.file}: scenarios: {text}")


def _text_of(path: Path) -> str:
    """The text of a policy file that can be read; what is wrong with it is said when parsed."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"{path}: cannot be read: {why}") from error


def _named(values: Sequence[str] | None) -> list[str]:
    return [name for value in values or () for name in value.split(",") if name]


def _counts(values: Sequence[str] | None) -> dict[str, int]:
    """Of SOURCE=N. Raises UserError."""
    found: dict[str, int] = {}
    for value in _named(values):
        source, _, count = value.rpartition("=")
        if not source or not count.isdecimal():
            raise UserError(f"--at-most {value}: expected SOURCE=N, e.g. chats=100")
        found[source] = int(count)
    return found


def _say(text: str) -> None:
    typer.echo(f"calibrating: {text}", err=True)


def _progress(cuts: Sequence[list[Cut]]) -> Iterator[list[Cut]]:
    """Yield the steps of each generation and show how far it is."""
    from monitors.progress import Steps

    with Steps("judging steps", sum(map(len, cuts))) as shown:
        for steps in cuts:
            yield steps
            shown.step(count=len(steps))


def _command(words: Sequence[str]) -> str:
    """The command line, of files their names only: a policy goes to others."""
    parts = (word.rpartition("=") for word in words)
    named = (f"{option}{sign}{value.rpartition('/')[2]}" for option, sign, value in parts)
    return shlex.join(["mlrm-guard", *named])
