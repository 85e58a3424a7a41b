"""Plans replies. A reply is planned before its first byte, from its request alone."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable

from gateway.simulate.deltas import (
    TOKEN,
    Delta,
    Reply,
    by_channel,
    held_back,
    inlined,
    random_deltas,
    stopped,
    token_deltas,
    tokenized,
)
from gateway.simulate.options import SimulatorOptions
from gateway.simulate.requests import Chat, RequestError
from gateway.simulate.scripts import Author, Part, restarted
from gateway.simulate.template import CLOSER, continued, message_text, no_thinking, render
from gateway.simulate.traces import UNKNOWN
from monitors.trace import Trace


class Model:
    """The simulated model: traces and options in, planned replies out."""

    def __init__(self, traces: Iterable[Trace], options: SimulatorOptions) -> None:
        self._options = options
        self._traces: dict[str, Trace] = {}
        for trace in traces:
            self._traces.setdefault(trace.prompt.strip(), trace)

    def reply(self, chat: Chat) -> Reply:
        """Plan the reply to a request. Raises `RequestError` when the prompt is too long."""
        options = self._options
        prompt_text = render(chat, options)
        prompt_tokens = len(TOKEN.findall(prompt_text))
        room = options.max_model_len - prompt_tokens
        if room < 1:
            self._refuse_length(prompt_tokens)
        rng = self._rng(chat)
        tokens = tokenized(self._segments(chat, rng))
        limit = min(room, chat.limit or room)
        kept, stop = stopped(tokens[:limit], chat.stops, include=chat.include_stop_str_in_output)
        ended = stop is None and len(tokens) < limit
        total = len(kept) + ended
        return Reply(
            deltas=self._chunked(token_deltas(kept), chat, rng, total),
            tokens=total,
            reasoning_tokens=sum(token.channel == "reasoning" for token in kept),
            finish_reason="stop" if ended or stop is not None else "length",
            stop_reason=stop,
            prompt_text=prompt_text,
            prompt_tokens=prompt_tokens,
        )

    def _chunked(
        self, deltas: list[Delta], chat: Chat, rng: random.Random, total: int
    ) -> list[Delta]:
        if self._options.chunking == "random":
            return random_deltas(deltas, rng)
        if self._options.chunking == "whole":
            return by_channel(deltas)
        if chat.stops and not chat.include_stop_str_in_output:
            return held_back(deltas, max(map(len, chat.stops)) - 1, total)
        return deltas

    def _refuse_length(self, tokens: int) -> None:
        raise RequestError(
            f"This model's maximum context length is {self._options.max_model_len} tokens. "
            f"However, your prompt contains at least {tokens} input tokens, which exceeds this "
            "limit even without any output tokens. Please reduce the length of the input prompt. "
            f"(parameter=input_tokens, value={tokens})",
            param="input_tokens",
        )

    def _rng(self, chat: Chat) -> random.Random:
        """Randomness of one request: a function of it, whatever else the server does meanwhile."""
        key = json.dumps([self._options.seed, chat.seed, chat.messages, chat.chat_template_kwargs])
        return random.Random(key)  # noqa: S311 - repeatable, not secret

    def _segments(self, chat: Chat, rng: random.Random) -> list[Part]:
        asked = message_text(chat.messages[chat.last_user]) if chat.last_user >= 0 else ""
        trace = self._traces.get(asked.strip(), UNKNOWN)
        author = Author(trace, ignores=rng.random() < self._options.ignore_correction)
        prefix = continued(chat, self._options)
        if prefix is None:
            segments = author.begin(corrected=restarted(chat), thinking=not no_thinking(chat))
        else:
            segments = author.resume(prefix)
        if self._options.inline:
            return inlined(segments)
        if prefix is not None and _misread(chat, prefix, segments):
            return [Part("reasoning", part.text) for part in segments]
        return segments


def _misread(chat: Chat, prefix: str, segments: list[Part]) -> bool:
    """Whether vLLM reports a continued answer as reasoning: without tags, or when unstreamed."""
    if not chat.continue_final_message or any(part.channel == "tag" for part in segments):
        return False
    return not chat.stream or CLOSER not in prefix
