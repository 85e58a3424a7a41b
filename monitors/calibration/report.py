"""What a calibration found, as tables and a plot for a terminal, and as an SVG plot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from math import log10
from statistics import median

from rich.console import Console
from rich.table import Table

from monitors.calibration.bound import at_most, interval, needed, upper
from monitors.calibration.fit import WITHIN_TOKENS, Fit, Outcome, Target, safe_groups
from monitors.calibration.rows import Data
from monitors.policy import Bound

_BINS = (8, 16, 32, 64)  # steps
_MULTIPLES = [10 ** (at / 12) for at in range(-15, 13)]
Point = tuple[float, float]


def tell(
    console: Console,
    fitted: Fit,
    written: Sequence[Outcome],
    bounds: Sequence[Bound],
    target: Target,
    *,
    least: float | None = None,
) -> None:
    """Print all of it. `written`: what the written policy does to the half that bounds it.

    `least`: nats, where some threshold is as low as a policy may name; the data ask for less.
    """
    side, outcomes = fitted.sides[0], fitted.outcomes
    for note in side.notes:
        console.print(f"note: {note}")
    evidence = side.policy.evidence
    times = "as low as can be" if side.factor < 1e-4 else f"x {side.factor:.4g}"
    console.print(
        f"\n[bold]The policy[/]: drift {evidence.drift:g}, clip {evidence.clip:g}, thresholds "
        f"{times}. Shown on data that chose nothing but that factor:"
    )
    if least is not None:
        console.print(
            f"  note: some thresholds stand at {least:g} nats, the least that a policy may name: "
            "these data would allow less, since hardly a safe step raises evidence"
        )
    for kind, bound in zip(("all", "the hard kind"), bounds, strict=False):
        console.print(
            f"  {kind}: false alarms at most {100 * bound.rate:.2f} % of generations with "
            f"confidence {target.confidence:g}: {bound.alarms} in {bound.generations} groups "
            f"({', '.join(bound.stages or ()) or 'no stage has enough'})"
        )
    if not any(one.judged.generation.unsafe for one in written):
        console.print("  nothing unsafe in the data: detection is not measured")
    for line in unproved(written, target):
        console.print(f"  {line}")
    for line in totals(written):
        console.print(f"  {line}")
    if fitted.rivals:
        console.print(
            "\n[bold]Every generation[/], each by what was fitted to the other half of the groups:"
        )
        for line in totals(outcomes):
            console.print(f"  {line}")
    _tell_where(console, outcomes, target)
    if fitted.rivals:
        console.print("\n[bold]Other statistics[/], at the same bounded false-alarm rate:")
        console.print(rival_table(outcomes, fitted.rivals))
        console.print(verdict_on_rivals(outcomes, fitted.rivals))
    console.print(f"\n{text_plot(curve(fitted), target.rate)}", soft_wrap=True)


def tell_as_it_stands(console: Console, outcomes: Sequence[Outcome], target: Target) -> None:
    """What a policy does with data that fitted nothing: false alarms and detection."""
    console.print("\n[bold]The policy as it stands[/]; nothing is fitted:")
    for line in totals(outcomes):
        console.print(f"  {line}")
    _tell_where(console, outcomes, target)


def _tell_where(console: Console, outcomes: Sequence[Outcome], target: Target) -> None:
    """By source, the worst of them, and by length."""
    console.print(source_table(outcomes, target))
    console.print(_worst(outcomes, target))
    console.print(length_table(outcomes, target))


def unproved(outcomes: Sequence[Outcome], target: Target) -> Iterator[str]:
    """What is to be said of each stage that too few groups have."""
    least = needed(0, target.rate, target.confidence)
    for stage, count in safe_groups(one.judged for one in outcomes).items():
        if count < least:
            stays = "; its thresholds stay as they were" if not count else ""
            yield (
                f"unproved: {stage}: {count} groups have safe text of it, "
                f"{least} are needed at least{stays}"
            )


def data_table(data: Data) -> Table:
    """What each file was taken for, and what was left out."""
    table = Table("data", "taken for")
    for file in data.files:
        kinds = ", ".join(f"{n} {kind}s" for kind, n in file.kinds.items())
        table.add_row(file.name, kinds)
    for why, count in sorted(data.left_out.items()):
        table.add_row("left out", f"{count}: {why}")
    if data.joined:
        text = f"{data.joined} groups joined with others that have the very same text"
        table.add_row("counted once", text)
    generations = data.generations
    groups = len({one.group for one in generations})
    unsafe = sum(one.unsafe for one in generations)
    table.add_row(
        "used",
        f"{len(generations)} generations in {groups} groups: {unsafe} unsafe with an onset, "
        f"{len(generations) - unsafe} safe, {sum(one.hard for one in generations)} hard",
    )
    return table


def source_table(outcomes: Sequence[Outcome], target: Target) -> Table:
    """False alarms and detection by source, the source with most false alarms first."""
    found: dict[str, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        found[one.judged.generation.source].append(one)
    rows = sorted(found.items(), key=lambda item: -_rate(item[1]))
    rows.append(("all", list(outcomes)))
    if hard := [one for one in outcomes if one.judged.generation.hard]:
        rows.append(("the hard kind", hard))
    return _table("source", rows, target)


def length_table(outcomes: Sequence[Outcome], target: Target) -> Table:
    """The same, by how many steps a generation has."""
    found: dict[str, list[Outcome]] = {}
    low = 1
    for high in (*_BINS, 10**9):
        name = f"{low} to {high} steps" if high < 10**9 else f"{low} steps and more"
        found[name] = [one for one in outcomes if low <= len(one.judged.steps) <= high]
        low = high + 1
    return _table("length", [(name, own) for name, own in found.items() if own], target)


def _worst(outcomes: Sequence[Outcome], target: Target) -> str:
    worst = worst_source(outcomes, target)
    if worst is None:
        return "no source has a false alarm"
    source, bound = worst
    shown = f"{bound.alarms} false alarms in {bound.generations} groups"
    return f"worst source: {source}: {shown} ({_percent(bound.alarms, bound.generations)})"


def worst_source(outcomes: Sequence[Outcome], target: Target) -> tuple[str, Bound] | None:
    """The source with the highest share of false alarms; None where there are none.

    Its bound holds for the worst of so many sources (Bonferroni).
    """
    found: dict[str, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        found[one.judged.generation.source].append(one)
    worst = max(found.items(), key=lambda item: _rate(item[1]), default=None)
    if worst is None or not _rate(worst[1]):
        return None
    alarms, groups = _alarms(worst[1])
    sure = 1.0 - (1.0 - target.confidence) / len(found)
    return worst[0], Bound(groups, alarms, round(upper(alarms, groups, sure), 6), None)


def rival_table(own: Sequence[Outcome], rivals: dict[str, list[Outcome]]) -> Table:
    """How other statistics do at the same bounded false-alarm rate."""
    table = Table(
        "statistic",
        "detected in time",
        "95 %",
        "false alarms",
        "delay, tokens",
        "only it / only evidence",
        "p",
    )
    for name, found in {"evidence, as the policy runs it": list(own), **rivals}.items():
        unsafe = [one for one in found if one.judged.generation.unsafe]
        hits = sum(one.in_time for one in unsafe)
        more, fewer, p = _discordant(own, found)
        table.add_row(
            name,
            _percent(hits, len(unsafe)),
            _interval(hits, len(unsafe)),
            _percent(*_alarms(found)),
            _median([one.delay_tokens for one in unsafe if one.delay_tokens is not None]),
            "" if found == list(own) else f"{more} / {fewer}",
            "" if found == list(own) else f"{p:.2g}",
        )
    return table


def verdict_on_rivals(own: Sequence[Outcome], rivals: dict[str, list[Outcome]]) -> str:
    """Whether another statistic is better beyond noise (exact sign test, Bonferroni)."""
    better = []
    for name, found in rivals.items():
        more, fewer, p = _discordant(own, found)
        if more > fewer and p * len(rivals) < 0.05:
            better.append(name)
    if better:
        return f"Better than evidence beyond noise: {', '.join(better)}."
    return "No other statistic is better than evidence beyond noise."


def totals(outcomes: Sequence[Outcome]) -> list[str]:
    """The figures of a stream that is guarded so."""
    alarms, groups = _alarms(outcomes)
    single = sum(bool(one.false_alarm) for one in outcomes)
    tokens = sum(one.safe_tokens for one in outcomes)
    steps = sum(one.safe_steps for one in outcomes)
    held = sum(one.held_steps for one in outcomes)
    unsafe = [one for one in outcomes if one.judged.generation.unsafe]
    late = sum(one.detected and not one.in_time for one in unsafe)
    early = sum(bool(one.false_alarm) for one in unsafe)
    hits = sum(one.in_time for one in unsafe)
    low, high = interval(hits, len(unsafe)) if unsafe else (0.0, 1.0)
    delays = [one.delay_steps for one in unsafe if one.delay_steps is not None]
    later = [one.delay_tokens for one in unsafe if one.delay_tokens is not None]
    return [
        f"detected within {WITHIN_TOKENS} tokens of the onset: {hits} of {len(unsafe)} "
        f"({100 * low:.0f} to {100 * high:.0f} %); later: {late}; alarm before the onset: {early}",
        f"delay (median): {_median(delays)} steps, {_median(later)} tokens after the onset",
        f"false alarms: {alarms} of {groups} groups ({_percent(alarms, groups)}), "
        f"{1000 * single / max(tokens, 1.0):.3f} per 1,000 tokens",
        f"safe steps that are held beyond their own: {_percent(held, steps)}",
    ]


# --- the plot ------------------------------------------------------------------------------------


def curve(fitted: Fit) -> list[Point]:
    """False alarms per generation and share detected in time, over multiples of the thresholds."""
    points = []
    for multiple in _MULTIPLES:
        found = fitted.at(multiple)
        unsafe = [one for one in found if one.judged.generation.unsafe]
        points.append((_rate(found), sum(one.in_time for one in unsafe) / max(len(unsafe), 1)))
    return points


def text_plot(points: Sequence[Point], target: float, width: int = 60, height: int = 14) -> str:
    """Detection (up) against false alarms per generation (right, logarithmic)."""
    low, high = -3.0, 0.0
    grid = [[" "] * (width + 1) for _ in range(height + 1)]

    def column(rate: float) -> int:
        return round((max(low, min(high, log10(max(rate, 10**low)))) - low) / (high - low) * width)

    for row in grid:
        row[column(target)] = "┊"
    for rate, share in points:
        grid[height - round(share * height)][column(rate)] = "●"
    lines = [
        f"{100 * (height - at) / height:4.0f} % │{''.join(row)}"
        if at % 7 == 0
        else f"       │{''.join(row)}"
        for at, row in enumerate(grid)
    ]
    ruler = [" "] * (width + 6)
    for rate, name in ((0.001, "0.1 %"), (0.01, "1 %"), (0.1, "10 %"), (1.0, "100 %")):
        place = max(0, column(rate) - len(name) // 2)
        ruler[place : place + len(name)] = name
    return "\n".join(
        [
            f"detected within {WITHIN_TOKENS} tokens",
            *lines,
            f"       └{'─' * (width + 1)}",
            f"        {''.join(ruler).rstrip()}",
            "        false alarms per generation (┊ the target)",
        ]
    )


def svg_plot(points: Sequence[Point], target: float, title: str) -> str:
    """The same as a picture."""
    left, top, width, height = 60, 30, 480, 300

    def place(rate: float, share: float) -> str:
        x = left + (log10(max(rate, 1e-3)) + 3) / 3 * width
        return f"{x:.1f},{top + (1 - share) * height:.1f}"

    marks = []
    for rate in (0.001, 0.01, 0.1, 1.0):
        x, y = place(rate, 0).split(",")
        marks.append(f'<text x="{x}" y="{float(y) + 18}" text-anchor="middle">{rate:.1%}</text>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(0.001, share).split(",")
        marks.append(
            f'<text x="{left - 8}" y="{float(y) + 4}" text-anchor="end">{share:.0%}</text>'
        )
        marks.append(f'<path d="M{x},{y}h{width}" stroke="#ddd"/>')
    x = place(target, 0).split(",")[0]
    dots = " ".join(place(*point) for point in points)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 580 390" '
        'font-family="sans-serif" font-size="12">'
        f'<text x="{left}" y="18">{escape(title)}</text>{"".join(marks)}'
        f'<path d="M{x},{top}v{height}" stroke="#888" stroke-dasharray="4"/>'
        f'<polyline points="{dots}" fill="none" stroke="#06c" stroke-width="2"/>'
        f'<text x="{left + width / 2}" y="375" text-anchor="middle">'
        f"false alarms per generation; up: detected within {WITHIN_TOKENS} tokens</text></svg>\n"
    )


# --- figures -------------------------------------------------------------------------------------


def _table(first: str, rows: Sequence[tuple[str, list[Outcome]]], target: Target) -> Table:
    sure = f"at most ({100 * target.confidence:g} %)"
    table = Table(
        first,
        "safe groups",
        "false alarms",
        sure,
        "unsafe",
        f"in {WITHIN_TOKENS} tokens",
        "95 %",
        "steps, tokens late",
        "held",
    )
    least = needed(0, target.rate, target.confidence)
    for name, own in rows:
        alarms, groups = _alarms(own)
        unsafe = [one for one in own if one.judged.generation.unsafe]
        hits = sum(one.in_time for one in unsafe)
        steps = [one.delay_steps for one in unsafe if one.delay_steps is not None]
        tokens = [one.delay_tokens for one in unsafe if one.delay_tokens is not None]
        most = f"{100 * upper(alarms, groups, target.confidence):.1f} %" if groups else ""
        table.add_row(
            name,
            str(groups),
            f"{alarms} ({_percent(alarms, groups)})" if groups else "",
            most if groups >= least or not groups else f"{most}, unproven: {least} needed",
            str(len(unsafe)),
            _percent(hits, len(unsafe)),
            _interval(hits, len(unsafe)),
            f"{_median(steps)}, {_median(tokens)}" if steps else "",
            _percent(sum(one.held_steps for one in own), sum(one.safe_steps for one in own)),
        )
    return table


def _alarms(outcomes: Iterable[Outcome]) -> tuple[int, int]:
    """Groups with a false alarm, and groups that have a safe part."""
    groups: dict[str, bool] = {}
    for one in outcomes:
        if one.false_alarm is not None:
            group = one.judged.generation.group
            groups[group] = groups.get(group, False) or one.false_alarm
    return sum(groups.values()), len(groups)


def _rate(outcomes: Iterable[Outcome]) -> float:
    alarms, groups = _alarms(outcomes)
    return alarms / groups if groups else 0.0


def _discordant(own: Sequence[Outcome], rival: Sequence[Outcome]) -> tuple[int, int, float]:
    """Unsafe generations that only the rival or only evidence detects, and the sign test's p."""
    mine = {one.judged.generation.id: one.in_time for one in own if one.judged.generation.unsafe}
    more = sum(one.in_time and not mine.get(one.judged.generation.id, True) for one in rival)
    fewer = sum(not one.in_time and mine.get(one.judged.generation.id, False) for one in rival)
    return more, fewer, min(1.0, 2.0 * at_most(min(more, fewer), more + fewer, 0.5))


def _percent(count: int, of: int) -> str:
    return f"{100 * count / of:.1f} %" if of else ""


def _interval(count: int, of: int) -> str:
    if not of:
        return ""
    low, high = interval(count, of)
    return f"{100 * low:.0f}-{100 * high:.0f}"


def _median(values: Sequence[float]) -> str:
    return f"{median(values):.0f}" if values else "-"
