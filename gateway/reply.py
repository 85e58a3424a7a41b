"""What the client gets: released text as SSE chunks, or gathered into one JSON body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from monitors.events import Finish
from monitors.formats import WireField
from monitors.guard_object import GuardObject
from monitors.wire import DONE_EVENT, Usage, encode_event


@dataclass(slots=True)
class ReplyHead:
    """What every chunk of one reply repeats, and what the client asked for."""

    id: str
    model: str
    created: int
    include_usage: bool
    reasoning_names: list[str] = field(default_factory=lambda: ["reasoning"])
    """The delta field(s) in which this upstream writes thinking; ours are the same."""
    system_fingerprint: str | None = None


class StreamReply:
    """Encodes one streamed reply, piece by piece."""

    def __init__(self, head: ReplyHead) -> None:
        self._head = head
        # All that stands before the delta is the same in every chunk: encode it once.
        fixed = {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
        }
        self._before = (
            b"data: " + msgspec.json.encode(fixed)[:-1] + b',"choices":[{"index":0,"delta":'
        )
        self._after = b',"logprobs":null,"finish_reason":null}]}\n\n'

    def role(self) -> bytes:
        """The first chunk."""
        return self._delta({"role": "assistant", "content": ""})

    def text(self, wire_field: WireField, text: str) -> bytes:
        """A piece of released text."""
        if wire_field is WireField.CONTENT:
            return self._delta({"content": text})
        return self._delta(dict.fromkeys(self._head.reasoning_names, text))

    def refusal(self, text: str) -> bytes:
        """The refusal: for people in `content`, for machines in `refusal`."""
        return self._delta({"content": text, "refusal": text})

    def end(self, finish: Finish, guard: GuardObject) -> bytes:
        """Finish chunk with the guard object, usage chunk if asked for, end mark."""
        choice = {
            "index": 0,
            "delta": {},
            "logprobs": None,
            "finish_reason": finish.finish_reason,
            "stop_reason": finish.stop_reason,
        }
        last = encode_event({**self._chunk([choice]), "guard": guard})
        usage = b""
        if self._head.include_usage:
            usage = encode_event({**self._chunk([]), "usage": usage_object(finish.usage)})
        return last + usage + DONE_EVENT

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return self._before + msgspec.json.encode(delta) + self._after

    def _chunk(self, choices: list[Any]) -> dict[str, Any]:
        head = self._head
        return {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
            "choices": choices,
            "system_fingerprint": head.system_fingerprint,
        }


class WholeReply:
    """Gathers one reply that the client wants in one piece."""

    def __init__(self, head: ReplyHead) -> None:
        self._head = head
        self._parts: dict[WireField, list[str]] = {WireField.REASONING: [], WireField.CONTENT: []}
        self._refusal: str | None = None

    def text(self, wire_field: WireField, text: str) -> None:
        """A piece of released text."""
        self._parts[wire_field].append(text)

    def refusal(self, text: str) -> None:
        """The refusal."""
        self._refusal = text
        self._parts[WireField.CONTENT].append(text)

    def end(self, finish: Finish, guard: GuardObject) -> bytes:
        """The JSON body."""
        head = self._head
        reasoning = "".join(self._parts[WireField.REASONING]) or None
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(self._parts[WireField.CONTENT]) or None,
            "refusal": self._refusal,
            **dict.fromkeys(head.reasoning_names, reasoning),
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish.finish_reason,
            "stop_reason": finish.stop_reason,
        }
        return msgspec.json.encode(
            {
                "id": head.id,
                "object": "chat.completion",
                "created": head.created,
                "model": head.model,
                "choices": [choice],
                "system_fingerprint": head.system_fingerprint,
                "usage": usage_object(finish.usage),
                "guard": guard,
            }
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
