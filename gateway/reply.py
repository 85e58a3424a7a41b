"""What the client gets: released text as SSE chunks, or gathered into one JSON body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from monitors.events import Finish, Refuse, Release, ToolCall
from monitors.formats import WireField
from monitors.guard_object import GuardObject, of_choices
from monitors.wire import DONE_EVENT, TokenLogprob, TokensDetails, Usage, encode_event

_encode = msgspec.json.Encoder().encode
_AFTER = b',"logprobs":null,"finish_reason":null}]}\n\n'


@dataclass(slots=True)
class ReplyHead:
    """What every chunk of one reply repeats, and what the client asked for."""

    id: str
    model: str
    created: int
    include_usage: bool
    continuous_usage: bool = False
    logprobs: bool = False
    top_logprobs: bool = False
    reasoning_names: list[str] = field(default_factory=lambda: ["reasoning"])
    """The delta field(s) in which this upstream writes thinking; ours are the same."""
    system_fingerprint: str | None = None


class StreamReply:
    """Encodes one choice of a streamed reply, piece by piece."""

    def __init__(self, head: ReplyHead, index: int) -> None:
        self._head, self._index = head, index
        # All that stands before the delta is the same in every chunk: encode it once.
        fixed = {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
        }
        begin = b',"choices":[{"index":%d,"delta":' % index
        self._before = b"data: " + msgspec.json.encode(fixed)[:-1] + begin
        self._content = self._before + b'{"content":'
        self._plain = not head.continuous_usage

    def role(self, usage: Usage | None) -> bytes:
        """The first chunk."""
        return self._delta({"role": "assistant", "content": ""}, usage)

    def text(self, release: Release, usage: Usage | None) -> bytes:
        """A piece of released text."""
        if release.field is WireField.CONTENT:
            if self._plain and not release.logprobs:
                return b"".join((self._content, _encode(release.text), b"}", _AFTER))
            delta = {"content": release.text}
        else:
            delta = dict.fromkeys(self._head.reasoning_names, release.text)
        return self._delta(delta, usage, release.logprobs)

    def call(self, call: ToolCall, usage: Usage | None) -> bytes:
        """A tool call, whole."""
        return self._delta({"tool_calls": [{"index": call.index, **call_object(call)}]}, usage)

    def refusal(self, refuse: Refuse, usage: Usage | None) -> bytes:
        """The refusal: for people in `content`, for machines in `refusal`."""
        content = refuse.lead_in + refuse.text
        return self._delta({"content": content, "refusal": refuse.text}, usage)

    def finish(self, finish: Finish, guard: GuardObject) -> bytes:
        """The choice's last chunk, with the guard object."""
        choice = {
            "index": self._index,
            "delta": {},
            "logprobs": None,
            "finish_reason": finish.finish_reason,
            "stop_reason": finish.stop_reason,
        }
        extra = {"usage": usage_object(finish.usage)} if self._head.continuous_usage else {}
        return encode_event({**_chunk(self._head, [choice]), **extra, "guard": guard})

    def _delta(
        self,
        delta: Mapping[str, Any],
        usage: Usage | None,
        logprobs: Sequence[TokenLogprob] = (),
    ) -> bytes:
        if self._plain and not logprobs:
            return b"".join((self._before, _encode(delta), _AFTER))
        shown = _encode(logprobs_object(logprobs)) if logprobs else b"null"
        after = b',"logprobs":' + shown + b',"finish_reason":null}]'
        if self._head.continuous_usage:
            after += b',"usage":' + _encode(usage_object(usage))
        return self._before + _encode(delta) + after + b"}\n\n"


def stream_end(head: ReplyHead, usage: Usage | None) -> bytes:
    """Behind all choices: a usage chunk if asked for, and the end mark."""
    if not head.include_usage:
        return DONE_EVENT
    return encode_event({**_chunk(head, []), "usage": usage_object(usage)}) + DONE_EVENT


def _chunk(head: ReplyHead, choices: list[Any]) -> dict[str, Any]:
    return {
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": head.created,
        "model": head.model,
        "choices": choices,
        "system_fingerprint": head.system_fingerprint,
    }


class WholeReply:
    """Gathers one choice of a reply that the client wants in one piece."""

    def __init__(self, head: ReplyHead, index: int) -> None:
        self._head, self._index = head, index
        self._parts: dict[WireField, list[str]] = {WireField.REASONING: [], WireField.CONTENT: []}
        self._calls: list[dict[str, Any]] = []
        self._logprobs: list[TokenLogprob] = []
        self._refusal: str | None = None
        self.choice: dict[str, Any] = {}
        """The finished choice."""

    def text(self, release: Release) -> None:
        """A piece of released text."""
        self._parts[release.field].append(release.text)
        self._logprobs += release.logprobs

    def call(self, call: ToolCall) -> None:
        """A tool call."""
        self._calls.append(call_object(call))

    def refusal(self, refuse: Refuse) -> None:
        """The refusal."""
        self._refusal = refuse.text
        self._parts[WireField.CONTENT].append(refuse.lead_in + refuse.text)

    def finish(self, finish: Finish) -> None:
        """The choice is complete."""
        reasoning = "".join(self._parts[WireField.REASONING]) or None
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(self._parts[WireField.CONTENT]) or None,
            "refusal": self._refusal,
            **dict.fromkeys(self._head.reasoning_names, reasoning),
        }
        if self._calls:
            message["tool_calls"] = self._calls
        self.choice = {
            "index": self._index,
            "message": message,
            "logprobs": logprobs_object(self._logprobs) if self._head.logprobs else None,
            "finish_reason": finish.finish_reason,
            "stop_reason": finish.stop_reason,
        }


def whole_body(
    head: ReplyHead,
    choices: Sequence[WholeReply],
    usage: Usage | None,
    guards: Sequence[GuardObject],
) -> bytes:
    """The JSON body."""
    return msgspec.json.encode(
        {
            "id": head.id,
            "object": "chat.completion",
            "created": head.created,
            "model": head.model,
            "choices": [choice.choice for choice in choices],
            "system_fingerprint": head.system_fingerprint,
            "usage": usage_object(usage),
            "guard": of_choices(guards),
        }
    )


def call_object(call: ToolCall) -> dict[str, Any]:
    """OpenAI's tool call."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def logprobs_object(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """OpenAI's `logprobs` of a choice."""
    return {"content": logprobs}


def usage_of_choices(usages: Sequence[Usage | None]) -> Usage | None:
    """The usage of several choices of one prompt, which counts once."""
    known = [usage for usage in usages if usage is not None]
    if len(known) < 2:
        return known[0] if known else None
    completion = sum(usage.completion_tokens or 0 for usage in known)
    thought = [u.completion_tokens_details for u in known if u.completion_tokens_details]
    return Usage(
        prompt_tokens=known[0].prompt_tokens,
        completion_tokens=completion,
        total_tokens=known[0].prompt_tokens + completion,
        completion_tokens_details=(
            TokensDetails(sum(details.reasoning_tokens or 0 for details in thought))
            if thought
            else None
        ),
        prompt_tokens_details=known[0].prompt_tokens_details,
    )


def usage_object(usage: Usage | None) -> dict[str, Any]:
    """OpenAI's `usage`; zeros where the upstream counted nothing (refused before it answered)."""
    usage = usage or Usage()
    details = usage.completion_tokens_details
    body: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "total_tokens": usage.total_tokens,
        "completion_tokens": usage.completion_tokens or 0,
    }
    if usage.prompt_tokens_details is not None:
        body["prompt_tokens_details"] = usage.prompt_tokens_details
    if details is not None:
        body["completion_tokens_details"] = {"reasoning_tokens": details.reasoning_tokens}
    return body
