"""What the client has, and how the next text must look behind it.

The kept text of a correction is what left, so this is also where the message to resume is put
together, and where coverage and tokens are told what was released. A correction must not show: the
client sees one message, whose inline `<think>` block, if any, opens and closes once.
"""

from __future__ import annotations

from collections import deque

from monitors.events import Coverage, Release
from monitors.formats import CLOSER, OPENER, Channel, WireField
from monitors.policy import Policy
from monitors.task import Task
from monitors.taxonomy import Mode
from monitors.tokens import TokenLedger
from monitors.units import EARLIER_STEPS, Unit


class Delivery:
    """The reply to one client; `coverage` is the outcome's."""

    __slots__ = (
        "_block_open",
        "_coverage",
        "_hides",
        "_joint",
        "_last_field",
        "_message",
        "_resumable",
        "_unsettled",
        "_unsettled_why",
        "_words",
        "frontier",
        "kept",
        "tokens",
    )

    def __init__(self, policy: Policy, task: Task, coverage: dict[str, Coverage]) -> None:
        self.frontier = 0
        """How many characters of reasoning + answer have left."""
        self.kept: deque[str] = deque(maxlen=EARLIER_STEPS)
        """The last steps that have left: context of what a resumed leg says."""
        self.tokens = TokenLedger()
        self._coverage = coverage
        self._hides = task.hide_reasoning or policy.reasoning.emit == "hidden"
        self._resumable = policy.mode is Mode.ENFORCE  # else the message is not worth its memory
        self._message: list[str] = []  # as the upstream must see it
        self._last_field: WireField | None = None
        self._joint = False  # a cut is to be bridged: the next text may need whitespace before it
        self._block_open = False  # the client saw inline thinking that is not closed yet
        self._words = ""  # of a step that left in part
        # Unparsed text, where a closer may still make it thinking that is to be hidden.
        self._unsettled: list[str] = []
        self._unsettled_why: dict[str, int] = {}

    # --- text leaves ----------------------------------------------------------------------

    def unit(self, unit: Unit) -> Release | None:
        """A unit leaves, less what left before; None where the client gets none of it."""
        self._words = ""
        if unit.passage is not None:
            self.kept.append(unit.passage.text)
        text = unit.text[unit.released :]
        if not text:
            return None
        self.unjudged(unit.channel, text, unit.why_unjudged)
        return self.text(unit.channel, unit.field, text)

    def words(self, unit: Unit, text: str) -> Release | None:
        """The first words of a step leave before it has closed."""
        self._words += text
        return self.text(unit.channel, unit.field, text)

    def text(self, channel: Channel, field: WireField, text: str) -> Release | None:
        """Generated text (never empty) leaves; None where the client gets none of it."""
        if self._resumable:
            self._message.append(text)
        self.tokens.release(len(text))
        if channel is not Channel.MARKUP:
            self.frontier += len(text)
        if self._hidden(channel):
            if text.lower().endswith(CLOSER):
                self._forget_unsettled()  # it was thinking
            return None
        if self._hides and channel is Channel.UNPARSED:
            self._unsettled.append(text)
            return None
        self.coverage(channel).released += len(text)
        return self._shown(channel, field, text)

    def settle(self) -> Release | None:
        """The reply is complete: text that no closer made thinking leaves after all."""
        text = "".join(self._unsettled)
        if not text:
            return None
        coverage = self.coverage(Channel.UNPARSED)
        coverage.released += len(text)
        coverage.released_unjudged |= self._unsettled_why
        self._forget_unsettled()
        return self._shown(Channel.UNPARSED, WireField.CONTENT, text)

    def _forget_unsettled(self) -> None:
        self._unsettled.clear()
        self._unsettled_why.clear()

    def thought(self, field: WireField, thought: str) -> Release | None:
        """The client is shown the safety thought that stands at a cut."""
        if self._hidden(Channel.REASONING):
            return None
        release = self._shown(Channel.REASONING, field, thought)
        self._joint = True
        return release

    def _shown(self, channel: Channel, field: WireField, text: str) -> Release | None:
        if field is WireField.CONTENT:
            opener = channel is Channel.MARKUP and text.lower().endswith(OPENER)
            if opener and self._block_open:
                return None  # of a fresh generation that goes on in the block the client has open
            self._block_open = opener or channel is Channel.REASONING
        if self._joint:
            self._joint = False
            if field is self._last_field and not text[0].isspace():
                text = "\n" + text
        self._last_field = field
        return Release(field, text)

    def _hidden(self, channel: Channel) -> bool:
        return self._hides and channel in (Channel.REASONING, Channel.MARKUP)

    # --- cuts -----------------------------------------------------------------------------

    def cut(self) -> None:
        """The leg ends here: what it generated beyond is thrown away."""
        self.tokens.cut()
        self._joint = True
        self._forget_unsettled()
        if words := self._words.strip():
            self.kept.append(words)
            self._words = ""

    def resume(self, thought: str) -> str:
        """The message to go on from: what has left, and the safety thought, which is now part."""
        prefix = resume_prefix("".join(self._message), thought)
        self._message = [prefix]
        return prefix

    @property
    def lead_in(self) -> str:
        """What must stand between the text already delivered and a refusal."""
        if self._block_open:
            return f"\n{CLOSER}\n\n"
        answer = (self._coverage.get(channel) for channel in (Channel.ANSWER, Channel.UNPARSED))
        return "\n\n" if any(channel and channel.released for channel in answer) else ""

    # --- coverage -------------------------------------------------------------------------

    def coverage(self, channel: Channel) -> Coverage:
        """The account of this channel."""
        coverage = self._coverage.get(channel)
        if coverage is None:
            coverage = self._coverage[channel] = Coverage()
        return coverage

    def unjudged(self, channel: Channel, text: str, why: str) -> None:
        """Note why text is delivered without a judge's score, where there is a reason (`why`)."""
        if why and channel is not Channel.MARKUP and not self._hidden(channel):
            unsettled = self._hides and channel is Channel.UNPARSED
            kinds = self._unsettled_why if unsettled else self.coverage(channel).released_unjudged
            kinds[why] = kinds.get(why, 0) + len(text)

    def count_pending(self) -> None:
        """Note how much of the text that left as it came has no verdict yet."""
        for channel, coverage in self._coverage.items():
            kinds = coverage.released_unjudged
            kinds.pop("pending", None)
            told = coverage.judged + sum(kinds.values())
            if channel != Channel.MARKUP and coverage.released > told:
                kinds["pending"] = coverage.released - told


def resume_prefix(message: str, thought: str) -> str:
    """The assistant message to go on from: opener, kept text, thought; no trailing whitespace.

    `message` is the text released so far, whose opener may stand outside it: a reasoning parser
    strips it, and some chat templates write it themselves.
    """
    kept = message.rstrip()
    if not kept.lstrip().lower().startswith(OPENER):
        kept = OPENER + ("" if kept.startswith("\n") else "\n") + kept
    return f"{kept.rstrip()}\n{thought}"
