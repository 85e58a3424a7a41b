"""Generated streams through `GuardedStream`, and what must hold of each.

Every visible character that the model says is one of a kind (`Ink`), so that what the client gets
can be traced back to the passage that was judged, whatever cuts, merges or rewrites the text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from monitors.events import (
    AbortUpstream,
    Begin,
    ClientLeft,
    DeltaReceived,
    Effect,
    Event,
    Fail,
    Finish,
    Judge,
    Open,
    Outcome,
    Record,
    Refuse,
    Release,
    ReleaseCall,
    Restart,
    Resume,
    StepJudged,
    StepRecord,
    TimePassed,
    UpstreamEnded,
    UpstreamFailed,
)
from monitors.evidence import Evidence, weigh_input
from monitors.formats import FORMATS, Channel, Format, ReplyParser, WireField
from monitors.judges.base import OVERLOAD, Passage, Verdict
from monitors.policy import Caps, Correction, Input, Limits, Policy, Reasoning
from monitors.stream import GuardedStream
from monitors.task import ResumeMethod, Task
from monitors.taxonomy import Action, Mode, ReleaseMode, Scenario, Stage
from monitors.wire import FunctionDelta, TokenLogprob, ToolDelta, Usage
from tests.playbook import ERROR, Chunk, Seen, drive, policy, verdict

# --- what is generated ------------------------------------------------------------------------

Atom = tuple[str, str] | ToolDelta
"""A run of text in one field, or a fragment of a tool call."""

BLOCKS = ((0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x20000, 0x2A6D0), (0x1200, 0x1248))
SCORES: dict[str, Callable[[Passage], Verdict]] = {
    "certain": lambda _: verdict(1.0, Scenario.WEAPONS),
    "bad": lambda _: verdict(0.97, Scenario.FRAUD),
    "odd": lambda _: verdict(0.8),
    "advice": lambda _: verdict(0.95, Scenario.LEGAL_OPINION),
    "echo": lambda p: verdict(0.97 if p.earlier else 0.02, Scenario.FRAUD),
    "blurred": lambda _: verdict("unreadable"),
    "late": lambda _: verdict(OVERLOAD),
}
GAPS = (" ", " ", " ", "", "", "\n", "\n\n", ". ", ".\n", "! ", "。", "？", "  ", "\t", "…) ")
ODDITIES = (
    "👩🏽\u200d🚀",
    "a < b",
    "cafe\u0301",
    "**",
    "\u200f",
    "1.",
    "Dr. ",
    '"',
    "\\",
    "\ufffd",
)
TAGS = tuple(
    dict.fromkeys(
        tag.replace("{hex}", "6124c78e")
        for each in FORMATS.values()
        for tag in (*each.all_openers, *each.all_closers, *each.boxes, *each.leads)
    )
)


class Ink:
    """Visible characters, each of which comes once in a case, and what judges think of some."""

    def __init__(self, draw: random.Random, spice: float) -> None:
        self._draw, self._spice = draw, spice
        self._left = [range(*block) for block in BLOCKS]
        self._taken = [0 for _ in BLOCKS]
        self._start = draw.randrange(1000)
        self.all: set[str] = set()
        self.scores: dict[str, str] = {}

    def char(self) -> str:
        block = self._draw.choice((0, 0, 0, 1, 2, 3))
        if self._taken[block] >= len(self._left[block]):
            block = 2
        letters = self._left[block]
        char = chr(letters[(self._start + self._taken[block]) % len(letters)])
        self._taken[block] += 1
        self.all.add(char)
        return char

    def word(self, longest: int = 6) -> str:
        return "".join(self.char() for _ in range(self._draw.randint(1, longest)))

    def prose(self, words: int) -> str:
        draw = self._draw
        parts: list[str] = []
        for _ in range(draw.randint(0, words)):
            word = self.word()
            if draw.random() < self._spice:
                self.scores[word[0]] = draw.choice(tuple(SCORES))
            parts += [word, draw.choice(GAPS)]
            if draw.random() < 0.1:
                parts.append(draw.choice(ODDITIES))
        if draw.random() < 0.03:
            parts += [self.word(6) for _ in range(60)]  # a forced cut, no space in sight
        return "".join(parts)

    def of(self, text: str) -> list[str]:
        """The characters of this text that are one of a kind, in order."""
        ink = self.all
        return [char for char in text if char in ink]

    def judge(self, passage: Passage) -> Verdict:
        """Depends on the passage and on its context, nothing else."""
        found = {self.scores[char] for char in passage.text if char in self.scores}
        for name, score in SCORES.items():
            if name in found:
                return score(passage)
        return verdict(0.02)


def _tagged(draw: random.Random, ink: Ink, format: Format) -> Iterator[Atom]:
    """Inline thinking as this format writes it, more or less."""
    openers, closers = format.all_openers, format.all_closers
    parts: list[str] = []
    if draw.random() < 0.1:
        parts.append(draw.choice((" ", "\n", "```xml\n", "**", *format.leads)))
    if draw.random() < (0.2 if format.starts_inside else 0.8):
        parts.append(draw.choice(openers) + format.label * draw.randint(0, 1))
    parts.append(ink.prose(12))
    if draw.random() < 0.85:
        parts.append(draw.choice(closers))
    parts.append(draw.choice(("", "\n\n", "\n", " ", "---\n\n")))
    wrapper = draw.choice((*format.answers, ("", ""), ("", "")))
    parts += [wrapper[0], ink.prose(10), wrapper[1]]
    if draw.random() < 0.3:
        tag = draw.choice(TAGS)
        parts.insert(draw.randint(0, len(parts)), tag[: draw.randint(1, len(tag))])
    text = "".join(parts).replace("{hex}", "6124c78e")
    if draw.random() < 0.1:
        text = text.upper() if draw.random() < 0.5 else text.lower()
    if text:
        yield "content", text


def _separated(draw: random.Random, ink: Ink, family: Format) -> Iterator[Atom]:
    for _ in range(draw.randint(0, 2)):
        for name in ("reasoning", "content"):
            if (draw.random() < 0.8) and (text := ink.prose(10)):
                if draw.random() < 0.1:
                    text = draw.choice((*family.all_closers, *TAGS)) + text
                yield name, text


def _tools(draw: random.Random, ink: Ink) -> list[Atom]:
    """A few calls, in fragments."""
    atoms: list[Atom] = []
    for number in range(draw.randint(1, 3)):
        index = draw.choice((number, number, number, 0, 7, 1023))
        name = draw.choice((ink.word(), ink.word(), "look_up", None, ""))
        call_id = draw.choice(
            (
                None,
                "",
                "call_0123abcd",
                f"functions.{name}:{index}",
                ink.word(),
                "A1b2C3d4E",
                "x" * 99,
            )
        )
        text = ink.prose(40 if draw.random() < 0.05 else 5)
        escaped = "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in ink.word())
        arguments = draw.choice(
            (f'{{"q": "{text}"}}', f'{{"q": "{escaped} {text}"}}', "{}", "", text, '{"q": "' + text)
        )
        fragments = [ToolDelta(index, call_id, FunctionDelta(name, None))]
        if draw.random() < 0.1:
            fragments.append(ToolDelta(index, ink.word(), FunctionDelta(ink.word(), "")))
        fragments += [
            ToolDelta(index, None, FunctionDelta(None, part)) for part in _cut(draw, arguments)
        ]
        if draw.random() < 0.1:
            draw.shuffle(fragments)
        atoms += fragments
    return atoms


def _cut(draw: random.Random, text: str) -> list[str]:
    sizes = draw.choice(((1, 3), (4, 12), (1000,)))
    parts: list[str] = []
    while text:
        size = draw.choice(sizes)
        parts.append(text[:size])
        text = text[size:]
    return parts


# --- a case -----------------------------------------------------------------------------------


@cache
def _rules(input: str, tolerant: bool) -> Policy:
    threshold = {"input": 0.5, "reasoning": 3.0, "answer": 3.0}
    row = {"input": input, "reasoning": "correct", "answer": "refuse", "threshold": threshold}
    answer_too = {**row, "answer": "correct"}
    rows: dict[str, object] = {"default": row, "fraud": answer_too}
    if tolerant:
        rows |= {
            "legal_opinion": {"reasoning": "flag", "answer": "allow"},
            "weapons": {"answer": "flag"},
        }
    return policy(rows)


@dataclass
class Case:
    """One generation: policy, request, what the upstream would say, and how it is cut."""

    policy: Policy
    task: Task
    ink: Ink
    legs: list[list[Atom]]
    usage: str
    logprobs: bool
    sizes: tuple[int, ...]
    weights: tuple[int, int, int]
    ends: tuple[str, int, int]
    """How, on which leg, behind which delta."""
    ghosts: set[str] = field(default_factory=set)
    """Of tokens that stand in no text."""

    @property
    def holds(self) -> bool:
        return self.policy.mode is Mode.ENFORCE and self.policy.release is ReleaseMode.HOLD

    @property
    def live(self) -> bool:
        return self.policy.mode is Mode.ENFORCE and self.policy.release is ReleaseMode.LIVE

    @property
    def enforced(self) -> bool:
        return self.policy.mode is Mode.ENFORCE

    @property
    def hidden(self) -> bool:
        return self.task.hide_reasoning or self.policy.reasoning.emit == "hidden"

    @property
    def time_matters(self) -> bool:
        return self.weights[2] > 0 or self.ends[0] != "end"

    def leg(self, number: int) -> list[Atom]:
        return self.legs[number] if number < len(self.legs) else []

    def text(self, number: int, name: str) -> str:
        atoms = self.leg(number)
        return "".join(a[1] for a in atoms if isinstance(a, tuple) and a[0] == name)

    # --- chunks ---------------------------------------------------------------------------

    def chunks(self, number: int, draw: random.Random) -> list[Chunk]:
        """This leg's deltas, cut anew by each `draw`."""
        deltas: list[Chunk] = []
        for at, (reasoning, content, tools) in enumerate(self._texts(number, draw), start=1):
            delta = DeltaReceived(number, reasoning, content, tool_calls=tools)
            delta.usage = self._usage(at, draw)
            if self.logprobs:
                delta.logprobs = self._tokens(reasoning + content, draw)
            deltas.append(delta)
        how, leg, behind = self.ends
        if leg == number and how in ("fail", "leave"):
            failed = UpstreamFailed(number, ERROR)
            return [*deltas[:behind], ClientLeft() if how == "leave" else failed]
        last = DeltaReceived(
            number, finish_reason=draw.choice(("stop", "length", "", "tool_calls"))
        )
        last.usage = self._usage(len(deltas), draw)
        if self.usage == "final":
            last.usage = Usage(7, len(deltas), 7 + len(deltas))
        return [*deltas, last, UpstreamEnded(number)]

    def _usage(self, tokens: int, draw: random.Random) -> Usage | None:
        if self.usage == "running":
            return Usage(7, tokens, 7 + tokens)
        if self.usage == "garbage":
            return draw.choice(
                (
                    None,
                    Usage(),
                    Usage(0, None, 0),
                    Usage(2**52, draw.randrange(2**52), 3),
                    Usage(1, 1),
                )
            )
        return None

    def _texts(
        self, number: int, draw: random.Random
    ) -> Iterator[tuple[str, str, list[ToolDelta]]]:
        """(reasoning, content, tool fragments) of each delta; neighbours may share one."""
        reasoning = content = ""
        tools: list[ToolDelta] = []
        merges = draw.random() * 0.6
        rank = 0
        for atom in self.leg(number):
            if isinstance(atom, ToolDelta):
                parts: list[tuple[int, str | ToolDelta]] = [(2, atom)]
            else:
                parts = [(int(atom[0] == "content"), part) for part in self._split(atom[1], draw)]
            for kind, part in parts:
                full = bool(reasoning or content or tools)
                if full and (kind < rank or draw.random() > merges):
                    yield reasoning, content, tools
                    reasoning, content, tools = "", "", []
                rank = kind
                if isinstance(part, ToolDelta):
                    tools.append(part)
                elif kind:
                    content += part
                else:
                    reasoning += part
        if reasoning or content or tools:
            yield reasoning, content, tools

    def _split(self, text: str, draw: random.Random) -> Iterator[str]:
        start = 0
        while start < len(text):
            end = start + draw.choice(self.sizes)
            yield text[start:end]
            start = end

    def _tokens(self, text: str, draw: random.Random) -> list[TokenLogprob]:
        tokens: list[TokenLogprob] = []
        while text:
            size = draw.randint(1, 8)
            tokens.append(TokenLogprob(text[:size], -0.5))
            text = text[size:]
        if draw.random() < 0.1:
            ghost = chr(0x13000 + draw.randrange(1000))
            self.ghosts.add(ghost)
            tokens.insert(draw.randint(0, len(tokens)), TokenLogprob(ghost, -1.0))
        return tokens

    # --- a run ----------------------------------------------------------------------------

    def run(self, seed: int, *, watched: bool = True) -> Seen:
        """One run; other seeds cut and schedule otherwise."""
        draw = random.Random(seed)
        stream = GuardedStream(self.policy, self.task)
        oracle = Oracle(self, stream)
        seen = drive(
            stream,
            self.chunks(0, draw),
            self.ink.judge,
            order=draw,
            resume=lambda leg: self.chunks(leg, draw),
            wake=self.weights[2] > 0,
            weights=self.weights,
            watch=oracle.watch if watched else lambda seen, effect: None,
            tell=oracle.tell if watched else lambda event: None,
        )
        if watched:
            oracle.end(seen)
        return seen


def draw_case(draw: random.Random) -> Case:
    """Any case; the likely ones are those that get far."""
    ink = Ink(draw, draw.choice((0.0, 0.0, 0.02, 0.08, 0.3)))
    family = draw.choice(
        (*FORMATS.values(), *[FORMATS[n] for n in ("auto", "think", "separated")] * 9)
    )
    resume = draw.choice((*ResumeMethod, ResumeMethod.CONTINUE, ResumeMethod.CONTINUE))
    base = _rules(draw.choice(("flag", "refuse", "prime")), draw.random() < 0.4)
    closed = dict.fromkeys(Stage, draw.random() < 0.4)
    steps, chars = draw.choice(((1000, 10**6), (1000, 10**6), (2, 10**6), (1000, 100)))
    caps = Caps(steps, chars, draw.choice((600.0, 600.0, 0.5)), draw.choice(("refuse", "release")))
    rules = replace(
        base,
        mode=draw.choice((*[Mode.ENFORCE] * 6, Mode.SHADOW, Mode.OFF)),
        release=draw.choice((ReleaseMode.HOLD, ReleaseMode.HOLD, ReleaseMode.LIVE)),
        unknown_closed=closed,
        overload_closed=dict.fromkeys(Stage, draw.random() < 0.4),
        correction=Correction(draw.randint(0, 3), draw.random() < 0.3),
        reasoning=Reasoning(draw.choice(("upstream", "upstream", "field", "inline", "hidden"))),
        input=Input(
            wait=draw.choice(("beside", "before")), refuse_as=draw.choice(("message", "error"))
        ),
        caps=caps,
        limits=Limits(
            provisional_after_seconds=draw.choice((0.1, 2.0)),
            max_generated_chars=draw.choice((*[10**6] * 9, 1000)),
        ),
    )
    legs: list[list[Atom]] = []
    for _ in range(draw.randint(1, 4)):
        shape = _tagged if family.inline or draw.random() < 0.4 else _separated
        atoms = list(shape(draw, ink, family))
        if draw.random() < 0.1:
            atoms += _separated(draw, ink, family)
        if draw.random() < 0.25:
            at = draw.choice((len(atoms), draw.randint(0, len(atoms))))
            atoms[at:at] = _tools(draw, ink)
        legs.append(atoms)
    inputs = tuple(
        Passage(draw.choice((Stage.INPUT, Stage.INPUT, Stage.REASONING)), text)
        for _ in range(draw.choice((0, 0, 1, 2)))
        if (text := ink.prose(4).strip())
    )
    return Case(
        policy=rules,
        task=Task(
            "How?",
            inputs=inputs,
            stop=_stops(draw, legs) if draw.random() < 0.15 else (),
            hide_reasoning=draw.random() < 0.1,
            resume=resume,
            format=family,
        ),
        ink=ink,
        legs=legs,
        usage=draw.choice(("running", "running", "none", "final", "garbage")),
        logprobs=draw.random() < 0.25,
        sizes=draw.choice(((1,), (1, 2, 3), (3, 8), (2, 30), (4000,))),
        weights=draw.choice(((3, 2, 0), (8, 1, 0), (1, 8, 0), (3, 2, 1), (4, 1, 2))),
        ends=(
            draw.choice(("end", "end", "end", "fail", "leave")),
            draw.randint(0, 1),
            draw.randint(0, 30),
        ),
    )


def _stops(draw: random.Random, legs: Sequence[Sequence[Atom]]) -> tuple[str, ...]:
    text = "".join(atom[1] for leg in legs for atom in leg if isinstance(atom, tuple))
    at = draw.randint(0, len(text))
    there = text[at : at + draw.randint(1, 3)]
    return tuple(dict.fromkeys(stop for stop in (there, "TOPPLE", there + "STOP") if stop))


# --- what must hold ---------------------------------------------------------------------------


class Oracle:
    """Watches one run: what was judged, what may leave, what left."""

    def __init__(self, case: Case, stream: GuardedStream) -> None:
        self._case, self._stream = case, stream
        self._ink = case.ink
        self._evidence = Evidence(case.policy)
        self._questions: dict[int, Passage] = {}
        self._answers: dict[int, Verdict] = {}
        self._inputs: list[int] = []
        self._provisional: set[int] = set()
        self._forgotten: set[int] = set()  # of legs that were cut
        self._verdict_of: dict[str, int] = {}  # ink: the last question that holds it
        self._allowed: set[str] = set()
        self._pending: list[str] = []
        self._sent: dict[str, tuple[WireField, int]] = {}
        self._lengths = dict.fromkeys(WireField, 0)
        self._texts: list[str] = []  # ink of text that left, in order, of this leg
        self._tokens = 0  # that the upstream sent
        self._must_go: set[str] = set()
        self._leg: int | None = None
        self._opened = self._over = self._recorded = self._timed = False
        self._ended = False  # the leg's text is complete
        self._stopped = False  # the last step is why it is cut
        self._refused_input = False

    # --- events ---------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        self._timed = isinstance(event, TimePassed)
        if isinstance(event, UpstreamEnded):
            self._ended = True
        if isinstance(event, DeltaReceived):  # one token, but for the finish reason's
            self._tokens += bool(event.reasoning or event.content or event.tool_calls)
        if isinstance(event, StepJudged):
            self._answers[event.id] = event.verdict
            if event.id in self._inputs:
                self._judge_input()
            elif event.id in self._provisional and (self._blind or not self._pending):
                passage = self._questions[event.id]
                evidence = Evidence(self._case.policy) if self._blind else self._evidence
                if evidence.would_stay_at_floor(event.verdict, passage.stage):
                    self._allowed.update(self._ink.of(passage.text))

    def _judge_input(self) -> None:
        if all(number in self._answers for number in self._inputs):
            verdicts = [self._answers[number] for number in self._inputs]
            action = weigh_input(self._case.policy, verdicts).action
            unable = self._case.task.resume is ResumeMethod.REFUSE
            self._refused_input = self._case.enforced and (
                action is Action.REFUSE or (action is Action.PRIME and unable)
            )

    @property
    def _input_open(self) -> bool:
        return any(number not in self._answers for number in self._inputs)

    # --- effects --------------------------------------------------------------------------

    def watch(self, seen: Seen, effect: Effect) -> None:
        assert not self._recorded, f"{effect} after the outcome"
        if self._over:
            assert isinstance(effect, Record), f"{effect} after the end"
        match effect:
            case Judge():
                self._on_question(effect)
            case Open():
                assert not self._opened
                self._opened = True
            case Release():
                self._on_text(effect)
            case ReleaseCall(call):
                self._may_leave(f"{call.name}{call.arguments}{call.id}", call=True)
                assert call.index == len(seen.calls) - 1
            case AbortUpstream(leg):
                assert leg == self._leg
                # A stop string or the limit ends a leg as the upstream's end does.
                limited = self._case.policy.limits.max_generated_chars <= 1000
                self._ended |= not seen.refusal and (bool(self._case.task.stop) or limited)
            case Begin():
                assert self._leg is None
                assert not (self._input_open and self._waits)
                self._leg = 0
            case Resume(leg) | Restart(leg):
                # A request that is primed before the model was asked begins with leg 1.
                assert leg == (self._leg or 0) + 1
                self._leg = leg
                self._ended = False
                self._cut()
            case Refuse(_, as_error):
                assert as_error != self._opened or not as_error
                self._cut()
            case Finish() | Fail():
                self._over = True
            case Record(StepRecord() as step):
                self._on_step(step)
            case Record(Outcome()):
                self._recorded = True

    @property
    def _waits(self) -> bool:
        return self._case.enforced and self._case.policy.input.wait == "before"

    def _on_question(self, question: Judge) -> None:
        self._questions[question.id] = question.passage
        if question.of_input:
            self._inputs.append(question.id)
        elif self._timed:
            self._provisional.add(question.id)
        else:
            for char in self._ink.of(question.passage.text):
                self._verdict_of[char] = question.id

    def _on_text(self, release: Release) -> None:
        assert release.text
        self._may_leave(release.text)
        base = self._lengths[release.field]
        for at, char in enumerate(release.text):
            if char in self._ink.all:
                assert char not in self._sent, "sent twice"
                self._sent[char] = (release.field, base + at)
                self._texts.append(char)
        self._lengths[release.field] = base + len(release.text)
        for token in release.logprobs:
            assert not self._case.ghosts.intersection(token.token), "a token of no text left"
            for char in self._ink.of(token.token):
                assert char in self._sent, f"{char} left as a token only"

    def _may_leave(self, text: str, *, call: bool = False) -> None:
        assert self._opened, "text before the reply is open"
        case = self._case
        if case.enforced:
            assert not self._input_open, "text before the input's verdict"
        ink = self._ink.of(text)
        if ink:
            assert not self._refused_input, "text of a refused request"
        if case.holds or (case.live and call):
            if self._ended and not self._stopped and self._all_judged:
                self._allowed.update(self._pending)  # nothing comes that could cross
            for char in ink:
                assert char in self._allowed, f"{char} left without leave"

    @property
    def _blind(self) -> bool:
        """Where a cap releases and resets evidence, its floor cannot be told from here."""
        return self._case.policy.caps.on_cap == "release"

    @property
    def _all_judged(self) -> bool:
        open_ = self._questions.keys() - self._answers.keys() - self._provisional
        return not open_ - self._forgotten

    def _on_step(self, step: StepRecord) -> None:
        ink = self._ink.of(step.text)
        for char in ink:
            question = self._verdict_of[char]
            assert self._answers[question] == step.verdict, "another step's verdict"
        self._pending += ink
        if self._blind:
            self._allowed.update(ink)
        if not self._case.enforced:
            return
        decision = self._evidence.weigh(step.verdict, step.stage)
        if not self._blind:
            assert (decision.action, decision.scenario) == (step.action, step.scenario)
            assert step.level == self._evidence.level
        self._stopped = step.action.intervenes
        if step.action.intervenes:
            if self._blind:
                self._allowed.difference_update(ink)
            self._evidence.restart(step.scenario, step.stage)  # as if it were a correction
        elif self._evidence.at_floor(step.stage):
            self._allowed.update(self._pending)
            self._pending.clear()

    def _cut(self) -> None:
        """The leg is over: what did not leave never may."""
        self._pending.clear()
        self._forgotten.update(self._questions)
        if self._case.live:
            self._must_go.update(char for char in self._sent if char not in self._allowed)
        self._texts_prefix()
        self._texts.clear()

    def _texts_prefix(self) -> None:
        """Text leaves in order, without gaps."""
        case = self._case
        if self._leg is None or case.hidden or not self._texts:
            return
        number = self._ink_leg
        said = [c for a in case.leg(number) if isinstance(a, tuple) for c in self._ink.of(a[1])]
        assert said[: len(self._texts)] == self._texts, "text out of order"

    @property
    def _ink_leg(self) -> int:
        first = self._texts[0]
        return next(
            n
            for n, atoms in enumerate(self._case.legs)
            if any(isinstance(a, tuple) and first in a[1] for a in atoms)
        )

    # --- the end --------------------------------------------------------------------------

    def end(self, seen: Seen) -> None:
        case, outcome = self._case, seen.outcome
        self._texts_prefix()
        assert seen.outcomes == 1
        ends = len(seen.finish) + len(seen.failures)
        assert ends == (outcome.ended != "left")
        assert seen.order.count("Open") <= 1
        assert outcome.corrections <= case.policy.correction.budget
        self._check_usage(seen)
        self._check_coverage(seen)
        self._check_retract(outcome)
        self._check_whole(seen)

    def _check_usage(self, seen: Seen) -> None:
        case, discarded = self._case, seen.outcome.discarded_tokens
        assert discarded >= 0
        if case.usage == "garbage":
            return
        if case.usage == "none":
            assert discarded <= self._tokens
            assert all(finish.usage is None for finish in seen.finish)
        if case.usage == "running" and seen.finish and (usage := seen.finish[0].usage) is not None:
            assert usage.completion_tokens is not None
            assert usage.completion_tokens + discarded == self._tokens
            assert usage.prompt_tokens == 7

    def _check_coverage(self, seen: Seen) -> None:
        case, coverage = self._case, seen.outcome.coverage
        released = 0
        for channel, counts in coverage.items():
            assert 0 <= counts.released <= counts.received
            assert counts.judged <= counts.received
            if channel != Channel.MARKUP:
                told = counts.judged + sum(counts.released_unjudged.values())
                assert counts.released <= told, channel
                assert all(n >= 0 for n in counts.released_unjudged.values())
                released += counts.released
        calls = sum(len(call.name) + len(call.arguments) for call in seen.calls)
        calls_ink = sum(len(self._ink.of(c.name + c.arguments)) for c in seen.calls)
        assert len(self._sent) + calls_ink <= released
        whole = seen.outcome.ended == "finished" and "AbortUpstream" not in seen.order
        if whole and not seen.resumed and not case.task.stop:
            received = sum(counts.received for counts in coverage.values())
            said = sum(len(case.text(0, name)) for name in ("reasoning", "content"))
            assert received == said + calls

    def _check_retract(self, outcome: Outcome) -> None:
        if not self._case.live:
            assert not outcome.retract
            return
        gone: dict[WireField, list[tuple[int, int]]] = {name: [] for name in WireField}
        for span in outcome.retract:
            assert 0 <= span.start <= span.end <= self._lengths[span.field]
            gone[span.field].append((span.start, span.end))
        if self._blind:
            return
        for char, (name, at) in self._sent.items():
            covered = any(start <= at < end for start, end in gone[name])
            if char in self._must_go:
                assert covered, f"{char} should be retracted"
            elif char in self._allowed:
                assert not covered, f"{char} stood, and is retracted"

    def _check_whole(self, seen: Seen) -> None:
        """Of a generation that nobody touched, the client has every character."""
        case, outcome = self._case, seen.outcome
        whole = outcome.ended == "finished" and not seen.resumed and not case.task.stop
        if not whole or case.policy.limits.max_generated_chars <= 1000:
            return
        assert [(call.name, call.arguments) for call in seen.calls] == _expected_calls(case.leg(0))
        text = {name: case.text(0, name) for name in ("reasoning", "content")}
        if case.hidden:
            shown = [c for c, channel in self._channels() if channel is not Channel.REASONING]
            hidden = {c for c, channel in self._channels() if channel is Channel.REASONING}
            assert not hidden.intersection(self._sent), "hidden thinking left"
            assert self._texts == [c for c in shown if c in self._sent]
            answer = {c for c, channel in self._channels() if channel is Channel.ANSWER}
            assert answer <= self._sent.keys()
        elif case.policy.reasoning.emit == "upstream":
            assert (seen.reasoning, seen.content) == (text["reasoning"], text["content"])
        else:
            assert self._texts == [
                c for a in case.leg(0) if isinstance(a, tuple) for c in self._ink.of(a[1])
            ]
            if case.policy.reasoning.emit == "inline":
                assert not seen.reasoning
            else:
                thought = {c for c, channel in self._channels() if channel is Channel.REASONING}
                assert thought == set(self._ink.of(seen.reasoning))

    @cache  # noqa: B019 - an oracle lives for one run
    def _channels(self) -> Sequence[tuple[str, Channel]]:
        parser = ReplyParser(self._case.task.format)
        found: list[tuple[str, Channel]] = []
        for atom in self._case.leg(0):
            if isinstance(atom, ToolDelta):
                pieces = parser.close()
            else:
                name, text = atom
                pieces = parser.feed(*((text, "") if name == "reasoning" else ("", text)))
            found += [(c, p.channel) for p in pieces for c in self._ink.of(p.text)]
        return [*found, *((c, p.channel) for p in parser.close() for c in self._ink.of(p.text))]


def _expected_calls(atoms: Iterable[Atom]) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    last: int | None = None
    for atom in atoms:
        if not isinstance(atom, ToolDelta):
            continue
        name, arguments = calls.pop() if atom.index == last else ("", "")
        last = atom.index
        calls.append(
            (name or atom.function.name or "", arguments + (atom.function.arguments or ""))
        )
    return calls


# --- the check --------------------------------------------------------------------------------


def check(draw: random.Random) -> None:
    """Draw one case and run it. Raises AssertionError, or whatever the machine raises."""
    case = draw_case(draw)
    seed, other = draw.getrandbits(32), draw.getrandbits(32)
    seen = case.run(seed)
    if not case.holds or case.time_matters or case.policy.limits.max_generated_chars <= 1000:
        return
    again = case.run(other, watched=False)
    assert _decided(again) == _decided(seen), "chunks or the order of verdicts decided"


def _decided(seen: Seen) -> tuple[object, ...]:
    outcome = seen.outcome
    return (
        (outcome.action, outcome.stage, outcome.scenario, outcome.reason, outcome.ended),
        (outcome.onset_step, outcome.onset_char, outcome.alarm_char, outcome.corrections),
        seen.steps,
        (seen.reasoning, seen.content, seen.refusal),
        [(call.name, call.arguments) for call in seen.calls],
        [
            resume.prefix if isinstance(resume, Resume) else resume.thought
            for resume in seen.resumed
        ],
    )
