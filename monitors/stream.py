"""The guarded stream: one generation as a state machine without I/O.

Rule 1: everything that decides what a client may see lives here. No asyncio, socket, clock,
randomness or log; the caller says what happened (`handle(event, now)`) and does what it is
told (the effects).
The gateway drives it with real I/O, replay with recorded traces, property tests with every order.

Generated text becomes *units*: judged steps, and whitespace or tags that need no judge. A unit is

    open -> waiting (for its verdict) -> scored, in an excursion -> released
                                                              \\-> discarded

Scoring is strictly in the order of the text, however late or early verdicts come, so decisions
depend on text and verdicts alone. A scored unit leaves when evidence is at its floor; so the kept
prefix always equals what the client has. Legs are upstream requests: a correction ends one and
begins the next; events of an ended leg are ignored. In shadow and off modes text leaves as it comes
and decisions change nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from monitors.events import (
    AbortUpstream,
    ClientLeft,
    Coverage,
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
    Restart,
    Resume,
    StepJudged,
    StepRecord,
    TimePassed,
    UpstreamEnded,
    UpstreamFailed,
    WakeAt,
)
from monitors.evidence import Evidence
from monitors.formats import CLOSER, OPENER, Channel, Format, Piece, ReplyParser, WireField
from monitors.judges.base import Passage, Verdict
from monitors.policy import Policy
from monitors.steps import Segmenter
from monitors.stop import StopFilter
from monitors.taxonomy import Action, Mode, Scenario, Stage
from monitors.tokens import TokenLedger

_EARLIER_STEPS = 2  # context of a step; the embedded judge's window has no room for more
_NOTHING: tuple[Effect, ...] = ()
_NO_STEP = (Channel.MARKUP, WireField.CONTENT)

_STAGE = {
    Channel.REASONING: Stage.REASONING,
    Channel.ANSWER: Stage.ANSWER,
    Channel.UNPARSED: Stage.ANSWER,  # the stricter row: we do not know that it is thinking
}


class ResumeMethod(StrEnum):
    """How an upstream goes on with a cut thought; found by the probe, never assumed."""

    CONTINUE = "continue"
    """`continue_final_message` renders the prefix exactly."""
    TEMPLATE_KWARG = "template-kwarg"
    """The operator's chat template takes the prefix as `think_prefix`."""
    RESTART = "restart"
    """Neither works: a fresh generation with the safety thought as a system message."""
    REFUSE = "refuse"
    """Nothing works, or nothing was probed: a correction becomes a refusal."""


@dataclass(slots=True, frozen=True)
class Task:
    """What the stream must know of the request it guards."""

    prompt: str
    """The user's request as judges see it."""
    inputs: tuple[Passage, ...] = ()
    """What of the request is to be judged before any text leaves."""
    language: str = "en"
    """Of safety thoughts and refusals."""
    stop: tuple[str, ...] = ()
    hide_reasoning: bool = False
    resume: ResumeMethod = ResumeMethod.REFUSE
    format: Format = Format.AUTO


@dataclass(slots=True)
class _Unit:
    channel: Channel
    field: WireField
    text: str
    id: int = 0  # of its Judge effect; 0 needs no judging
    index: int = 0  # of the step
    start: int = 0  # in characters of reasoning + answer
    released: int = 0  # characters that a provisional verdict let out
    verdict: Verdict | None = None


class GuardedStream:
    """One generation under one policy. `start` once, then `handle` each event in turn."""

    def __init__(self, policy: Policy, task: Task) -> None:
        self.outcome = Outcome()
        self._policy, self._task = policy, task
        self._live = policy.mode is not Mode.ENFORCE
        self._judging = policy.mode is not Mode.OFF
        self._evidence = Evidence(policy)
        self._tokens = TokenLedger()
        self._effects: list[Effect] = []
        self._ids = 0
        self._over = False  # nothing more will be delivered
        self._recorded = False

        self._inputs: dict[int, Passage] = {}
        self._input_verdicts: list[tuple[Passage, Verdict]] = []
        self._answered = False  # the upstream sent its first delta
        self._opened = False

        self._leg = 0
        self._parser = ReplyParser(task.format)
        self._stop = StopFilter(task.stop)
        self._stop_channel = Channel.ANSWER  # of the text that the filter holds back
        self._ended = False  # the leg's stream is complete
        self._finish_reason: str | None = None
        self._stop_reason: int | str | None = None
        self._leg_received = 0  # characters of this leg, tags included: what tokens are counted by
        self._leg_released = 0
        self._generated = 0  # characters of reasoning + answer, without what was discarded
        self._frontier = 0  # of these, how many have left

        self._segmenter = Segmenter()
        self._run = _NO_STEP  # what the open step is
        self._open_start = 0
        self._open_judged = 0  # provisionally, so many characters of the open step
        self._open_released = 0
        self._open_since: float | None = None
        self._provisional: tuple[int, int, int] | None = None  # (id, step begun at, length)
        self._waiting: deque[_Unit] = deque()
        self._excursion: deque[_Unit] = deque()
        self._excursion_since: float | None = None
        self._excursion_steps = 0
        self._by_id: dict[int, _Unit] = {}
        self._earlier: deque[str] = deque(maxlen=_EARLIER_STEPS)  # of the steps that were closed
        self._kept: deque[str] = deque(maxlen=_EARLIER_STEPS)  # of the steps that were released
        self._stage = Stage.REASONING  # of the last scored step
        self._answering = False  # a step of the answer was scored

        self._message: list[str] = []  # the assistant message as the upstream must see it
        self._last_field: WireField | None = None
        self._joint = False  # a cut is to be bridged: the next text may need whitespace before it
        self._answer_released = False
        self._block_open = False  # the client saw inline thinking that is not closed yet
        self._wake: float | None = None

    @property
    def frontier(self) -> int:
        """How many characters of reasoning + answer have left."""
        return self._frontier

    # --- events ---------------------------------------------------------------------------

    def start(self, now: float) -> Sequence[Effect]:
        """The request goes upstream now; returns the input's `Judge` effects."""
        if self._judging:
            for passage in self._task.inputs:
                self._inputs[self._judge(passage)] = passage
        return self._take_effects(now)

    def handle(self, event: Event, now: float) -> Sequence[Effect]:
        """Take in one event at time `now` (seconds, any monotonic clock); return what to do."""
        if self._recorded:
            return _NOTHING
        match event:
            case DeltaReceived() if event.leg == self._leg and not self._over and not self._ended:
                self._on_delta(event, now)
            case StepJudged():
                self._on_verdict(event, now)
            case UpstreamEnded(leg) if leg == self._leg and not self._over and not self._ended:
                self._end_leg(now)
            case UpstreamFailed(leg) if leg == self._leg and not self._over and not self._ended:
                self._fail(event.error, now)
            case TimePassed() if not self._over:
                self._wake = None
                self._on_time(now)
            case ClientLeft():
                if not self._over:
                    self._effects.append(AbortUpstream(self._leg))
                    self._close("left")
                self._record(now)
            case _:
                return _NOTHING  # of an ended leg or generation
        self._advance(now)
        return self._take_effects(now)

    def _on_delta(self, delta: DeltaReceived, now: float) -> None:
        self._answered = True
        self._open_reply()
        if delta.finish_reason is not None:
            self._finish_reason, self._stop_reason = delta.finish_reason, delta.stop_reason
        for piece in self._parser.feed(delta.reasoning, delta.content):
            self._take(piece, now)
        self._leg_received += len(delta.reasoning) + len(delta.content)
        self._tokens.delta(delta.usage, self._leg_received)
        if self._stop.matched is not None:
            self._finish_reason, self._stop_reason = "stop", self._stop.matched
            self._cut_short(now)
        elif self._generated > self._policy.limits.max_generated_chars:
            self._finish_reason, self._stop_reason = "length", None
            self._cut_short(now)

    def _cut_short(self, now: float) -> None:
        """End the leg ourselves: what was generated so far is the reply."""
        self._effects.append(AbortUpstream(self._leg))
        self._end_leg(now)

    def _end_leg(self, now: float) -> None:
        self._answered = self._ended = True
        self._open_reply()
        for piece in self._parser.close():
            self._take(piece, now)
        self._flush_stop(now)
        self._close_run()

    def _on_verdict(self, event: StepJudged, now: float) -> None:
        if (passage := self._inputs.pop(event.id, None)) is not None:
            self._input_verdicts.append((passage, event.verdict))
            if not self._inputs and (self._live or not self._over):
                self._judge_input(now)
        elif (unit := self._by_id.pop(event.id, None)) is not None:
            unit.verdict = event.verdict
        elif (asked := self._provisional) is not None and asked[0] == event.id:
            self._provisional = None
            self._release_provisionally(*asked[1:], event.verdict)

    def _on_time(self, now: float) -> None:
        if self._excursion_due(now):
            self._reach_cap(now)
        elif self._provisional_due(now):
            self._judge_provisionally(now)

    # --- text to units --------------------------------------------------------------------

    def _take(self, piece: Piece, now: float) -> None:
        """One piece of generated text; stop strings are looked for in what may be the answer."""
        if self._stop.matched is not None:
            return  # behind a stop string in the same delta
        if piece.channel in (Channel.ANSWER, Channel.UNPARSED):
            self._stop_channel = piece.channel
            text = self._stop.feed(piece.text)
            if text:
                self._place(Piece(piece.channel, piece.field, text), now)
        else:
            self._flush_stop(now)
            self._place(piece, now)

    def _flush_stop(self, now: float) -> None:
        if rest := self._stop.close():
            self._place(Piece(self._stop_channel, WireField.CONTENT, rest), now)

    def _place(self, piece: Piece, now: float) -> None:
        channel, field, text = piece.channel, piece.field, piece.text
        self._coverage(channel).received += len(text)
        if self._live:
            self._send(channel, field, text)
            self._count_released(channel, text)
            if not self._judging:
                self._count_unjudged(channel, text, "off")
        if self._judging:
            if self._run != (channel, field):
                self._close_run()
                self._run = (channel, field)
                self._open_start = self._generated
            if channel is Channel.MARKUP:
                self._waiting.append(_Unit(channel, field, text, start=self._generated))
            else:
                for step in self._segmenter.feed(text):
                    self._close_step(step)
                if self._open_since is None:
                    self._open_since = now
        if channel is not Channel.MARKUP:
            self._generated += len(text)

    def _close_run(self) -> None:
        for step in self._segmenter.close():
            self._close_step(step)
        self._run, self._open_since = _NO_STEP, None

    def _close_step(self, text: str) -> None:
        channel, field = self._run
        unit = _Unit(channel, field, text, start=self._open_start)
        unit.released = min(len(text), self._open_released)
        self._open_start += len(text)
        self._open_released -= unit.released  # a forced cut may lie before what has left
        self._open_judged = max(0, self._open_judged - len(text))
        self._open_since = None
        self._waiting.append(unit)
        if stripped := text.strip():
            unit.id = self._judge(self._passage(_STAGE[channel], stripped))
            self._by_id[unit.id] = unit
            self._earlier.append(stripped)

    def _passage(self, stage: Stage, text: str) -> Passage:
        return Passage(stage, text, self._task.prompt, tuple(self._earlier))

    def _judge(self, passage: Passage) -> int:
        self._ids += 1
        self._effects.append(Judge(self._ids, passage))
        return self._ids

    # --- verdicts to decisions ------------------------------------------------------------

    def _advance(self, now: float) -> None:
        """Score what can be scored, in order; finish when the leg has ended and all is scored."""
        self._open_reply()
        while self._waiting and not self._inputs and (self._live or not self._over):
            unit = self._waiting[0]
            if unit.id and unit.verdict is None:
                break
            self._waiting.popleft()
            self._score(unit, now)
        if self._ended and not self._over:
            if self._live:  # verdicts may be due, and the excursion may go on
                self._finish(self._finish_reason or "stop")
            elif not self._waiting and not self._inputs:
                self._flush_excursion(now)
                self._finish(self._finish_reason or "stop")
        verdicts_due = self._live and (self._by_id or self._inputs)
        if self._over and not verdicts_due:
            self._record(now)

    def _score(self, unit: _Unit, now: float) -> None:
        self._excursion.append(unit)
        if self._live:
            self._count_unjudged(unit.channel, unit.text, _why_unjudged(unit))
        action, scenario, reason = Action.ALLOW, None, "threshold"
        if unit.verdict is not None:  # whitespace and tags move nothing: they go with the last step
            self._stage = _STAGE[unit.channel]
            self._answering |= self._stage is Stage.ANSWER
            action, scenario, reason = self._weigh(unit, unit.verdict)
        if action.intervenes:
            self._intervene(unit, action, scenario, reason, now)
            return
        if action is Action.FLAG:
            self._decide(action, self._stage, scenario, reason, unit)
        if self._evidence.at_floor(self._stage):
            self._flush_excursion(now)
            return
        if self._excursion_since is None:
            self._excursion_since = now
        self._excursion_steps += unit.id > 0
        caps = self._policy.caps
        held = sum(len(held.text) for held in self._excursion)
        if self._excursion_steps >= caps.excursion_steps or held >= caps.excursion_chars:
            self._reach_cap(now)

    def _weigh(self, unit: _Unit, verdict: Verdict) -> tuple[Action, Scenario | None, str]:
        """Move the evidence by one true step; what it asks for, in which scenario, and why."""
        outcome, stage = self.outcome, self._stage
        unit.index = outcome.steps
        outcome.steps += 1
        outcome.judge_ms += verdict.ms
        action, scenario, reason = Action.ALLOW, None, "threshold"
        if verdict.unknown:
            overload = verdict.overloaded
            reason = "overload" if overload else "unknown"
            closed = self._policy.overload_is_closed if overload else self._policy.unknown_is_closed
            action = Action.REFUSE if closed(stage) else Action.FLAG
        else:
            self._coverage(unit.channel).judged += len(unit.text) - unit.released
            self._evidence.update(verdict, stage)
            action, scenario = self._evidence.crossed(stage)
        record = StepRecord(
            stage,
            unit.index,
            unit.start,
            unit.start + len(unit.text),
            unit.text,
            verdict,
            self._evidence.level,
            action,
            scenario,
        )
        self._effects.append(Record(record))
        return action, scenario, reason

    def _judge_input(self, now: float) -> None:
        policy, strongest = self._policy, Action.ALLOW
        blame: Scenario | None = None
        reason = "input"
        for _, verdict in self._input_verdicts:
            self.outcome.judge_ms += verdict.ms
            scenario: Scenario | None = None
            why = "input"
            if verdict.unsafe is None:
                overload = verdict.overloaded
                closed = policy.overload_is_closed if overload else policy.unknown_is_closed
                action = Action.REFUSE if closed(Stage.INPUT) else Action.FLAG
                why = "overload" if overload else "unknown"
            else:
                action, scenario = _input_action(policy, verdict.unsafe, verdict.scenarios)
            if action.strength > strongest.strength:
                strongest, blame, reason = action, scenario, why
        if strongest is not Action.ALLOW:
            self._decide(strongest, Stage.INPUT, blame, reason, None)
        if strongest.intervenes and not self._live:
            self._refuse(Stage.INPUT, blame)

    def _intervene(
        self, unit: _Unit, action: Action, scenario: Scenario | None, reason: str, now: float
    ) -> None:
        stage = self._stage
        correct = (
            action is Action.CORRECT
            and not self._answering  # there is no way back from the answer
            and self._task.resume is not ResumeMethod.REFUSE
            and self.outcome.corrections < self._policy.correction.budget
        )
        effective = Action.CORRECT if correct else Action.REFUSE
        self._decide(effective, stage, scenario, reason, unit)
        if self._live:  # shadow: the decision is on record; go on as after a correction
            self._evidence.restart(scenario, stage)
            self._excursion.clear()
            self._end_excursion(now)
        elif correct:
            self._correct(unit, scenario, stage, now)
        else:
            self._end_excursion(now)
            self._refuse(stage, scenario)

    def _reach_cap(self, now: float) -> None:
        """The excursion lasted too long: refuse, or (fail-open) release and flag."""
        unit = next((unit for unit in reversed(self._excursion) if unit.id), None)
        stage = self._stage
        release = self._policy.caps.on_cap == "release"
        action = Action.FLAG if release else Action.REFUSE
        self._decide(action, stage, None, "cap", unit)
        if release or self._live:
            self._evidence.reset()
            self._flush_excursion(now)
        else:
            self._end_excursion(now)
            self._refuse(stage, None)

    def _decide(
        self,
        action: Action,
        stage: Stage,
        scenario: Scenario | None,
        reason: str,
        unit: _Unit | None,
    ) -> None:
        """Note a decision; the record keeps the strongest, and of equals the first."""
        outcome = self.outcome
        if action.strength <= outcome.action.strength:
            return
        outcome.action, outcome.stage, outcome.reason = action, stage, reason
        outcome.scenario = scenario
        outcome.released_at_decision = self._frontier
        outcome.generated_at_decision = self._generated
        outcome.onset_step = outcome.onset_char = outcome.alarm_char = None
        if unit is not None:
            onset = next((held for held in self._excursion if held.id), unit)
            if action is Action.FLAG:
                onset = unit  # flagged text is not held, so the excursion tells nothing
            outcome.onset_step = onset.index
            outcome.onset_char = onset.start + len(onset.text) - len(onset.text.lstrip())
            outcome.alarm_char = unit.start + len(unit.text)

    # --- interventions --------------------------------------------------------------------

    def _correct(self, unit: _Unit, scenario: Scenario | None, stage: Stage, now: float) -> None:
        """Cut the leg at the frontier and have the same message resumed behind a safety thought."""
        self._effects.append(AbortUpstream(self._leg))
        self.outcome.corrections += 1
        thought = self._policy.safety_thought(scenario, self._task.language)
        self._drop_unreleased()
        self._end_excursion(now)
        self._leg += 1
        self._ended, self._finish_reason, self._stop_reason = False, None, None
        inline = unit.field is WireField.CONTENT
        restart = self._task.resume is ResumeMethod.RESTART
        if restart:
            self._parser = ReplyParser(self._task.format)
            self._effects.append(Restart(self._leg, thought, self._tokens.spent))
        else:
            self._parser = ReplyParser(Format.THINK if inline else Format.AUTO, resumed=True)
            prefix = resume_prefix("".join(self._message), thought)
            self._message = [prefix]
            self._effects.append(Resume(self._leg, prefix, self._tokens.spent))
        self._joint = True
        if self._policy.correction.show_thought:
            self._send(Channel.REASONING, unit.field, thought, echo=False)
            self._joint = True
        self._evidence.restart(scenario, stage)

    def _refuse(self, stage: Stage, scenario: Scenario | None) -> None:
        as_error = (
            stage is Stage.INPUT and self._policy.input.refuse_as == "error" and not self._opened
        )
        self._effects.append(AbortUpstream(self._leg))
        self._drop_unreleased()
        if not as_error:
            self._open_reply(force=True)
            if lead := self._lead_in():
                self._effects.append(Release(WireField.CONTENT, lead))
        self._effects.append(Refuse(self._policy.refusal(scenario, self._task.language), as_error))
        self._stop_reason = None
        self._finish("content_filter", ended="refused")

    def _lead_in(self) -> str:
        """What must stand between the text already delivered and a refusal."""
        if self._block_open:
            return f"\n{CLOSER}\n\n"
        return "\n\n" if self._answer_released else ""

    def _drop_unreleased(self) -> None:
        self._tokens.cut(self._leg_released)
        self._leg_received = self._leg_released = 0
        self._generated = self._frontier
        self._waiting.clear()
        self._excursion.clear()
        self._by_id.clear()
        self._earlier = self._kept.copy()
        self._stop = StopFilter(self._task.stop)
        self._segmenter = Segmenter()
        self._run, self._open_since, self._provisional = _NO_STEP, None, None
        self._open_released = self._open_judged = 0

    def _finish(self, finish_reason: str, ended: str = "finished") -> None:
        self._effects.append(Finish(finish_reason, self._stop_reason, self._tokens.total()))
        self._close(ended)

    def _fail(self, error: Exception, now: float) -> None:
        if self._live and self._answered:
            self._end_leg(now)  # what the parser held back would have left without us
        self._effects.append(Fail(error))
        self._close("failed")

    def _close(self, ended: str) -> None:
        self._over = True
        self.outcome.ended = ended
        if ended in ("failed", "left"):
            self._tokens.cut(self._leg_released)
        self.outcome.discarded_tokens = self._tokens.discarded

    def _record(self, now: float) -> None:
        if not self._recorded:
            self._recorded = True
            self._end_excursion(now)
            if self._live:
                self._count_pending()
            self._effects.append(Record(self.outcome))

    def _count_pending(self) -> None:
        """Of text that left as it came, what has no verdict yet and will get none."""
        for channel, coverage in self.outcome.coverage.items():
            told = coverage.judged + sum(coverage.released_unjudged.values())
            if channel != Channel.MARKUP and coverage.released > told:
                coverage.released_unjudged["pending"] = coverage.released - told

    # --- release --------------------------------------------------------------------------

    def _open_reply(self, *, force: bool = False) -> None:
        ready = self._answered and not self._over and (self._live or not self._inputs)
        if (ready or force) and not self._opened:
            self._opened = True
            self._effects.append(Open())

    def _flush_excursion(self, now: float) -> None:
        """Release every scored unit and close the excursion."""
        if not self._live:
            for unit in self._excursion:
                self._release(unit)
        self._excursion.clear()
        self._end_excursion(now)

    def _end_excursion(self, now: float) -> None:
        if self._excursion_since is not None:
            self.outcome.excursion_seconds += now - self._excursion_since
        self._excursion_since, self._excursion_steps = None, 0

    def _release(self, unit: _Unit) -> None:
        if unit.id:
            self._kept.append(unit.text.strip())
        if text := unit.text[unit.released :]:
            self._send(unit.channel, unit.field, text)
            self._count_released(unit.channel, text)
            self._count_unjudged(unit.channel, text, _why_unjudged(unit))

    def _send(self, channel: Channel, field: WireField, text: str, *, echo: bool = True) -> None:
        """Text leaves; `echo`: it is the upstream's own and belongs to the message so far."""
        if echo:
            self._message.append(text)
        if channel in (Channel.ANSWER, Channel.UNPARSED):
            self._answer_released = True
        if self._hidden(channel):
            return
        if field is WireField.CONTENT:
            opener = channel is Channel.MARKUP and text.lower().endswith(OPENER)
            if opener and self._block_open:
                return  # of a fresh generation that goes on in the block the client has open
            self._block_open = opener or channel is Channel.REASONING
        bridge = self._joint and field is self._last_field and not text[0].isspace()
        self._joint = False
        self._last_field = field
        self._effects.append(Release(field, "\n" + text if bridge else text))

    def _hidden(self, channel: Channel) -> bool:
        thinking = channel in (Channel.REASONING, Channel.MARKUP)
        return thinking and (self._task.hide_reasoning or self._policy.reasoning.emit == "hidden")

    def _count_unjudged(self, channel: Channel, text: str, why: str) -> None:
        if why and channel is not Channel.MARKUP and not self._hidden(channel):
            kinds = self._coverage(channel).released_unjudged
            kinds[why] = kinds.get(why, 0) + len(text)

    def _count_released(self, channel: Channel, text: str) -> None:
        if not self._hidden(channel):
            self._coverage(channel).released += len(text)
        self._leg_released += len(text)
        self._tokens.release(self._leg_released)
        if channel is not Channel.MARKUP:
            self._frontier += len(text)

    def _coverage(self, channel: Channel) -> Coverage:
        coverage = self.outcome.coverage.get(channel)
        if coverage is None:
            coverage = self.outcome.coverage[channel] = Coverage()
        return coverage

    # --- time -----------------------------------------------------------------------------

    def _provisional_due(self, now: float) -> bool:
        due = self._provisional_time()
        return due is not None and now >= due

    def _provisional_time(self) -> float | None:
        """When to judge the open step provisionally; None while something else is due first."""
        if self._live or self._inputs or self._open_since is None:
            return None
        if self._ended or self._waiting or self._excursion or self._provisional is not None:
            return None
        if not self._evidence.at_floor(_STAGE.get(self._run[0], Stage.REASONING)):
            return None
        return self._open_since + self._policy.limits.provisional_after_seconds

    def _judge_provisionally(self, now: float) -> None:
        """A slow stream: judge the whole words of the open step, without moving the evidence."""
        words = self._segmenter.open.rstrip()
        length = max(words.rfind(" "), words.rfind("\n"), 0)
        text = words[:length].strip()
        if length <= self._open_judged or not text:
            self._open_since = None  # the next delta asks again
            return
        self._open_since, self._open_judged = now, length
        asked = self._judge(self._passage(_STAGE[self._run[0]], text))
        self._provisional = (asked, self._open_start, length)

    def _release_provisionally(self, start: int, length: int, verdict: Verdict) -> None:
        if self._over or start != self._open_start or self._waiting or self._excursion:
            return  # the step has closed meanwhile: its own verdict decides
        channel, field = self._run
        if not self._evidence.would_stay_at_floor(verdict, _STAGE[channel]):
            return
        text = self._segmenter.open[self._open_released : length]
        self._open_released = length
        self._coverage(channel).judged += len(text)
        self._send(channel, field, text)
        self._count_released(channel, text)

    def _excursion_due(self, now: float) -> bool:
        since = self._excursion_since
        return since is not None and now >= since + self._policy.caps.excursion_seconds

    def _take_effects(self, now: float) -> Sequence[Effect]:
        if not self._over:
            self._schedule(now)
        if not self._effects:
            return _NOTHING
        effects, self._effects = self._effects, []
        return effects

    def _schedule(self, now: float) -> None:
        due = self._provisional_time()
        if self._excursion_since is not None:
            cap = self._excursion_since + self._policy.caps.excursion_seconds
            due = cap if due is None else min(due, cap)
        if due is not None and (self._wake is None or due < self._wake):
            self._wake = max(due, now)
            self._effects.append(WakeAt(self._wake))


def _input_action(
    policy: Policy, unsafe: float, scores: Mapping[Scenario, float]
) -> tuple[Action, Scenario | None]:
    """What a passage of the request asks for: by its leading scenario, tolerated or not, and by the
    leading one of those that refuse, over the harm that is not tolerated.
    """
    best: tuple[Action, Scenario | None] = (Action.ALLOW, None)
    refused = {s: p for s, p in scores.items() if policy.action(s, Stage.INPUT).intervenes}
    tolerated = sum(p for s, p in scores.items() if s not in refused)
    for harm, named in ((unsafe, scores), (unsafe - tolerated, refused)):
        scenario = max(named, key=lambda s: named[s], default=None)
        action = policy.action(scenario, Stage.INPUT)
        if harm >= policy.threshold(scenario, Stage.INPUT) and action.strength > best[0].strength:
            best = (action, scenario)
    return best


def _why_unjudged(unit: _Unit) -> str:
    if unit.verdict is None:
        return "blank"
    return unit.verdict.reason or "unknown" if unit.verdict.unknown else ""


def resume_prefix(message: str, thought: str) -> str:
    """The assistant message to go on from: opener, kept text, thought; no trailing whitespace.

    `message` is the text released so far, whose opener may stand outside it: a reasoning parser
    strips it, and some chat templates write it themselves.
    """
    kept = message.rstrip()
    if not kept.lstrip().lower().startswith(OPENER):
        kept = OPENER + ("" if kept.startswith("\n") else "\n") + kept
    return f"{kept.rstrip()}\n{thought}"
