"""The guarded stream: one generation as a state machine without I/O.

Rule 1: everything that decides what a client may see lives here. No asyncio, socket, clock,
randomness or log; the caller says what happened (`handle(event, now)`) and does what it is
told (the effects).
The gateway drives it with real I/O, replay with recorded traces, property tests with every order.

Generated text becomes *units*: judged steps, and whitespace or tags that need no judge. A unit is

    open -> waiting (for its verdict) -> scored, in an excursion -> released
                                                              \\-> discarded

    units    docket                       excursion                 delivery  (in `monitors`)

Scoring is strictly in the order of the text, however late or early verdicts come, so decisions
depend on text and verdicts alone. A scored unit leaves when evidence (`monitors.evidence`) is at
its floor; so the kept prefix always equals what the client has. Legs are upstream requests: a
correction ends one and begins the next; events of an ended leg are ignored. In shadow and off modes
text leaves as it comes and decisions change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from monitors.account import note_decision, note_step
from monitors.delivery import Delivery
from monitors.docket import Docket
from monitors.events import (
    AbortUpstream,
    ClientLeft,
    DeltaReceived,
    Effect,
    Event,
    Fail,
    Finish,
    Open,
    Outcome,
    Record,
    Refuse,
    Release,
    Restart,
    Resume,
    StepJudged,
    TimePassed,
    UpstreamEnded,
    UpstreamFailed,
    WakeAt,
)
from monitors.evidence import Decision, Evidence, weigh_input
from monitors.excursion import Excursion
from monitors.formats import AUTO, THINK, Piece, ReplyParser, WireField
from monitors.judges.base import Verdict
from monitors.policy import Policy
from monitors.task import ResumeMethod, Task
from monitors.taxonomy import Action, Mode, Stage
from monitors.units import Unit, Units

_NOTHING: tuple[Effect, ...] = ()
_STOP: tuple[str, int | str | None] = ("stop", None)


class GuardedStream:
    """One generation under one policy. `start` once, then `handle` each event in turn."""

    def __init__(self, policy: Policy, task: Task) -> None:
        self.outcome = Outcome()
        self._policy, self._task = policy, task
        self._live = policy.mode is not Mode.ENFORCE
        self._judging = policy.mode is not Mode.OFF
        self._effects: list[Effect] = []  # of the event at hand
        self._wake: float | None = None

        self._leg = 0
        self._units = Units(task, ReplyParser(task.format))
        self._finish_as = _STOP  # finish and stop reason of the leg
        self._docket = Docket()
        self._excursion = Excursion(policy.caps)
        self._evidence = Evidence(policy)
        self._delivery = Delivery(policy, task, self.outcome.coverage)

        self._stage = Stage.REASONING  # of the last scored step
        self._answering = False  # a step of the answer was scored

        self._answered = False  # the upstream sent its first delta
        self._opened = False
        self._over = False  # nothing more will be delivered
        self._recorded = False

    @property
    def frontier(self) -> int:
        """How many characters of reasoning + answer have left."""
        return self._delivery.frontier

    # --- events ---------------------------------------------------------------------------

    def start(self, now: float) -> Sequence[Effect]:
        """The request goes upstream now; returns the input's `Judge` effects."""
        if self._judging:
            self._effects += self._docket.ask_inputs(self._task.inputs)
        return self._take_effects(now)

    def handle(self, event: Event, now: float) -> Sequence[Effect]:
        """Take in one event at time `now` (seconds, any monotonic clock); return what to do."""
        if self._recorded:
            return _NOTHING
        match event:
            case DeltaReceived() if self._hears(event.leg):
                self._on_delta(event, now)
            case StepJudged():
                self._on_verdict(event, now)
            case UpstreamEnded(leg) if self._hears(leg):
                self._end_leg(now)
            case UpstreamFailed(leg, error) if self._hears(leg):
                self._fail(error, now)
            case TimePassed() if not self._over:
                self._wake = None
                self._on_time(now)
            case ClientLeft():
                self._on_client_left(now)
            case _:
                return _NOTHING  # of an ended leg or generation
        self._advance(now)
        return self._take_effects(now)

    def _hears(self, leg: int) -> bool:
        return leg == self._leg and not self._over and not self._units.closed

    def _on_delta(self, delta: DeltaReceived, now: float) -> None:
        self._answered = True
        self._open_reply()
        if delta.finish_reason is not None:
            self._finish_as = (delta.finish_reason or "stop", delta.stop_reason)
        self._delivery.tokens.delta(delta.usage, len(delta.reasoning) + len(delta.content))
        self._take(self._units.read(delta.reasoning, delta.content), now)
        if (stop := self._units.stopped) is not None:
            self._cut_short("stop", stop, now)
        elif self._units.generated > self._policy.limits.max_generated_chars:
            self._cut_short("length", None, now)

    def _cut_short(self, finish_reason: str, stop: str | None, now: float) -> None:
        """End the leg ourselves: what was generated so far is the reply."""
        self._finish_as = (finish_reason, stop)
        self._effects.append(AbortUpstream(self._leg))
        self._end_leg(now)

    def _end_leg(self, now: float) -> None:
        self._answered = True
        self._open_reply()
        self._take(self._units.close(), now)
        self._effects += self._docket.add(self._units.rest())

    def _fail(self, error: Exception, now: float) -> None:
        if self._live and self._answered:
            self._end_leg(now)  # what the parser held back would have left without us
        self._effects.append(Fail(error))
        self._close("failed")

    def _on_verdict(self, event: StepJudged, now: float) -> None:
        docket = self._docket
        if docket.answer_input(event.id, event.verdict):
            if not docket.inputs_open and (self._live or not self._over):
                self._judge_input(now)
            return
        unit = docket.answer(event.id, event.verdict)
        if unit is not None and unit is self._units.asked:
            self._units.asked = None
            self._release_provisionally(unit, event.verdict)

    def _on_time(self, now: float) -> None:
        if (deadline := self._excursion.deadline) is not None and now >= deadline:
            self._reach_cap(now)
        elif (due := self._provisional_time()) is not None and now >= due:
            for words in self._units.ask(now):
                self._effects += self._docket.ask(words)

    def _on_client_left(self, now: float) -> None:
        if not self._over:
            self._effects.append(AbortUpstream(self._leg))
            self._close("left")
        self._record(now)

    # --- text in --------------------------------------------------------------------------

    def _take(self, pieces: Iterable[Piece], now: float) -> None:
        delivery = self._delivery
        for piece in pieces:
            channel, text = piece.channel, piece.text
            delivery.coverage(channel).received += len(text)
            if self._live:
                self._send(delivery.text(channel, piece.field, text))
            if self._judging:
                if units := self._units.segment(piece, now):
                    self._effects += self._docket.add(units)
            else:
                delivery.unjudged(channel, text, "off")

    # --- verdicts to decisions ------------------------------------------------------------

    def _advance(self, now: float) -> None:
        """Score what can be scored, in order; finish when the leg has ended and all is scored."""
        self._open_reply()
        docket = self._docket
        while (self._live or not self._over) and (unit := docket.next()) is not None:
            self._score(unit, now)
        if self._units.closed and not self._over:
            scored = not docket.waiting and not docket.inputs_open
            if scored and not self._live:
                self._flush_excursion(now)
            if scored or self._live:  # live: verdicts may be due, and the excursion may go on
                self._send(self._delivery.settle())
                self._finish(*self._finish_as)
        if self._over and not (self._live and docket.verdicts_due):
            self._record(now)

    def _score(self, unit: Unit, now: float) -> None:
        self._excursion.add(unit)
        if self._live:
            self._delivery.unjudged(unit.channel, unit.text, unit.why_unjudged)
        if unit.verdict is not None:  # whitespace and tags move nothing: they go with the last step
            decision = self._weigh(unit, unit.verdict)
            if decision.action.intervenes:
                self._intervene(unit, decision, now)
                return
            if decision.action is Action.FLAG:
                self._decide(decision)
        if self._evidence.at_floor(self._stage):
            self._flush_excursion(now)
            return
        self._excursion.hold(now)
        if self._excursion.full:
            self._reach_cap(now)

    def _weigh(self, unit: Unit, verdict: Verdict) -> Decision:
        """Move the evidence by one true step; record what was seen and what it asks for."""
        stage = self._stage = unit.stage
        self._answering |= stage is Stage.ANSWER
        if not verdict.unknown:
            self._delivery.coverage(unit.channel).judged += len(unit.text) - unit.released
        decision = self._evidence.weigh(verdict, stage)
        step = note_step(self.outcome, unit, verdict, decision, self._evidence.level)
        self._effects.append(Record(step))
        return decision

    def _judge_input(self, now: float) -> None:
        verdicts = self._docket.input_verdicts
        self.outcome.judge_ms += sum(verdict.ms for verdict in verdicts)
        decision = weigh_input(self._policy, verdicts)
        self._decide(decision)
        if decision.action.intervenes and not self._live:
            self._refuse(decision, now)

    def _intervene(self, unit: Unit, decision: Decision, now: float) -> None:
        correct = (
            decision.action is Action.CORRECT
            and not self._answering  # there is no way back from the answer
            and self._task.resume is not ResumeMethod.REFUSE
            and self.outcome.corrections < self._policy.correction.budget
        )
        decision = decision._replace(action=Action.CORRECT if correct else Action.REFUSE)
        self._decide(decision)
        if self._live:  # shadow: the decision is on record; go on as after a correction
            self._evidence.restart(decision.scenario, decision.stage)
            self._end_excursion(now)
        elif correct:
            self._correct(unit, decision, now)
        else:
            self._refuse(decision, now)

    def _reach_cap(self, now: float) -> None:
        """The excursion lasted too long: refuse, or (fail-open) release and flag."""
        release = self._policy.caps.on_cap == "release"
        action = Action.FLAG if release else Action.REFUSE
        decision = Decision(action, self._stage, None, "cap")
        self._decide(decision)
        if release or self._live:
            self._evidence.reset()
            self._flush_excursion(now)
        else:
            self._refuse(decision, now)

    def _decide(self, decision: Decision) -> None:
        held, released = self._excursion.steps, self._delivery.frontier
        note_decision(self.outcome, decision, held, released, self._units.generated)

    # --- interventions --------------------------------------------------------------------

    def _correct(self, unit: Unit, decision: Decision, now: float) -> None:
        """Cut the leg at the frontier and have the same message resumed behind a safety thought."""
        thought = self._policy.safety_thought(decision.scenario, self._task.language)
        self.outcome.corrections += 1
        self._cut(now)
        self._begin_leg(thought, inline=unit.field is WireField.CONTENT)
        if self._policy.correction.show_thought:
            self._send(self._delivery.thought(unit.field, thought))
        self._evidence.restart(decision.scenario, decision.stage)

    def _begin_leg(self, thought: str, *, inline: bool) -> None:
        task, delivery = self._task, self._delivery
        self._leg += 1
        self._finish_as = _STOP
        if task.resume is ResumeMethod.RESTART:
            parser = ReplyParser(task.format)
            self._effects.append(Restart(self._leg, thought, delivery.tokens.spent))
        else:
            parser = ReplyParser(THINK if inline else AUTO, resumed=True)
            prefix = delivery.resume(thought)
            self._effects.append(Resume(self._leg, prefix, delivery.tokens.spent))
        self._units = Units(task, parser, delivery.frontier, delivery.kept)

    def _refuse(self, decision: Decision, now: float) -> None:
        at_input = decision.stage is Stage.INPUT
        as_error = at_input and self._policy.input.refuse_as == "error" and not self._opened
        self._cut(now)
        if not as_error:
            self._open_reply(force=True)
            if lead := self._delivery.lead_in:
                self._effects.append(Release(WireField.CONTENT, lead))
        text = self._policy.refusal(decision.scenario, self._task.language)
        self._effects.append(Refuse(text, as_error))
        self._finish("content_filter", None, ended="refused")

    def _cut(self, now: float) -> None:
        """End the leg where the client's text ends, and forget what it generated beyond."""
        self._effects.append(AbortUpstream(self._leg))
        self._delivery.cut()
        self._end_excursion(now)
        self._docket.drop_units()

    def _finish(
        self, finish_reason: str, stop_reason: int | str | None, ended: str = "finished"
    ) -> None:
        if self._live:  # the reply does not wait for verdicts, and says so
            self._delivery.count_pending()
        self._effects.append(Finish(finish_reason, stop_reason, self._delivery.tokens.total()))
        self._close(ended)

    def _close(self, ended: str) -> None:
        tokens = self._delivery.tokens
        self._over = True
        self.outcome.ended = ended
        if ended in ("failed", "left"):
            tokens.cut()
        self.outcome.discarded_tokens = tokens.discarded

    def _record(self, now: float) -> None:
        if not self._recorded:
            self._recorded = True
            self._end_excursion(now)
            if self._live:
                self._delivery.count_pending()
            self._effects.append(Record(self.outcome))

    # --- release --------------------------------------------------------------------------

    def _open_reply(self, *, force: bool = False) -> None:
        if self._opened:
            return
        ready = self._answered and not self._over and (self._live or not self._docket.inputs_open)
        if ready or force:
            self._opened = True
            self._effects.append(Open())

    def _send(self, release: Release | None) -> None:
        if release is not None:
            self._effects.append(release)

    def _flush_excursion(self, now: float) -> None:
        """Release every scored unit and close the excursion."""
        if not self._live:
            for unit in self._excursion.units:
                self._send(self._delivery.unit(unit))
        self._end_excursion(now)

    def _end_excursion(self, now: float) -> None:
        self.outcome.excursion_seconds += self._excursion.end(now)

    def _release_provisionally(self, asked: Unit, verdict: Verdict) -> None:
        """Let the words of an open step go, if its verdict, were it a true step's, would."""
        if self._over or self._docket.waiting or self._excursion.units:
            return  # the step has closed meanwhile: its own verdict decides
        if not self._evidence.would_stay_at_floor(verdict, asked.stage):
            return
        if text := self._units.let_out(asked):
            self._delivery.coverage(asked.channel).judged += len(text)
            self._send(self._delivery.words(asked, text))

    # --- time -----------------------------------------------------------------------------

    def _provisional_time(self) -> float | None:
        """When to judge the open step provisionally; None while something else is due first."""
        units = self._units
        if units.since is None or self._live or self._docket.inputs_open:
            return None
        if units.closed or units.asked is not None or self._docket.waiting or self._excursion.units:
            return None
        if not self._evidence.at_floor(units.stage):
            return None
        return units.since + self._policy.limits.provisional_after_seconds

    def _take_effects(self, now: float) -> Sequence[Effect]:
        if not self._over:
            self._schedule(now)
        if not self._effects:
            return _NOTHING
        effects, self._effects = self._effects, []
        return effects

    def _schedule(self, now: float) -> None:
        due = self._provisional_time()
        if (cap := self._excursion.deadline) is not None:
            due = cap if due is None else min(due, cap)
        if due is not None and (self._wake is None or due < self._wake):
            self._wake = max(due, now)
            self._effects.append(WakeAt(self._wake))
