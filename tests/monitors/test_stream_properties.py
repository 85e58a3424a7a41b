"""The guarded stream under any text, any chunking, and verdicts in any order and at any time."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.events import (
    ClientLeft,
    DeltaReceived,
    Effect,
    Event,
    Fail,
    Finish,
    Outcome,
    Record,
    Release,
    Restart,
    Resume,
    StepJudged,
    TimePassed,
    UpstreamEnded,
    UpstreamFailed,
)
from monitors.formats import FORMATS
from monitors.judges.base import OVERLOAD, Passage, Verdict
from monitors.policy import Policy
from monitors.stream import GuardedStream
from monitors.task import ResumeMethod, Task
from monitors.taxonomy import Scenario, Stage
from tests.playbook import ERROR, THOUGHT, Ending, Seen, drive, policy, verdict

EXAMPLES = settings(max_examples=150, deadline=None)

# What a judge thinks of a step: the worst of these words in it decides.
SCORES: dict[str, tuple[float | str, Scenario | None]] = {
    "certain": (1.0, Scenario.WEAPONS),
    "bad": (0.97, Scenario.FRAUD),
    "odd": (0.8, None),
    "advice": (0.95, Scenario.LEGAL_OPINION),
    "blurred": ("unreadable", None),
}
WORDS = st.sampled_from(
    [
        *(["It is a fine day."] * 6),
        *(["今天天气很好我们一起去公园。", "a < b, no tag\n"] * 2),
        *(f"Here is a {word} sentence." for word in [*SCORES, "bad", "bad", "odd", "echo"]),
        "  ",
        "\n\n",
        "👩🏽\u200d🚀 cafe\u0301",
        "STOP",
        "word " * 110,
    ]
)
PROSE = st.lists(WORDS, max_size=10).map(" ".join)
INLINE = st.lists(
    st.one_of(PROSE, st.sampled_from(["<think>", "</think>", "</THINK>", "\n"])), max_size=7
).map(lambda parts: [("content", text) for text in parts if text])
OPENED = INLINE.map(lambda runs: [("content", "<think>"), *runs])
SEPARATED = st.lists(
    st.tuples(st.sampled_from(["reasoning", "reasoning", "content"]), PROSE), max_size=4
).map(lambda runs: [run for run in runs if run[1]])
LEG = st.one_of(INLINE, OPENED, SEPARATED)

ROWS = {"legal_opinion": {"reasoning": "flag", "answer": "allow"}, "weapons": {"answer": "flag"}}


@dataclass(frozen=True)
class Rules:
    """A policy in a few words."""

    unknown: str
    budget: int
    tolerant: bool
    caps: tuple[tuple[str, int | str], ...]
    mode: str = "enforce"

    @property
    def policy(self) -> Policy:
        return policy(
            ROWS if self.tolerant else {},
            mode=self.mode,
            on_unknown=dict.fromkeys(Stage, self.unknown),
            correction={"budget": self.budget},
            caps=dict(self.caps) | {"excursion_seconds": 600.0},
            limits={"provisional_after_seconds": 0.1},
        )


def rules(*modes: str) -> st.SearchStrategy[Rules]:
    caps = [(), (("excursion_steps", 2),), (("excursion_chars", 100), ("on_cap", "release"))]
    return st.builds(
        Rules,
        st.sampled_from(["open", "closed"]),
        st.integers(0, 2),
        st.booleans(),
        st.sampled_from(caps),
        st.sampled_from(modes),
    )


def score(passage: Passage) -> Verdict:
    """Depends on the passage and on its context, nothing else."""
    if "echo" in passage.text and any("fine" in step for step in passage.earlier):
        return verdict(0.97, Scenario.FRAUD)
    for word, (probability, scenario) in SCORES.items():
        if word in passage.text:
            return verdict(probability, scenario)
    return verdict(0.02)


@dataclass
class Script:
    """One generation: its legs as runs of text, and how they are cut and scheduled."""

    rules: Rules
    task: Task
    legs: list[list[tuple[str, str]]]
    sizes: list[int]
    seed: int

    def chunks(self, leg: int, *, whole: bool = False) -> list[tuple[str, str]]:
        sizes = random.Random(repr((self.sizes, leg)))
        deltas: list[tuple[str, str]] = []
        for field, text in self.legs[min(leg, len(self.legs) - 1)]:
            start = 0
            while start < len(text):
                end = len(text) if whole else start + sizes.choice(self.sizes)
                part, start = text[start:end], end
                deltas.append((part, "") if field == "reasoning" else ("", part))
        return deltas

    def reference(self) -> Seen:
        """Whole runs of text, immediate verdicts."""
        stream = GuardedStream(self.rules.policy, self.task)
        return drive(
            stream,
            self.chunks(0, whole=True),
            score,
            resume=lambda leg: self.chunks(leg, whole=True),
        )

    def run(self, **how: object) -> Seen:
        stream = GuardedStream(self.rules.policy, self.task)
        return drive(
            stream,
            self.chunks(0),
            score,
            order=random.Random(self.seed),
            resume=self.chunks,
            **how,  # type: ignore[arg-type]
        )


def scripts(*modes: str) -> st.SearchStrategy[Script]:
    tasks = st.builds(
        Task,
        prompt=st.just("How?"),
        inputs=st.sampled_from(
            [(), (Passage(Stage.INPUT, "How?"), Passage(Stage.INPUT, "advice"))]
        ),
        stop=st.sampled_from([(), ("STOP", "TOPPLE")]),
        hide_reasoning=st.booleans(),
        resume=st.sampled_from([ResumeMethod.CONTINUE] * 3 + [ResumeMethod.RESTART]),
        format=st.sampled_from(
            [FORMATS[name] for name in ("auto", "separated", "think", "think-open")]
        ),
    )
    return st.builds(
        Script,
        rules(*(modes or ["enforce"])),
        tasks,
        st.lists(LEG, min_size=1, max_size=3),
        st.lists(st.integers(1, 30), min_size=1, max_size=4),
        st.integers(0, 2**32),
    )


VISIBLE = st.builds(
    lambda script: Script(
        script.rules,
        Task(
            "How?", resume=ResumeMethod.CONTINUE, format=script.task.format, stop=script.task.stop
        ),
        script.legs,
        script.sizes,
        script.seed,
    ),
    scripts(),
)


def decisions(outcome: Outcome) -> tuple[object, ...]:
    return (
        outcome.action,
        outcome.stage,
        outcome.scenario,
        outcome.reason,
        outcome.onset_step,
        outcome.onset_char,
        outcome.alarm_char,
        outcome.corrections,
        outcome.steps,
    )


def bare(text: str) -> str:
    """Text without whitespace and tags: what is left of it was to be judged."""
    return re.sub(r"</?think>", "", re.sub(r"\s", "", text), flags=re.IGNORECASE)


@EXAMPLES
@given(scripts())
def test_decisions_and_delivered_text_depend_on_the_text_and_the_verdicts_alone(
    script: Script,
) -> None:
    expected, seen = script.reference(), script.run()
    assert decisions(seen.outcome) == decisions(expected.outcome)
    assert seen.steps == expected.steps
    assert seen.resumed == [
        replace(asked, spent=mine.spent)
        for asked, mine in zip(expected.resumed, seen.resumed, strict=True)
    ]
    assert (seen.reasoning, seen.content) == (expected.reasoning, expected.content)
    assert seen.refusal == expected.refusal
    assert [(f.finish_reason, f.stop_reason) for f in seen.finish] == [
        (f.finish_reason, f.stop_reason) for f in expected.finish
    ]


@EXAMPLES
@given(scripts())
def test_wake_ups_change_no_decision(script: Script) -> None:
    expected, seen = script.reference(), script.run(wake=True)
    if seen.resumed:  # places count over what was kept, and a wake-up may have released more
        expected.outcome.onset_char = seen.outcome.onset_char
        expected.outcome.alarm_char = seen.outcome.alarm_char
    assert decisions(seen.outcome) == decisions(expected.outcome)
    assert [s.text for s in seen.steps] == [s.text for s in expected.steps]


@EXAMPLES
@given(scripts())
def test_with_wake_ups_too_nothing_is_sent_twice_or_lost(script: Script) -> None:
    expected, seen = script.reference(), script.run(wake=True)
    if seen.outcome.ended == "finished" and not seen.resumed:
        assert (seen.reasoning, seen.content) == (expected.reasoning, expected.content)


@EXAMPLES
@given(VISIBLE)
def test_nothing_leaves_before_its_verdict_and_that_of_all_before_it(script: Script) -> None:
    def check(seen: Seen, _: Effect) -> None:
        known = ""
        for number, passage in seen.asked[-1]:
            if number not in seen.answered:
                break
            known += passage.text
        assert bare(known).startswith(bare(seen.leg_text[-1]).removeprefix(bare(THOUGHT)))

    script.run(watch=check)


@EXAMPLES
@given(VISIBLE)
def test_nothing_of_an_excursion_that_crossed_leaves(script: Script) -> None:
    seen = script.run()
    for leg, (text, steps) in enumerate(zip(seen.leg_text, seen.leg_steps, strict=True)):
        stopped = leg < len(seen.resumed) or seen.outcome.ended == "refused"
        if not stopped:
            continue
        # Where every row intervenes, evidence is at its floor where `any` is.
        if not script.rules.tolerant and ("on_cap", "release") not in script.rules.caps:
            before = [i for i, step in enumerate(steps[:-1]) if step.level == 0.0]
            onset = before[-1] + 1 if before else 0
            kept = "".join(step.text for step in steps[:onset])
            assert bare(text) == bare(kept)


@EXAMPLES
@given(VISIBLE)
def test_what_is_kept_is_what_the_client_has_and_a_prefix_of_what_was_generated(
    script: Script,
) -> None:
    seen = script.run()
    client = ""
    for leg, text in enumerate(seen.leg_text):
        generated = "".join(r + c for r, c in script.chunks(leg))
        held = text.removeprefix("\n") if leg and not generated.startswith(text) else text
        if seen.outcome.ended == "refused" and leg == len(seen.leg_text) - 1:
            held = held.removesuffix("\n</think>\n\n").removesuffix("\n\n")
            assert bare(generated).startswith(bare(held))
        elif leg or script.task.stop or any(field == "reasoning" for field, _ in script.legs[0]):
            # Whitespace may be held back at a border, and a block is not opened a second time.
            assert bare(generated).startswith(bare(held))
        else:
            assert generated.startswith(held)
        client += text
        if leg < len(seen.resumed):
            resume = seen.resumed[leg]
            assert isinstance(resume, Resume)
            assert resume.prefix.endswith("\n" + THOUGHT)
            assert bare(resume.prefix) == bare(client) + bare(THOUGHT)
            client += THOUGHT


@EXAMPLES
@given(scripts(), st.sampled_from(["end", "fail"]), st.booleans())
def test_tokens_add_up_over_all_legs(script: Script, end: str, wake: bool) -> None:
    last = UpstreamFailed(0, ERROR) if end == "fail" else None
    seen = script.run(last=last, wake=wake)
    discarded = seen.outcome.discarded_tokens
    if seen.finish and seen.finish[0].usage is not None:
        usage = seen.finish[0].usage
        assert usage.prompt_tokens == 7
        assert usage.completion_tokens is not None
        assert usage.completion_tokens + discarded == sum(seen.leg_tokens)
        assert usage.total_tokens == 7 + usage.completion_tokens
    assert discarded <= sum(seen.leg_tokens)


MODES = ["enforce", "shadow", "off"]


@EXAMPLES
@given(scripts(*MODES), st.booleans())
def test_coverage_adds_up(script: Script, wake: bool) -> None:
    seen = script.run(wake=wake)
    received = 0
    for channel, coverage in seen.outcome.coverage.items():
        received += coverage.received
        assert coverage.released <= coverage.received
        assert coverage.judged <= coverage.received
        if channel != "markup":
            told = coverage.judged + sum(coverage.released_unjudged.values())
            assert coverage.released <= told
    if seen.outcome.ended == "finished" and not seen.resumed and not script.task.stop:
        assert received == sum(len(text) for _, text in script.legs[0])


@EXAMPLES
@given(scripts(*MODES), st.booleans(), st.sampled_from(["end", "fail", "leave"]))
def test_a_generation_ends_once_and_is_recorded_once(script: Script, wake: bool, end: str) -> None:
    endings: dict[str, Ending] = {"fail": UpstreamFailed(0, ERROR), "leave": ClientLeft()}
    seen = script.run(wake=wake, last=endings.get(end))
    assert seen.outcomes == 1
    ends = len(seen.finish) + len(seen.failures)
    assert ends == (0 if seen.outcome.ended == "left" else 1)
    if seen.content or seen.reasoning or seen.finish:
        assert seen.order.count("Open") == 1
        assert "Release" not in seen.order[: seen.order.index("Open")]


@EXAMPLES
@given(scripts("shadow"))
def test_shadow_changes_no_text_and_decides_the_same_whenever_verdicts_come(
    script: Script,
) -> None:
    expected, seen = script.reference(), script.run()
    assert decisions(seen.outcome) == decisions(expected.outcome)
    assert seen.steps == expected.steps
    if not script.task.hide_reasoning and not script.task.stop:
        sent = [run for run in script.legs[0] if run[0] == "content"]
        assert seen.content == "".join(text for _, text in sent)


LEGS = st.integers(0, 2)
TEXTS = st.one_of(WORDS, st.sampled_from(["<think>", "</think>", "", "<th", "</thi"]))
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(DeltaReceived, LEGS, TEXTS, TEXTS, st.sampled_from([None, "stop", "length"])),
    st.builds(
        StepJudged,
        st.integers(0, 12),
        st.sampled_from([verdict(p) for p in (0.0, 0.02, 0.97, 1.0, "late", OVERLOAD)]),
    ),
    st.builds(UpstreamEnded, LEGS),
    st.builds(UpstreamFailed, LEGS, st.just(ERROR)),
    st.just(TimePassed()),
    st.just(ClientLeft()),
)


@settings(max_examples=600, deadline=None)
@given(scripts(*MODES), st.lists(EVENTS, max_size=40))
def test_no_sequence_of_events_raises_or_speaks_after_the_end(
    script: Script, events: list[Event]
) -> None:
    stream = GuardedStream(script.rules.policy, script.task)
    effects = list(stream.start(0.0))
    for now, event in enumerate(events):
        effects += stream.handle(event, float(now))
    ends = [i for i, effect in enumerate(effects) if isinstance(effect, Finish | Fail)]
    assert len(ends) <= 1
    told = [effect for effect in effects if isinstance(effect, Record)]
    assert sum(isinstance(record.what, Outcome) for record in told) <= 1
    for effect in effects[ends[0] :] if ends else []:
        assert not isinstance(effect, Release | Resume | Restart)
    assert all(e.text for e in effects if isinstance(e, Release))
