"""vLLM's wire: the events of a stream and the reply that does not stream, key by key."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from gateway.simulate.deltas import Delta, Reply
from gateway.simulate.options import SimulatorOptions
from gateway.simulate.requests import Chat, StreamOptions

VLLM_VERSION = "0.32.0"


class Wire:
    """Writes one reply as vLLM does: the keys of each event, in its order."""

    def __init__(self, chat: Chat, reply: Reply, options: SimulatorOptions, name: str) -> None:
        self._chat, self._reply, self._options = chat, reply, options
        self._id, self._created = f"chatcmpl-{name}", int(time.time())
        stream_options = chat.stream_options or StreamOptions()
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

    def _running_usage(self, delta: Delta) -> dict[str, Any] | None:
        return self._count(delta.tokens, delta.reasoning_tokens) if self._continuous else None

    def first(self) -> bytes:
        """The role chunk."""
        choice = {
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return self._chunk(choice, self._running_usage(Delta("", "", 0, 0)), **self._prompt)

    def text(self, delta: Delta) -> bytes:
        """A chunk of text; nothing where the request hides the reasoning and it is all there is."""
        said = self._said(delta)
        if not said:
            return b""
        choice = {"delta": said, "logprobs": None, "finish_reason": None, "token_ids": None}
        return self._chunk(choice, self._running_usage(delta))

    def _said(self, delta: Delta) -> dict[str, str | None]:
        said: dict[str, str | None] = {"content": delta.content} if delta.content else {}
        if self._options.inline:
            return said
        name = self._options.reasoning_field
        if not self._chat.include_reasoning:
            return said | {name: None} if said else {}
        return said | ({name: delta.reasoning} if delta.reasoning else {})

    def last(self, delta: Delta) -> Iterator[bytes]:
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

    def split(self) -> tuple[list[Delta], Delta]:
        """The deltas that go before the finish chunk, and what rides on it."""
        reply = self._reply
        deltas = reply.deltas
        if deltas and deltas[-1].tokens == reply.tokens:
            return deltas[:-1], deltas[-1]
        return deltas, Delta("", "", reply.tokens, reply.reasoning_tokens)

    def whole(self) -> bytes:
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
        return _json(
            self._envelope("chat.completion")
            | {"choices": [choice], "service_tier": None}
            | self._fingerprint
            | {"usage": usage, "prompt_logprobs": None}
            | self._prompt
            | {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
        )


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
