"""Split a reply into reasoning and answer, incrementally, without losing a character.

Theory. Text comes from two wire fields, `reasoning` and `content`. What stands in `reasoning` is
reasoning. What stands in `content` runs through a small state machine, because an upstream without
a reasoning parser leaves `<think>..</think>` inline, and one with a parser sometimes leaks tags:

    START     nothing but whitespace yet          -> INSIDE at an opener, ANSWER at an answer's
                                                     opener, else ANSWER or UNPARSED
    INSIDE    in a think block                    -> AFTER at a closer
    AFTER     behind a closer, whitespace only    -> INSIDE at an opener, else ANSWER
    ANSWER    the rest is answer
    UNPARSED  no opener, and no field told us     -> AFTER at a closer

A `Format` says which texts are openers and closers; the machine is the same for all families. AUTO
knows the openers of every family that has distinctive ones, and goes on with the family it saw.

UNPARSED is text of which we do not know whether it is thinking: nobody opened a block and nobody
separated it. It is never called answer; it is judged as strictly as an answer. Thinking that is not
closed stays reasoning. Only what the model generates counts: prompts are never scanned.

Markup is never judged, so it is only ever a literal of the format, with the few ornaments below.
Blocks do not nest: an opener inside a block is reasoning, and the first closer ends the block, so
that doubtful text is judged as answer. Nothing leads back from ANSWER. In an answer the closer of
its wrapper and each box tag are markup once; a second one is text, because every tag taken out cuts
a step in two.

Tags match in any case. A tag split over deltas is held back until it is decided. Held are: before
an opener under 700 characters (`MAX_INDENT` of whitespace, four ornaments with 64 each, the
opener); elsewhere less than the longest closer, under 40; at the end of a fenced reply the fence
and 64 of whitespace.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

import regex

from monitors.errors import UserError

Source = Literal["read", "seen", "unverified"]
"""How we know: read in the model's or vLLM's source, seen on the wire, or neither."""

MAX_BLOCKS = 16
"""Of thinking, in one reply; every tag cuts a step in two, so whatever follows is answer."""

MAX_INDENT = 256
"""More whitespace than this before an opener, and it is none."""

OPENER, CLOSER = "<think>", "</think>"


class Channel(StrEnum):
    """What a piece of generated text is."""

    REASONING = "reasoning"
    ANSWER = "answer"
    UNPARSED = "unparsed"
    TOOL_CALL = "tool_call"
    MARKUP = "markup"


class WireField(StrEnum):
    """The field of the delta in which a piece came, and leaves again."""

    REASONING = "reasoning"
    CONTENT = "content"


class Mark(Enum):
    """What a piece of markup does."""

    OPEN = "open"
    """It opens thinking."""
    CLOSE = "close"
    """It closes thinking; an answer may follow."""
    OTHER = "other"
    """Neither."""


@dataclass(slots=True)
class Piece:
    """A run of text of one channel and field; pieces in order are the generated text."""

    channel: Channel
    field: WireField
    text: str
    mark: Mark | None = None
    """Of markup."""


# --- formats ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Format:
    """How a family of models writes thinking and answer into one text.

    Texts are literals, in which `{hex}` is eight hexadecimal digits.
    """

    name: str
    opener: str
    """As we write it to open thinking in `content`."""
    closer: str
    """As we write it to close thinking in `content`."""
    openers: tuple[str, ...] = ()
    """Others that open thinking."""
    closers: tuple[str, ...] = ()
    """Others that close it."""
    answers: tuple[tuple[str, str], ...] = ()
    """What may wrap the answer: opener, closer (or empty)."""
    abrupt: bool = False
    """Whether an answer's opener also ends thinking that is still open."""
    boxes: tuple[str, ...] = ()
    """Pure markup in an answer."""
    leads: tuple[str, ...] = ()
    """Pure markup before an opener."""
    label: str = ""
    """May stand right behind an opener, and belongs to it."""
    starts_inside: bool = False
    """The chat template already wrote the opener."""
    separated: bool = False
    """A reasoning parser runs upstream: untagged `content` is answer."""
    known: bool = True
    """False: which family it is, shows in the reply."""
    distinctive: Literal["tags", "openers", "phrases", "no"] = "tags"
    """What of it cannot be ordinary text, so that it is recognised unasked: all tags; openers at
    the start; openers that are plain words, unless a reasoning parser runs upstream; nothing."""
    source: Source = "read"
    note: str = ""

    @property
    def all_openers(self) -> tuple[str, ...]:
        """What opens thinking; the one that we write comes first."""
        return (self.opener, *self.openers)

    @property
    def all_closers(self) -> tuple[str, ...]:
        """What ends thinking; the one that we write comes first."""
        abrupt = (opener for opener, _ in self.answers) if self.abrupt else ()
        return tuple(dict.fromkeys((self.closer, *self.closers, *abrupt)))

    @property
    def inline(self) -> bool:
        """Whether thinking is known to stand in `content`."""
        return self.known and not self.separated

    @property
    def opened(self) -> Format:
        """The same, where the chat template wrote the opener."""
        return FORMATS.get(f"{self.name}-open", self)

    @property
    def parsed(self) -> Format:
        """The same, where a reasoning parser runs upstream."""
        return FORMATS.get(f"{self.name}-separated", SEPARATED)

    def defused(self, text: str) -> str:
        """The text, in which nothing looks like a closer any more."""
        for closer in self.all_closers:
            if closer.lower() in text.lower():
                found = re.compile(re.escape(closer), re.IGNORECASE)
                text = found.sub(defuse, text)
        return text

    @property
    def unopened(self) -> Format:
        """The same, where the chat template wrote no opener."""
        return FORMATS.get(self.name.removesuffix("-open"), self)

    def opens(self, text: str) -> bool:
        """Whether this text begins with thinking in this format."""
        found = _grammar(self).head.match(text, pos=_visible(text, 0))
        return found is not None and found["open"] is not None

    def opens_in(self, text: str) -> bool:
        """Whether an opener stands anywhere in this text."""
        return _grammar(self).opener.search(text) is not None

    def is_open_after(self, prompt: str) -> bool:
        """Whether this text ends with an opener."""
        return _grammar(self).opened.search(prompt) is not None

    def is_empty_at_end(self, prompt: str) -> bool:
        """Whether this text ends with a block around nothing."""
        return _grammar(self).emptied.search(prompt) is not None


def defuse(found: re.Match[str]) -> str:
    """A tag that only looks like one: a word joiner, which nobody sees, behind its bracket."""
    return f"{found[0][0]}\u2060{found[0][1:]}"


_ANSWER = (("<answer>", "</answer>"),)
_HEX = "{hex}"
_HEADINGS = (
    "### Image Description:",
    "### Rationales:",
    "### Let's think step by step.",
    "### Step 1:",
)

AUTO = Format(
    "auto",
    OPENER,
    CLOSER,
    known=False,
    distinctive="no",
    source="seen",
    note="nothing is known: the distinctive tags of every family are recognised",
)
SEPARATED = Format(
    "separated",
    OPENER,
    CLOSER,
    known=False,
    separated=True,
    distinctive="no",
    source="seen",
    note="a reasoning parser runs upstream; tags that leak at the start of content are recognised",
)
THINK = Format("think", OPENER, CLOSER, answers=_ANSWER, source="seen")

FAMILIES = (
    THINK,
    Format(
        "glm",
        OPENER,
        CLOSER,
        answers=_ANSWER,
        boxes=("<|begin_of_box|>", "<|end_of_box|>"),
        note="<think> with boxes in the answer",
    ),
    Format("ernie45", OPENER, CLOSER, answers=(("<response>", "</response>"),)),
    Format(
        "hy",
        OPENER,
        CLOSER,
        openers=(f"<think:{_HEX}>",),
        closers=(f"</think:{_HEX}>",),
        note="checkpoints may add a suffix to the tags, e.g. <think:6124c78e>; only such are known",
    ),
    Format(
        "llava-cot",
        "<REASONING>",
        "</REASONING>",
        openers=("<SUMMARY>", "<CAPTION>"),
        closers=("</SUMMARY>", "</CAPTION>"),
        answers=(("<CONCLUSION>", "</CONCLUSION>"),),
        abrupt=True,
        distinctive="openers",
    ),
    Format(
        "mulberry",
        "### Let's think step by step.",
        "### The final answer is:",
        openers=_HEADINGS,
        distinctive="no",
        note="headings; those inside the thinking are reasoning text",
    ),
    Format(
        "r1-vl",
        OPENER,
        CLOSER,
        openers=_HEADINGS,
        closers=("### The final answer is:",),
        answers=_ANSWER,
        distinctive="no",
        note="either <think> or mulberry's headings",
    ),
    Format(
        "virgo",
        "<|begin_of_thought|>",
        "<|end_of_thought|>",
        answers=(("<|begin_of_solution|>", "<|end_of_solution|>"),),
        source="unverified",
    ),
    Format("kimi-vl", "◁think▷", "◁/think▷", source="unverified"),
    Format(
        "kimi-k3",
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|>",
        answers=(("<|open|>response<|sep|>", "<|close|>response<|sep|>"),),
        abrupt=True,
        boxes=("<|close|>message<|sep|>",),
    ),
    Format("mistral", "[THINK]", "[/THINK]", note="tokenizers from v13; v11 writes <think>"),
    Format(
        "cohere",
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        answers=(
            ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
            ("<|START_TEXT|>", "<|END_TEXT|>"),
        ),
        abrupt=True,
    ),
    Format("gemma4", "<|channel>", "<channel|>", label="thought\n"),
    Format(
        "harmony",
        "<|channel|>analysis<|message|>",
        "<|end|>",
        answers=(
            ("<|channel|>final<|message|>", "<|return|>"),
            ("<|channel|>commentary<|message|>", "<|end|>"),
        ),
        abrupt=True,
        leads=("<|start|>assistant",),
        distinctive="openers",
        note="gpt-oss; inline only where the upstream keeps special tokens",
    ),
    Format(
        "granite",
        "Here is my thought process:",
        "Here is my response:",
        openers=("Here's my thought process:",),
        closers=("Here's my response:",),
        distinctive="phrases",
        note="plain phrases; granite 4.2 writes <think>",
    ),
    Format(
        "k2-horizon",
        "<ifm|think>",
        "</ifm|think>",
        openers=("<ifm|think_fast>", "<ifm|think_faster>"),
        closers=("</ifm|think_fast>", "</ifm|think_faster>"),
    ),
    Format("minimax-m3", "<mm:think>", "</mm:think>"),
    Format("seed-oss", "<seed:think>", "</seed:think>"),
    Format("plamo3", "<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),
    Format(
        "inkling",
        "<|content_thinking|>",
        "<|end_message|>",
        closers=("<|content_model_end_sampling|>",),
        answers=(("<|content_text|>", "<|end_message|>"),),
        abrupt=True,
        leads=("<|message_model|>",),
        distinctive="openers",
        note="thinking behind the first text block is judged as answer",
    ),
    Format(
        "muse-glimmer",
        "to=self<|message|>",
        "<|eom|>",
        answers=(("to=user<|message|>", "<|eot|>"),),
        abrupt=True,
        leads=("<|start|>assistant",),
        distinctive="openers",
    ),
)

"""The first that shares a tag is the one that is recognised by it."""


def _variants(family: Format) -> Iterable[Format]:
    yield family
    yield replace(family, name=f"{family.name}-open", starts_inside=True)
    if family is not THINK:  # whose is SEPARATED
        yield replace(family, name=f"{family.name}-separated", separated=True)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {"auto": AUTO, "separated": SEPARATED}
    | {each.name: each for family in FAMILIES for each in _variants(family)}
)
"""By name; of a family also NAME-open (the chat template writes the opener), NAME-separated."""

THINK_OPEN = FORMATS["think-open"]


def format_named(name: str) -> Format:
    """For an option. Raises UserError."""
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r}; `mlrm-guard formats` lists them")
    return FORMATS[name]


# --- the machine ------------------------------------------------------------------------------


class _State(Enum):
    START = 1
    INSIDE = 2
    AFTER = 3
    ANSWER = 4
    UNPARSED = 5


_CHANNEL = {
    _State.INSIDE: Channel.REASONING,
    _State.ANSWER: Channel.ANSWER,
    _State.UNPARSED: Channel.UNPARSED,
}


class ReplyParser:
    """Incremental parser of one upstream reply: `feed` deltas, get pieces; `close` gives the rest.

    `resumed`: the reply continues an open thought, so inline text starts inside the block.
    """

    __slots__ = (
        "_at",
        "_blocks",
        "_channel",
        "_family",
        "_fenced",
        "_finder",
        "_grammar",
        "_held",
        "_label",
        "_pending",
        "_state",
        "_untagged",
    )

    def __init__(self, format: Format = AUTO, *, resumed: bool = False) -> None:
        self._family = format if format.known else THINK
        self._grammar = _grammar(format)
        self._held = ""
        self._at = 0  # while scanning: up to here it is decided
        self._blocks = 0  # of thinking that have ended
        self._label = ""  # of the opener or closer just passed: markup, if it comes
        self._fenced = False  # the whole reply stands in a fence
        self._pending: tuple[str, ...] = ()  # what is markup in the answer
        self._untagged = _State.ANSWER if format.separated else _State.UNPARSED
        self._state = _State.START
        self._channel: Channel | None = None  # of text without tags; None: depends on what comes
        self._finder = self._grammar.closers  # of what ends that channel
        if format.starts_inside or (resumed and format.known and not format.separated):
            self._enter(_State.INSIDE)

    @property
    def idle(self) -> bool:
        """Whether no text is held back."""
        return not self._held

    @property
    def family(self) -> Format:
        """Whose tags are in force: what was given, or what a tag has shown; THINK until then."""
        return self._family

    def feed(self, reasoning: str, content: str) -> list[Piece]:
        """Add one delta, whose reasoning precedes its content; return the decided pieces."""
        pieces: list[Piece] = []
        if reasoning:
            self._untagged = _State.ANSWER  # somebody separates: untagged content is answer
            if self._held:
                self._interrupt(pieces)
            pieces.append(Piece(Channel.REASONING, WireField.REASONING, reasoning))
        if content:
            channel = self._channel
            if channel and not (self._held or self._label or self._finder.begins(content)):
                pieces.append(Piece(channel, WireField.CONTENT, content))  # most deltas
            else:
                self._held += content
                self._scan(pieces, final=False)
        return pieces

    def close(self) -> list[Piece]:
        """End of the reply: whatever was held back is no tag."""
        pieces: list[Piece] = []
        self._scan(pieces, final=True)
        return pieces

    def _interrupt(self, pieces: list[Piece]) -> None:
        """Text of the other field comes: what is held precedes it, and is no tag."""
        if self._held.isspace() and self._channel is None:
            after = self._state is _State.AFTER or self._untagged is _State.ANSWER
            channel = Channel.ANSWER if after else Channel.UNPARSED
            self._emit(pieces, channel, len(self._held))
        self._scan(pieces, final=True)

    def _scan(self, pieces: list[Piece], *, final: bool) -> None:
        decided = True
        while decided and self._at < len(self._held):
            if self._label and not self._take_label(pieces, final=final):
                break
            match self._state:
                case _State.START | _State.AFTER:
                    decided = self._look_for_opener(pieces, final=final)
                case _State.INSIDE | _State.UNPARSED | _State.ANSWER:
                    decided = self._look_for_end(pieces, final=final)
        self._held, self._at = self._held[self._at :], 0

    def _take_label(self, pieces: list[Piece], *, final: bool) -> bool:
        """Whether it is decided if the label follows its tag."""
        text = self._held[self._at : self._at + len(self._label)].lower()
        if text == self._label:
            self._emit(pieces, Channel.MARKUP, self._at + len(text), Mark.OTHER)
        elif not final and self._label.startswith(text):
            return False
        self._label = ""
        return True

    # --- before thinking or answer --------------------------------------------------------

    def _look_for_opener(self, pieces: list[Piece], *, final: bool) -> bool:
        start = _visible(self._held, self._at)
        if start - self._at <= MAX_INDENT:
            after = self._state is _State.AFTER
            pattern = self._grammar.after if after else self._grammar.head
            found = pattern.match(self._held, pos=start, partial=not final)
            if found is not None and found.partial:
                return False  # whitespace, or the beginning of an opener: wait
            if found is not None:
                self._pass_opener(pieces, found)
                return True
        if self._state is _State.START and self._untagged is _State.UNPARSED:
            self._enter(_State.UNPARSED)
        else:
            self._answer()
        return True

    def _pass_opener(self, pieces: list[Piece], found: regex.Match[str]) -> None:
        groups = found.groupdict()
        self._fenced |= groups["fence"] is not None
        mark = Mark.OTHER
        if groups["open"] is not None:
            mark = Mark.OPEN
            self._recognise(groups["open"])
            self._enter(_State.INSIDE)
            self._label = self._family.label
            if groups["ornate"] is not None:
                self._label = _ORNAMENT
                self._finder = self._grammar.ornate_closers
        elif groups["answer"] is not None:
            self._recognise(groups["answer"])
            self._answer(groups["answer"])
        self._emit(pieces, Channel.MARKUP, found.end(), mark)

    # --- in thinking or answer ------------------------------------------------------------

    def _look_for_end(self, pieces: list[Piece], *, final: bool) -> bool:
        """Find what ends the thinking, or is markup in the answer."""
        channel = self._channel or Channel.UNPARSED
        found = self._finder.find(self._held, self._at, final=final)
        self._emit(pieces, channel, found.start() if found is not None else len(self._held))
        if found is None or found.partial:
            return False
        if channel is not Channel.ANSWER:
            self._pass_closer(pieces, found)
        elif found[0] == _FENCE:
            return self._pass_fence(pieces, found.end(), final=final)
        else:
            self._emit(pieces, Channel.MARKUP, found.end(), Mark.OTHER)
            self._expect(text for text in self._pending if text != found[0].lower())
        return True

    def _pass_closer(self, pieces: list[Piece], found: regex.Match[str]) -> None:
        closer = found[0].removeprefix(_ORNAMENT)
        self._label = _ORNAMENT if closer != found[0] else ""
        self._recognise(closer)
        if closer.lower() in self._grammar.answers:
            self._answer(closer)
        elif (blocks := self._blocks + 1) < MAX_BLOCKS:
            self._blocks = blocks
            self._enter(_State.AFTER)
        else:
            self._answer()
        self._emit(pieces, Channel.MARKUP, found.end(), Mark.CLOSE)

    def _pass_fence(self, pieces: list[Piece], end: int, *, final: bool) -> bool:
        """Only at the reply's end it is the one around the reply."""
        rest = _visible(self._held, end)
        if rest < len(self._held) or rest - end > _MAX_GAP:
            self._emit(pieces, Channel.ANSWER, end)
            return True
        if final:
            self._emit(pieces, Channel.MARKUP, rest, Mark.OTHER)
        return False

    # --- state ----------------------------------------------------------------------------

    def _enter(self, state: _State) -> None:
        self._state = state
        self._channel = _CHANNEL.get(state)
        self._finder = self._grammar.closers

    def _recognise(self, tag: str) -> None:
        if (family := self._grammar.families.get(_key(tag))) is not None:
            self._family, self._grammar = family, _grammar(family)

    def _answer(self, opener: str = "") -> None:
        """The answer begins; `opener` wraps it."""
        self._enter(_State.ANSWER)
        closer = self._grammar.answers.get(opener.lower(), "")
        self._expect((closer, *self._grammar.boxes, _FENCE if self._fenced else ""))

    def _expect(self, texts: Iterable[str]) -> None:
        """What is still markup in the answer."""
        self._pending = tuple(dict.fromkeys(text for text in texts if text))
        self._finder = _finder(self._pending)

    def _emit(
        self, pieces: list[Piece], channel: Channel, end: int, mark: Mark | None = None
    ) -> None:
        """What lies before `end` is decided."""
        if end > self._at:
            text = self._held[self._at : end]
            pieces.append(Piece(channel, WireField.CONTENT, text, mark))
            self._at = end


# --- what a format looks for ------------------------------------------------------------------

_VISIBLE = re.compile(r"\S")
_MAX_GAP = 64  # whitespace behind a lead, or behind the fence at the end
_ORNAMENT = "**"
_FENCE = "\n```"
_HEX_DIGITS = "[0-9a-f]{8}"

# Seen before openers in models that were tuned on safety thoughts.
_STRAYS = ("**Safety Chain of Thought:**", "* *")
_OPENING_FENCE = "```(?:xml|html|markdown|md|text|plaintext)?\n"
# Seen between closer and answer. A blank line tells the rule from a YAML header.
_RULES = r"---[ \t]{0,8}\n[ \t]{0,8}\n|\* \*[ \t]{0,8}\n|\*\*[ \t]{0,8}\n"
_FLAGS = regex.IGNORECASE | regex.ASCII


def _visible(text: str, at: int) -> int:
    visible = _VISIBLE.search(text, at)
    return visible.start() if visible else len(text)


@dataclass(slots=True, frozen=True)
class _Finder:
    """Finds the first of some literals; most deltas hold no character that begins one."""

    begins: Callable[[str], object | None]
    pattern: regex.Pattern[str]

    def find(self, text: str, at: int, *, final: bool) -> regex.Match[str] | None:
        """The first, or the beginning of one at the end of the text (`partial`)."""
        return self.pattern.search(text, pos=at, partial=not final)


@dataclass(slots=True, frozen=True)
class _Grammar:
    """A format, ready for use. `families` and `answers` are by literal, in lower case."""

    head: regex.Pattern[str]
    after: regex.Pattern[str]
    opener: regex.Pattern[str]
    opened: regex.Pattern[str]
    emptied: regex.Pattern[str]
    closers: _Finder
    ornate_closers: _Finder
    answers: Mapping[str, str]
    boxes: tuple[str, ...]
    families: Mapping[str, Format]


@lru_cache(maxsize=128)
def _grammar(format: Format) -> _Grammar:
    if format.known:
        opening: tuple[Format, ...] = (format,)
        closing = opening
        families: dict[str, Format] = {}
    else:
        never = ("no", "phrases") if format.separated else ("no",)
        opening = tuple(family for family in FAMILIES if family.distinctive not in never)
        closing = tuple(family for family in opening if family.distinctive == "tags")
        families = _families(opening, closing)
    closers = tuple(dict.fromkeys(text for family in closing for text in family.all_closers))
    head = _head(opening)
    openers = _any_of(text for family in opening for text in family.all_openers)
    opener = f"(?:{openers})(?:{re.escape(format.label)})?"
    return _Grammar(
        head=regex.compile(head, _FLAGS),
        after=regex.compile(f"{head}|(?P<rule>{_RULES})", _FLAGS),
        opener=regex.compile(opener, _FLAGS),
        opened=regex.compile(rf"{opener}\s*\Z", _FLAGS),
        emptied=regex.compile(rf"{opener}\s*(?:{_any_of(closers)})\s*\Z", _FLAGS),
        closers=_finder(closers),
        ornate_closers=_finder((*(_ORNAMENT + text for text in closers), *closers)),
        answers={opener.lower(): closer.lower() for opener, closer in format.answers},
        boxes=tuple(text.lower() for text in format.boxes),
        families=families,
    )


def _families(opening: Iterable[Format], closing: Iterable[Format]) -> dict[str, Format]:
    """Whose literal it is; where families share one, the first."""
    families: dict[str, Format] = {}
    for family in opening:
        for text in (*family.all_openers, *(opener for opener, _ in family.answers)):
            families.setdefault(text.lower(), family)
    for family in closing:
        for text in family.all_closers:
            families.setdefault(text.lower(), family)
    return families


def _head(families: tuple[Format, ...]) -> str:
    """Leads, and what opens the thinking or the answer."""
    leads = _any_of(text for family in families for text in (*family.leads, *_STRAYS))
    openers = _any_of(text for family in families for text in family.all_openers)
    answers = _any_of(text for family in families for text, _ in family.answers)
    return (
        rf"(?:(?:{leads}|(?P<fence>{_OPENING_FENCE}))\s{{0,{_MAX_GAP}}}){{0,4}}"
        rf"(?:(?P<ornate>\*\*)?(?P<open>{openers})|(?P<answer>{answers or '(?!)'}))"
    )


@lru_cache(maxsize=256)
def _finder(texts: tuple[str, ...]) -> _Finder:
    if not texts:
        return _Finder(lambda text: None, regex.compile("(?!)"))
    first = {char for text in texts for char in (text[0].lower(), text[0].upper())}
    begins = re.compile("|".join(map(re.escape, sorted(first))))
    return _Finder(begins.search, regex.compile(_any_of(texts), _FLAGS))


def _any_of(texts: Iterable[str]) -> str:
    """A pattern of these literals, the earlier first."""
    escaped = (re.escape(text) for text in dict.fromkeys(texts))
    return "|".join(text.replace(re.escape(_HEX), _HEX_DIGITS) for text in escaped)


def _key(tag: str) -> str:
    """The literal that this text matched, in lower case."""
    return re.sub(f":{_HEX_DIGITS}>", f":{_HEX}>", tag.lower())
