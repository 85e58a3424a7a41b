"""What OpenAI-compatible servers answer, as `Reply`s: /v1/chat/completions and /v1/completions.

Only what a verdict needs is read, and nothing is trusted to have its type. Log-probabilities that
are not what they should be are left out, since the text alone is a verdict, too.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

from monitors.judges.guard_models.contract import Endpoint, Reply, Token

_CUT_OFF = ("length", "content_filter", "abort", "error")


def read_replies(endpoint: Endpoint, body: bytes) -> list[Reply]:
    """The choices of a reply's body, in their order. Raises ValueError for what is none."""
    try:
        data = json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    choices = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise ValueError("no choices")
    read = _of_chat if endpoint == "chat/completions" else _of_completion
    found = {_index(choice, place): read(choice) for place, choice in enumerate(choices)}
    if len(found) != len(choices) or sorted(found) != list(range(len(found))):
        raise ValueError("choices without their places")
    return [found[place] for place in sorted(found)]


def _index(choice: dict[str, Any], place: int) -> int:
    index = choice.get("index", place)
    if not isinstance(index, int):
        raise ValueError("a choice without its place")
    return index


def _of_chat(choice: dict[str, Any]) -> Reply:
    message = choice.get("message")
    if not isinstance(message, dict):
        raise ValueError("no message")
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise ValueError("content that is no text")
    rows = _member(choice.get("logprobs"), "content")
    tokens = tuple(_chat_token(row) for row in rows) if isinstance(rows, list) else ()
    return _reply(choice, content or "", tokens)


def _of_completion(choice: dict[str, Any]) -> Reply:
    text = choice.get("text")
    if not isinstance(text, str):
        raise ValueError("no text")
    texts = _member(choice.get("logprobs"), "tokens")
    tops = _member(choice.get("logprobs"), "top_logprobs")
    own = _member(choice.get("logprobs"), "token_logprobs")
    if not isinstance(texts, list) or not isinstance(tops, list) or len(texts) != len(tops):
        return _reply(choice, text, ())
    if not isinstance(own, list) or len(own) != len(texts):
        own = [None] * len(texts)
    tokens = tuple(
        Token(token, _alternatives(top.items() if isinstance(top, dict) else ()), _logprob(one))
        if isinstance(token, str)
        else None
        for token, top, one in zip(texts, tops, own, strict=True)
    )
    return _reply(choice, text, tokens)


def _reply(choice: dict[str, Any], text: str, tokens: tuple[Token | None, ...]) -> Reply:
    whole = tuple(token for token in tokens if token is not None)
    finished = choice.get("finish_reason") not in _CUT_OFF
    # A missing token would put all later ones in the wrong place.
    return Reply(text, finished, whole if len(whole) == len(tokens) else ())


def _chat_token(row: object) -> Token | None:
    text = _member(row, "token")
    if not isinstance(text, str):
        return None
    tops = _member(row, "top_logprobs")
    pairs = tops if isinstance(tops, list) else []
    top = _alternatives((_member(p, "token"), _member(p, "logprob")) for p in pairs)
    return Token(text, top, _logprob(_member(row, "logprob")))


def _alternatives(pairs: Any) -> tuple[tuple[str, float], ...]:
    return tuple(
        (text, logprob)
        for text, given in pairs
        if isinstance(text, str) and (logprob := _logprob(given)) is not None
    )


def _logprob(value: object) -> float | None:
    """None for what is none; OverflowError: JSON has integers of any size."""
    try:
        logprob = float(value) if isinstance(value, int | float) else 1.0
    except OverflowError:
        return None
    return logprob if isfinite(logprob) and logprob <= 0.0 else None


def _member(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None
