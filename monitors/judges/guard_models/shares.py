"""Scores from log-probabilities: how likely each verdict was where the reply gave one of them.

Of the alternatives at the verdict's first token those count that begin one of the possible words,
and no other of them: " Uns" begins `Unsafe` alone, "S" says nothing between `Safe` and `Sure`.
Their probabilities, normalised among themselves, are the softmax over the verdicts. So are the
classifier scores of Llama Guard (the first token's probability: its model card) and of Granite
Guardian (softmax over aggregated Yes and No tokens: ibm-granite/granite-guardian,
evaluation/models/granite_guardian_3.py) computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp

from monitors.judges.guard_models.contract import Reply

_AROUND = " \t\r\n\"'`:*▁Ġ"
"""What tokens carry around a word: spaces as they are or as vocabularies write them, quotes."""


def shares(reply: Reply, start: int, words: Mapping[str, str]) -> dict[str, float] | None:
    """The probability of each verdict, or None where the reply has no log-probabilities for it.

    `start`: where in the reply's text the verdict's word begins. `words`: the verdict that each
    possible word, in lower case, stands for. The values add up to 1.
    """
    token = _token_at(reply, start)
    if token is None:
        return None
    mass = dict.fromkeys(words.values(), 0.0)
    for text, logprob in reply.tokens[token].top:
        if (verdict := _meant(text, words)) is not None and logprob <= 0.0:
            mass[verdict] += exp(logprob)
    total = sum(mass.values())
    return {verdict: p / total for verdict, p in mass.items()} if total > 0.0 else None


def _token_at(reply: Reply, start: int) -> int | None:
    """The token that holds this character of the text.

    Tokens may tell more than the text does (thinking that the server has put elsewhere, before it).
    """
    whole = "".join(token.text for token in reply.tokens)
    offset = whole.rfind(reply.text)
    if not reply.text or offset < 0:
        return None
    position, wanted = 0, offset + start
    for index, token in enumerate(reply.tokens):
        position += len(token.text)
        if position > wanted:
            return index
    return None


def _meant(text: str, words: Mapping[str, str]) -> str | None:
    begun = text.strip(_AROUND).lower()
    if not begun:
        return None
    if (whole := words.get(begun)) is not None:
        return whole
    if len(begun) < 2:
        return None
    meant = {verdict for word, verdict in words.items() if word.startswith(begun)}
    return meant.pop() if len(meant) == 1 else None
