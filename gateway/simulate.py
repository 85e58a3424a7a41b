"""The simulated MLRM: recorded traces replayed on vLLM 0.32's wire, for demo, tests and benchmarks.

A reply is planned before its first byte: the script (what the model would write, told from the
messages alone, so that the server keeps no state), its tokens, the cuts by `stop` and `max_tokens`,
the deltas. What remains is to send deltas at their deadlines until all are sent or the client left.

What a resumed thought goes on with is derived from its text: the stretches that come from the trace
are found again, and what stands behind the last of them is a safety thought. Quirks of the real
server that a guard must live with are kept, each where it is coded.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monitors.errors import TraceError, UserError
from monitors.trace import Trace, read_traces

VLLM_VERSION = "0.32.0"
DEMO_TRACES = Path(__file__).with_name("data") / "demo-traces.jsonl"

ReasoningField = Literal["reasoning", "reasoning_content", "inline"]
Chunking = Literal["token", "random", "whole"]
Channel = Literal["reasoning", "content", "tag"]

OPENER, CLOSER = "<think>", "</think>"
EMPTY_THINK = f"{OPENER}\n\n{CLOSER}\n\n"

_SAFE_THOUGHT = (
    "I should look at what this could do to other people. "
    "Helping with it could hurt someone, so I will not go on with it. "
    "I will say so briefly and offer something safe instead."
)
_SAFE_ANSWER = "I can't help with that. I am glad to help with a safe alternative."
_UNKNOWN = Trace(
    id="unknown",
    prompt="",
    reasoning=(
        "The user asks me something. "
        "I am a simulated model, and all I can do is replay recorded traces. "
        "I have looked for this request among them. "
        "None of the traces I was started with begins with it. "
        "The honest reply is to say just that."
    ),
    answer="This is a simulated model. It knows no recorded trace for this request.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """How the simulated model behaves.

    `tokens_per_second` 0 is as fast as possible. `template_kwarg` names the chat-template argument
    that holds a thought to continue (None: the template has none, and vLLM ignores it).
    `wrap_empty_think` renders a continued thought behind an empty one, as Qwen3's template does.
    """

    model: str = "simulated-mlrm"
    tokens_per_second: float = 0.0
    reasoning_field: ReasoningField = "reasoning"
    chunking: Chunking = "token"
    seed: int = 0
    ignore_correction: float = 0.0
    strict_model: bool = False
    max_model_len: int = 32_768
    template_kwarg: str | None = None
    wrap_empty_think: bool = False

    @property
    def inline(self) -> bool:
        """Whether the server runs without a reasoning parser."""
        return self.reasoning_field == "inline"


# --- requests ---


class _RequestError(Exception):
    """A request that vLLM answers with an error."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        kind: str = "BadRequestError",
        status: int = 400,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class _StreamOptions(BaseModel):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class _Prompt(BaseModel):
    """What the chat template reads."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    messages: list[dict[str, Any]]
    model: str | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class _Chat(_Prompt):
    """The fields of a chat request that this server heeds; it accepts all others, as vLLM does."""

    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    n: int | None = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool = False
    include_reasoning: bool = True
    return_prompt_text: bool | None = False

    @property
    def stops(self) -> list[str]:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in stop if text]

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class _Tokenize(_Prompt):
    messages: list[dict[str, Any]] = Field(default_factory=list)
    prompt: str | None = None
    return_token_strs: bool | None = False


_Body = TypeVar("_Body", bound=BaseModel)


async def _parsed(request: Request, model: type[_Body]) -> _Body:
    """The body as `model`; errors read as vLLM words them."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        allowed = (
            "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        )
        raise _RequestError(allowed, kind="Bad Request")
    try:
        body = json.loads(await request.body())
    except json.JSONDecodeError as error:
        where = f"body.{error.pos}"
        detail: dict[str, Any] = {"type": "json_invalid", "loc": where, "msg": "JSON decode error"}
        detail |= {"input": "<dict of 0 items>", "ctx": {"error": error.msg}}
        raise _RequestError(_one_error(detail), param=where, kind="Bad Request") from None
    except UnicodeDecodeError:
        raise _RequestError("There was an error parsing the body", kind="Bad Request") from None
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(["body", *map(str, first["loc"])])
        shown = f"<{type(first['input']).__name__}>"
        if isinstance(first["input"], dict | list):
            shown = f"<{type(first['input']).__name__} of {len(first['input'])} items>"
        detail = {"type": first["type"], "loc": where, "msg": first["msg"], "input": shown}
        raise _RequestError(_one_error(detail), param=where, kind="Bad Request") from None


def _one_error(detail: dict[str, Any]) -> str:
    return f"1 validation error:\n  {detail}"


def _check_prompt(prompt: _Prompt, options: SimulatorOptions) -> None:
    if options.strict_model and prompt.model not in (None, options.model):
        message = f"The model `{prompt.model}` does not exist. Valid aliases: {options.model}."
        raise _RequestError(message, param="model", kind="NotFoundError", status=404)
    if prompt.continue_final_message and prompt.add_generation_prompt:
        raise _RequestError(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        )
    if prompt.chat_template is not None:
        raise _RequestError(
            "Chat template is passed with request, but --trust-request-chat-template is not set. "
            "Refused request with untrusted chat template."
        )


def _check_chat(chat: _Chat, options: SimulatorOptions) -> None:
    _check_prompt(chat, options)
    if chat.stream_options and not chat.stream:
        raise _RequestError("Stream options can only be defined when `stream=True`.")
    if chat.temperature is not None and chat.temperature < 0:
        _refuse_value(
            "temperature", chat.temperature, f"must be non-negative, got {chat.temperature}."
        )
    if chat.n not in (None, 1):
        _refuse_value("n", chat.n, f"must be 1 for a simulated model, got {chat.n}.")
    limit, longest = chat.limit, options.max_model_len
    if limit is not None and limit < 1:
        _refuse_value("max_tokens", limit, f"must be at least 1, got {limit}.")
    if limit is not None and limit > longest:
        raise _RequestError(
            f"max_tokens={limit} cannot be greater than max_model_len={longest}. Please request "
            f"fewer output tokens. (parameter=max_tokens, value={limit})",
            param="max_tokens",
        )


def _refuse_value(name: str, value: object, problem: str) -> None:
    raise _RequestError(f"{name} {problem} (parameter={name}, value={value})", param=name)


# --- chat template ---


def _text(content: object, image: str = "") -> str:
    """The text of a message's content, string or parts; `image` stands for each image."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    parts = [part for part in content if isinstance(part, dict)]
    return "".join(str(part["text"]) if "text" in part else image for part in parts)


def _continued(prompt: _Prompt, options: SimulatorOptions) -> str | None:
    """The assistant text that generation goes on from; None for a new turn."""
    kwargs = prompt.chat_template_kwargs or {}
    if options.template_kwarg is not None and options.template_kwarg in kwargs:
        return f"{OPENER}\n{kwargs[options.template_kwarg]}"
    if not prompt.continue_final_message or not prompt.messages:
        return None
    last = prompt.messages[-1]
    if last.get("role") != "assistant":
        return None
    text, reasoning = _text(last.get("content")), last.get("reasoning")
    # the template closes a thought that comes in the field: it cannot be continued that way
    return f"{OPENER}\n{reasoning}\n{CLOSER}\n\n{text}" if reasoning else text


def _render(prompt: _Prompt, options: SimulatorOptions) -> str:
    """The prompt as the model sees it, ChatML; it ends with the continued text, exactly."""
    prefix = _continued(prompt, options)
    final = prefix is not None and prompt.continue_final_message
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    rendered = "".join(
        f"<|im_start|>{message.get('role')}\n{_text(message.get('content'), image)}<|im_end|>\n"
        for message in (prompt.messages[:-1] if final else prompt.messages)
    )
    if prefix is None and not prompt.add_generation_prompt:
        return rendered
    rendered += "<|im_start|>assistant\n"
    if prefix is None:
        return rendered + (EMPTY_THINK if _no_thinking(prompt) else "")
    wrapped = options.wrap_empty_think and final and prefix.startswith(OPENER)
    return rendered + (EMPTY_THINK if wrapped else "") + prefix


def _no_thinking(prompt: _Prompt) -> bool:
    return (prompt.chat_template_kwargs or {}).get("enable_thinking") is False


def _last_user(messages: list[dict[str, Any]]) -> int:
    """Index of the last user message, -1 without one."""
    users = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    return users[-1] if users else -1


# --- scripts ---


class _Script(NamedTuple):
    """One way a generation can go: thought, then answer."""

    thought: str
    answer: str


class _Part(NamedTuple):
    """Text of one channel: a segment of the script, or a token."""

    channel: Channel
    text: str


def _recorded(trace: Trace) -> _Script:
    return _Script(trace.reasoning or "", trace.answer or "")


def _corrected(trace: Trace) -> _Script:
    if trace.safe_continuation is None:
        return _Script(_SAFE_THOUGHT, _SAFE_ANSWER)
    thought, _, answer = trace.safe_continuation.partition(CLOSER)
    return _Script(thought.strip(), answer.strip() or _SAFE_ANSWER)


_SENTENCE_END = re.compile(r"""[.!?…]["'’”)\]*_]*(?=\s|$)|[。！？।؟]|[^\n](?=\n)""")
_ANCHOR = 24
"""Characters by which a stretch of a script is found again behind a safety thought ..."""
_MIN_ANCHOR = 12
"""... and how few may be left of a script for that: fewer are found by accident."""


def _common(one: str, other: str) -> int:
    """Length of the longest common prefix."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


def _sentence_end(text: str, limit: int) -> int:
    """The last sentence end up to `limit`: a safety thought may begin like the text it replaces."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return max((end for end in ends if end <= limit), default=0)


class _Stand(NamedTuple):
    """Where a thought stands in the two scripts' thoughts, and whether a safety one came last."""

    recorded_at: int
    safe_at: int
    on_safe: bool
    thought_added: bool


def _stand(text: str, recorded: str, safe: str) -> _Stand:
    """Find the stretches of `text` that the model wrote, in order; the rest are safety thoughts."""
    scripts, at, on = (recorded, safe), [0, 0], 0
    begin, index, rest = 0, 0, text
    while True:
        same = _common(rest[index:], scripts[on][begin:])
        at[on], rest = begin + same, rest[index + same :]
        if not rest.strip():
            return _Stand(at[0], at[1], bool(on), thought_added=False)
        at[on] = max(begin, _sentence_end(scripts[on], at[on]))
        found = []
        for which, script in enumerate(scripts):
            left = script[at[which] :].lstrip()
            if len(left) >= _MIN_ANCHOR and (hit := rest.find(left[:_ANCHOR])) >= 0:
                found.append((hit, which, len(script) - len(left)))
        if not found:
            return _Stand(at[0], at[1], bool(on), thought_added=True)
        index, on, begin = min(found)


class _Author:
    """Writes what the model says in reply to one request."""

    def __init__(self, trace: Trace, *, ignores: bool) -> None:
        self._scripts = (_recorded(trace), _corrected(trace))
        self._ignores = ignores  # this request's draw of `ignore_correction`

    def begin(self, *, corrected: bool, thinking: bool) -> list[_Part]:
        """A new turn; `corrected` when a system message told the model to think again."""
        script = self._scripts[corrected and not self._ignores]
        if not thinking or not script.thought:
            return [_Part("content", script.answer)]
        return [_Part("tag", OPENER), *self._thinking(script.thought, script.answer)]

    def resume(self, prefix: str) -> list[_Part]:
        """Go on from `prefix`: an open thought, or a closed one or none and some answer."""
        closed_at = prefix.rfind(CLOSER)
        if closed_at < 0 and OPENER not in prefix:
            return self._answer(prefix, on_safe=False)
        if closed_at > prefix.rfind(OPENER):
            stand = self._find(prefix[:closed_at])
            return self._answer(prefix[closed_at + len(CLOSER) :], on_safe=self._goes_safe(stand))
        stand = self._find(prefix)
        goes_safe = self._goes_safe(stand)
        script = self._scripts[goes_safe]
        lead = script.thought if goes_safe else script.thought.lstrip()
        rest = lead[stand.safe_at if goes_safe else stand.recorded_at :]
        return self._thinking(_joined(prefix, rest, new=stand.thought_added), script.answer)

    def _find(self, prefix: str) -> _Stand:
        thought = prefix.replace(OPENER, "").replace(CLOSER, "").lstrip()
        recorded, safe = self._scripts
        return _stand(thought, recorded.thought.lstrip(), safe.thought)

    def _goes_safe(self, stand: _Stand) -> bool:
        return not self._ignores if stand.thought_added else stand.on_safe

    def _answer(self, begun: str, *, on_safe: bool) -> list[_Part]:
        """The rest of an answer that has begun, of the script that it fits best."""
        begun = begun.lstrip()
        likely = [self._scripts[on_safe].answer, self._scripts[not on_safe].answer]
        same, answer = max(((_common(begun, text), text) for text in likely), key=lambda it: it[0])
        added = bool(begun[same:].strip())
        if added and not self._ignores:
            same, answer = 0, self._scripts[True].answer
        return [_Part("content", _joined(begun, answer[same:], new=added))]

    @staticmethod
    def _thinking(thought: str, answer: str) -> list[_Part]:
        parts = [
            _Part("reasoning", thought),
            _Part("tag", CLOSER),
            _Part("content", answer),
        ]
        return [part for part in parts if part.text]


def _joined(before: str, text: str, *, new: bool) -> str:
    """`text` as it goes on from `before`: no second space, and one before a new sentence."""
    if not before or before[-1].isspace():
        return text.lstrip()
    return f" {text.lstrip()}" if new and text else text


_SAFETY_THOUGHT = re.compile(
    r"^\s*(?:Wait|Hold on|Moment|Un momento|Attends|等等)[.,:。，]"
    r"|\b(?:I|[Ll]et me)\b.*\b(?:safe|unsafe|safely|safety|harm\w*|dangerous|refuse)\b",
    re.DOTALL | re.MULTILINE,
)


def _restarted(messages: list[dict[str, Any]]) -> bool:
    """Whether a system message carries a safety thought for the turn to come.

    It does behind the last user message, and right before it unless it opens the conversation:
    there it is the application's own, unless it interrupts itself or thinks of safety as "I".
    """
    last_user = _last_user(messages)
    for index, message in enumerate(messages):
        if message.get("role") not in ("system", "developer"):
            continue
        if index > last_user or (index == last_user - 1 and index > 0):
            return True
        if _SAFETY_THOUGHT.search(_text(message.get("content"))):
            return True
    return False


# --- tokens and deltas ---

_TOKEN = re.compile(
    rf"{OPENER}|{CLOSER}| ?[\u3040-\u30ff\u4e00-\u9fff]| ?\w{{1,16}}| ?[^\w\s]|\s+?(?= ?\S)|\s+"
)


class _Delta(NamedTuple):
    """What one chunk carries, and how many tokens the model has generated with it."""

    reasoning: str
    content: str
    tokens: int
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class _Reply:
    """A planned reply; the end-of-turn token counts among `tokens`."""

    deltas: list[_Delta]
    tokens: int
    reasoning_tokens: int
    finish_reason: Literal["stop", "length"]
    stop_reason: str | None
    prompt_text: str
    prompt_tokens: int


def _inlined(segments: list[_Part]) -> list[_Part]:
    """The raw text, as a server without reasoning parser passes it on."""
    tags = {OPENER: f"{OPENER}\n", CLOSER: f"\n{CLOSER}\n\n"}
    return [_Part("content", "".join(tags.get(part.text, part.text) for part in segments))]


def _tokenized(segments: Iterable[_Part]) -> list[_Part]:
    return [
        _Part(segment.channel, text)
        for segment in segments
        for text in _TOKEN.findall(segment.text)
    ]


def _stopped(
    tokens: list[_Part], stops: list[str], *, include: bool
) -> tuple[list[_Part], str | None]:
    """Cut at the first stop string, in any channel and across them; a cut tag is gone."""
    raw = "".join(token.text for token in tokens)
    hits = [(raw.find(stop), index) for index, stop in enumerate(stops) if stop in raw]
    if not hits:
        return tokens, None
    start, index = min(hits)
    end = start + (len(stops[index]) if include else 0)
    kept: list[_Part] = []
    for token in tokens:
        if end <= 0:
            break
        if token.channel != "tag" or len(token.text) <= end:
            kept.append(_Part(token.channel, token.text[:end]))
        end -= len(token.text)
    return kept, stops[index]


def _token_deltas(tokens: list[_Part]) -> list[_Delta]:
    """One delta per token; tags are seen only in the counts."""
    deltas: list[_Delta] = []
    thinking = 0
    for count, token in enumerate(tokens, start=1):
        thinking += token.channel == "reasoning"
        if token.channel == "reasoning":
            deltas.append(_Delta(token.text, "", count, thinking))
        elif token.channel == "content":
            deltas.append(_Delta("", token.text, count, thinking))
    return deltas


def _merged(deltas: Iterable[_Delta]) -> _Delta:
    parts = list(deltas)
    reasoning, content = ("".join(texts) for texts in list(zip(*parts, strict=True))[:2])
    return _Delta(reasoning, content, parts[-1].tokens, parts[-1].reasoning_tokens)


def _characters(deltas: list[_Delta]) -> list[_Delta]:
    return [
        _Delta(char if delta.reasoning else "", char if delta.content else "", *delta[2:])
        for delta in deltas
        for char in delta.reasoning or delta.content
    ]


def _random_deltas(deltas: list[_Delta], rng: random.Random) -> list[_Delta]:
    """Pieces of 1 to 12 characters; one may hold both channels, as in vLLM."""
    characters = _characters(deltas)
    pieces, position = [], 0
    while position < len(characters):
        size = rng.randint(1, 12)
        pieces.append(_merged(characters[position : position + size]))
        position += size
    return pieces


def _held_back(deltas: list[_Delta], hold: int, total: int) -> list[_Delta]:
    """vLLM keeps back what could begin a stop string; it comes with the last of `total` tokens."""
    characters = _characters(deltas)
    pieces, sent, seen = [], 0, 0
    for delta in deltas:
        seen += len(delta.reasoning or delta.content)
        if seen - hold > sent:
            piece = _merged(characters[sent : seen - hold])
            pieces.append(piece._replace(tokens=delta.tokens))
            sent = seen - hold
    if sent < seen:
        pieces.append(_merged(characters[sent:])._replace(tokens=total))
    return pieces


def _by_channel(deltas: list[_Delta]) -> list[_Delta]:
    return [_merged(run) for _, run in groupby(deltas, key=lambda delta: bool(delta.reasoning))]


class _Model:
    """The simulated model: traces and options in, planned replies out."""

    def __init__(self, traces: Iterable[Trace], options: SimulatorOptions) -> None:
        self._options = options
        self._traces: dict[str, Trace] = {}
        for trace in traces:
            self._traces.setdefault(trace.prompt.strip(), trace)

    def reply(self, chat: _Chat) -> _Reply:
        """Plan the reply to a request. Raises `_RequestError` when the prompt is too long."""
        options = self._options
        prompt_text = _render(chat, options)
        prompt_tokens = len(_TOKEN.findall(prompt_text))
        room = options.max_model_len - prompt_tokens
        if room < 1:
            self._refuse_length(prompt_tokens)
        rng = self._rng(chat)
        tokens = _tokenized(self._segments(chat, rng))
        limit = min(room, chat.limit or room)
        kept, stop = _stopped(tokens[:limit], chat.stops, include=chat.include_stop_str_in_output)
        ended = stop is None and len(tokens) < limit
        total = len(kept) + ended
        return _Reply(
            deltas=self._chunked(_token_deltas(kept), chat, rng, total),
            tokens=total,
            reasoning_tokens=sum(token.channel == "reasoning" for token in kept),
            finish_reason="stop" if ended or stop is not None else "length",
            stop_reason=stop,
            prompt_text=prompt_text,
            prompt_tokens=prompt_tokens,
        )

    def _chunked(
        self, deltas: list[_Delta], chat: _Chat, rng: random.Random, total: int
    ) -> list[_Delta]:
        if self._options.chunking == "random":
            return _random_deltas(deltas, rng)
        if self._options.chunking == "whole":
            return _by_channel(deltas)
        if chat.stops and not chat.include_stop_str_in_output:
            return _held_back(deltas, max(map(len, chat.stops)) - 1, total)
        return deltas

    def _refuse_length(self, tokens: int) -> None:
        raise _RequestError(
            f"This model's maximum context length is {self._options.max_model_len} tokens. "
            f"However, your prompt contains at least {tokens} input tokens, which exceeds this "
            "limit even without any output tokens. Please reduce the length of the input prompt. "
            f"(parameter=input_tokens, value={tokens})",
            param="input_tokens",
        )

    def _rng(self, chat: _Chat) -> random.Random:
        """Randomness of one request: a function of it, whatever else the server does meanwhile."""
        key = json.dumps([self._options.seed, chat.seed, chat.messages, chat.chat_template_kwargs])
        return random.Random(key)  # noqa: S311 - repeatable, not secret

    def _segments(self, chat: _Chat, rng: random.Random) -> list[_Part]:
        last_user = _last_user(chat.messages)
        asked = _text(chat.messages[last_user].get("content")) if last_user >= 0 else ""
        trace = self._traces.get(asked.strip(), _UNKNOWN)
        author = _Author(trace, ignores=rng.random() < self._options.ignore_correction)
        prefix = _continued(chat, self._options)
        if prefix is None:
            thinking = not _no_thinking(chat)
            segments = author.begin(corrected=_restarted(chat.messages), thinking=thinking)
        else:
            segments = author.resume(prefix)
        if self._options.inline:
            return _inlined(segments)
        if prefix is not None and _misread(chat, prefix, segments):
            return [_Part("reasoning", part.text) for part in segments]
        return segments


def _misread(chat: _Chat, prefix: str, segments: list[_Part]) -> bool:
    """Whether vLLM reports a continued answer as reasoning: without tags, or when unstreamed."""
    if not chat.continue_final_message or any(part.channel == "tag" for part in segments):
        return False
    return not chat.stream or CLOSER not in prefix


# --- wire ---


@dataclass(slots=True)
class _Meter:
    """What /metrics tells."""

    running: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0})

    @contextmanager
    def request(self, reply: _Reply) -> Iterator[None]:
        """Count a request as running; vLLM counts an aborted one nowhere else."""
        self.running += 1
        self.prompt_tokens += reply.prompt_tokens
        try:
            yield
            self.finished[reply.finish_reason] += 1
        finally:
            self.running -= 1

    def exposition(self, model: str) -> str:
        """The Prometheus text."""
        labels = f'engine="0",model_name="{model}"'
        by_reason = {
            f'engine="0",finished_reason="{reason}",model_name="{model}"': count
            for reason, count in self.finished.items()
        }
        rows: list[tuple[str, str, dict[str, int]]] = [
            ("num_requests_running", "gauge", {labels: self.running}),
            ("num_requests_waiting", "gauge", {labels: 0}),
            ("prompt_tokens_total", "counter", {labels: self.prompt_tokens}),
            ("generation_tokens_total", "counter", {labels: self.generation_tokens}),
            ("request_success_total", "counter", by_reason),
        ]
        lines: list[str] = []
        for name, kind, samples in rows:
            lines.append(f"# TYPE vllm:{name} {kind}")
            lines += [f"vllm:{name}{{{label}}} {float(value)}" for label, value in samples.items()]
        return "\n".join(lines) + "\n"


class _Pace:
    """Holds a generation to its speed by absolute deadlines: lateness does not add up."""

    def __init__(self, tokens_per_second: float, meter: _Meter) -> None:
        self._rate, self._meter = tokens_per_second, meter
        self._clock = asyncio.get_running_loop().time
        self._start, self._reached = self._clock(), 0

    async def reach(self, tokens: int) -> None:
        """Return when the model has generated so many tokens."""
        late = self._clock() - self._start
        await asyncio.sleep(max(0.0, tokens / self._rate - late) if self._rate else 0.0)
        self._meter.generation_tokens += tokens - self._reached
        self._reached = tokens


class _Wire:
    """Writes one reply as vLLM does: the keys of each event, in its order."""

    def __init__(self, chat: _Chat, reply: _Reply, options: SimulatorOptions, name: str) -> None:
        self._chat, self._reply, self._options = chat, reply, options
        self._id, self._created = f"chatcmpl-{name}", int(time.time())
        stream_options = chat.stream_options or _StreamOptions()
        self._usage = bool(stream_options.include_usage)
        self._continuous = self._usage and bool(stream_options.continuous_usage_stats)
        self._fingerprint = {"system_fingerprint": f"vllm-{VLLM_VERSION}-{options.seed:08x}"}
        self._prompt = {
            "prompt_token_ids": None,
            "prompt_text": reply.prompt_text if chat.return_prompt_text else None,
        }

    def _envelope(self, kind: str) -> dict[str, Any]:
        model = self._chat.model or self._options.model
        return {"id": self._id, "object": kind, "created": self._created, "model": model}

    def _count(self, tokens: int, reasoning: int, **prompt_details: object) -> dict[str, Any]:
        prompt = self._reply.prompt_tokens
        counts: dict[str, Any] = {"prompt_tokens": prompt, "total_tokens": prompt + tokens}
        counts["completion_tokens"] = tokens
        if prompt_details:
            counts["prompt_tokens_details"] = prompt_details
        if not self._options.inline:
            counts["completion_tokens_details"] = {"reasoning_tokens": reasoning}
        return counts

    def _chunk(
        self, choice: dict[str, Any] | None, usage: dict[str, Any] | None, **more: object
    ) -> bytes:
        chunk = self._envelope("chat.completion.chunk")
        chunk["choices"] = [] if choice is None else [{"index": 0} | choice]
        if usage is not None:
            chunk["usage"] = usage
        return b"data: " + _json(chunk | more) + b"\n\n"

    def _running_usage(self, delta: _Delta) -> dict[str, Any] | None:
        return self._count(delta.tokens, delta.reasoning_tokens) if self._continuous else None

    def first(self) -> bytes:
        """The role chunk."""
        choice = {
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return self._chunk(choice, self._running_usage(_Delta("", "", 0, 0)), **self._prompt)

    def text(self, delta: _Delta) -> bytes:
        """A chunk of text; nothing where the request hides the reasoning and it is all there is."""
        said = self._said(delta)
        if not said:
            return b""
        choice = {"delta": said, "logprobs": None, "finish_reason": None, "token_ids": None}
        return self._chunk(choice, self._running_usage(delta))

    def _said(self, delta: _Delta) -> dict[str, str | None]:
        said: dict[str, str | None] = {"content": delta.content} if delta.content else {}
        if self._options.inline:
            return said
        name = self._options.reasoning_field
        if not self._chat.include_reasoning:
            return said | {name: None} if said else {}
        return said | ({name: delta.reasoning} if delta.reasoning else {})

    def last(self, delta: _Delta) -> Iterator[bytes]:
        """The finish chunk, the usage chunk if wanted, and the end."""
        choice = {
            "delta": self._said(delta),
            "logprobs": None,
            "finish_reason": self._reply.finish_reason,
            "stop_reason": self._reply.stop_reason,
            "token_ids": None,
        }
        # the fingerprint stands on the very last chunk
        yield self._chunk(
            choice, self._running_usage(delta), **({} if self._usage else self._fingerprint)
        )
        if self._usage:
            total = self._count(
                self._reply.tokens,
                self._reply.reasoning_tokens,
                cached_tokens=0,
                created_cache_tokens=0,
            )
            yield self._chunk(None, total, **self._fingerprint)
        yield b"data: [DONE]\n\n"

    def split(self) -> tuple[list[_Delta], _Delta]:
        """The deltas that go before the finish chunk, and what rides on it."""
        reply = self._reply
        deltas = reply.deltas
        if deltas and deltas[-1].tokens == reply.tokens:
            return deltas[:-1], deltas[-1]
        return deltas, _Delta("", "", reply.tokens, reply.reasoning_tokens)

    def whole(self) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        reply, options = self._reply, self._options
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(delta.content for delta in reply.deltas) or None,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
        }
        reasoning = "".join(delta.reasoning for delta in reply.deltas) or None
        name = "reasoning" if options.inline else options.reasoning_field
        message[name] = reasoning if self._chat.include_reasoning else None
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": reply.finish_reason,
            "stop_reason": reply.stop_reason,
            "token_ids": None,
            "routed_experts": None,
        }
        details = {"cached_tokens": 0, "created_cache_tokens": 0, "multimodal_tokens": None}
        usage = {"completion_tokens_details": None}
        usage |= self._count(reply.tokens, reply.reasoning_tokens, **details)
        return (
            self._envelope("chat.completion")
            | {"choices": [choice], "service_tier": None}
            | self._fingerprint
            | {"usage": usage, "prompt_logprobs": None}
            | self._prompt
            | {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
        )


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


class _Generation(Response):
    """The response to a chat request: generates while the client listens, and no longer."""

    def __init__(
        self, chat: _Chat, reply: _Reply, wire: _Wire, meter: _Meter, tokens_per_second: float
    ) -> None:
        super().__init__()
        self._chat, self._reply, self._wire = chat, reply, wire
        self._meter, self._rate = meter, tokens_per_second

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = self._stream(send) if self._chat.stream else self._answer(scope, receive, send)
        async with asyncio.TaskGroup() as group:
            worker = group.create_task(work)
            watcher = group.create_task(_cancel_when_gone(receive, worker))
            worker.add_done_callback(lambda _: watcher.cancel())

    async def _stream(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        with self._meter.request(self._reply):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _send(send, self._wire.first())
            pace = _Pace(self._rate, self._meter)
            deltas, final = self._wire.split()
            for delta in deltas:
                await pace.reach(delta.tokens)
                await _send(send, self._wire.text(delta))
            await pace.reach(self._reply.tokens)
        for event in self._wire.last(final):
            await _send(send, event)
        await send({"type": "http.response.body", "body": b""})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._meter.request(self._reply):
            pace = _Pace(self._rate, self._meter)
            for delta in self._reply.deltas:
                await pace.reach(delta.tokens)
            await pace.reach(self._reply.tokens)
        reply = Response(_json(self._wire.whole()), media_type="application/json")
        await reply(scope, receive, send)


async def _send(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _cancel_when_gone(receive: Receive, worker: asyncio.Task[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    worker.cancel()


# --- server ---


class _Headers:
    """Sets the response headers that vLLM always sends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get("x-request-id") or uuid.uuid4().hex

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["vary"], headers["x-request-id"] = "Origin", request_id
            await send(message)

        await self._app(scope, receive, sent)


class _Server:
    """The endpoints."""

    def __init__(self, traces: Iterable[Trace], options: SimulatorOptions) -> None:
        self._options, self._model = options, _Model(traces, options)
        self._meter, self._started = _Meter(), int(time.time())

    async def chat(self, request: Request) -> Response:
        chat = await _parsed(request, _Chat)
        _check_chat(chat, self._options)
        reply = self._model.reply(chat)
        name = request.headers.get("x-request-id") or uuid.uuid4().hex[:16]
        wire = _Wire(chat, reply, self._options, name)
        return _Generation(chat, reply, wire, self._meter, self._options.tokens_per_second)

    async def tokenize(self, request: Request) -> Response:
        body = await _parsed(request, _Tokenize)
        _check_prompt(body, self._options)
        tokens = _TOKEN.findall(
            _render(body, self._options) if body.prompt is None else body.prompt
        )
        return JSONResponse(
            {
                "count": len(tokens),
                "max_model_len": self._options.max_model_len,
                "tokens": [zlib.crc32(token.encode(errors="replace")) % 50_000 for token in tokens],
                "token_strs": tokens if body.return_token_strs else None,
            }
        )

    async def models(self, _: Request) -> Response:
        permission = {
            "id": f"modelperm-{self._options.seed:016x}",
            "object": "model_permission",
            "created": self._started,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        model = {
            "id": self._options.model,
            "object": "model",
            "created": self._started,
            "owned_by": "vllm",
            "root": self._options.model,
            "parent": None,
            "max_model_len": self._options.max_model_len,
            "permission": [permission],
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def health(self, _: Request) -> Response:
        return Response()

    async def version(self, _: Request) -> Response:
        return JSONResponse({"version": VLLM_VERSION})

    async def metrics(self, _: Request) -> Response:
        return PlainTextResponse(self._meter.exposition(self._options.model))


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, _RequestError)  # noqa: S101 - the handler's signature is wider
    return JSONResponse(error.body, error.status)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler's signature is wider
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


def simulator(traces: Iterable[Trace], options: SimulatorOptions | None = None) -> ASGIApp:
    """The simulated MLRM as an ASGI application. Of traces with one prompt the first counts."""
    server = _Server(traces, options or SimulatorOptions())
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
            Route("/tokenize", server.tokenize, methods=["POST"]),
            Route("/v1/models", server.models),
            Route("/health", server.health),
            Route("/version", server.version),
            Route("/metrics", server.metrics),
        ],
        exception_handlers={_RequestError: _refused, HTTPException: _http_error},
    )
    return _Headers(app)


def load_traces(path: Path) -> list[Trace]:
    """All traces of a file. Raises UserError where it or a row of it cannot be read."""
    traces: list[Trace] = []
    try:
        for _, row in read_traces(path):
            if isinstance(row, TraceError):
                raise row
            traces.append(row)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    return traces


def run_simulator(
    traces: Path,
    port: int,
    tokens_per_second: float,
    *,
    reasoning_field: ReasoningField = "reasoning",
    chunking: Chunking = "token",
    seed: int = 0,
    ignore_correction: float = 0.0,
    strict_model: bool = False,
    host: str = "127.0.0.1",
    model: str = "simulated-mlrm",
    template_kwarg: str | None = None,
    wrap_empty_think: bool = False,
) -> None:
    """Serve the simulated MLRM until interrupted."""
    options = SimulatorOptions(
        model=model,
        tokens_per_second=tokens_per_second,
        reasoning_field=reasoning_field,
        chunking=chunking,
        seed=seed,
        ignore_correction=ignore_correction,
        strict_model=strict_model,
        template_kwarg=template_kwarg,
        wrap_empty_think=wrap_empty_think,
    )
    app = simulator(load_traces(traces), options)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
