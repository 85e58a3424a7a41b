"""Scores from log-probabilities: how likely each verdict was where the reply gave one of them.

Of the alternatives at the verdict's first token those count that begin one of the possible words,
and no other of them: " Uns" begins `Unsafe` alone, "S" says nothing between `Safe` and `Sure`.
Their probabilities, normalised among themselves, are the softmax over the verdicts. So are the
classifier scores of Llama Guard (the first token's probability: its model card) and of Granite
Guardian (softmax over aggregated Yes and No tokens: ibm-granite/granite-guardian,
evaluation/models/granite_guardian_3.py) computed.

The token that was written counts for the verdict that was written, however little of its word it
is. Where that verdict has no probability all the same, the log-probabilities do not belong to the
text, and the text is what counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp

from monitors.judges.guard_models.contract import Reply, Token

_AROUND = " \t\r\n\"'`:*▁Ġ"
"""What tokens carry around a word: spaces as they are or as vocabularies write them, quotes."""


def shares(reply: Reply, start: int, words: Mapping[str, str]) -> dict[str, float] | None:
    """The probability of each verdict, or None where the reply has none for what it says.

    `start`: where in the reply's text the verdict's word begins. `words`: the verdict that each
    possible word, in lower case, stands for. The values add up to 1.
    """
    written = _written(reply.text, start, words)
    found = _token_at(reply, start)
    if written is None or found is None:
        return None
    token, within = found
    mass = dict.fromkeys(words.values(), 0.0)
    for text, logprob in token.top:
        if text != token.text and (verdict := _meant(text, words)) is not None:
            mass[verdict] += exp(logprob)
    begun = token.text[within:].lower()
    if not any(v != written and word.startswith(begun) for word, v in words.items()):
        own = dict(token.top).get(token.text, token.logprob)
        mass[written] += exp(own) if own is not None else 0.0
    total = sum(mass.values())
    return {verdict: p / total for verdict, p in mass.items()} if mass[written] > 0.0 else None


def _written(text: str, start: int, words: Mapping[str, str]) -> str | None:
    """The verdict that the text has there."""
    here = [w for w in words if text[start : start + len(w)].lower() == w]
    return words[max(here, key=len)] if here else None


def _token_at(reply: Reply, start: int) -> tuple[Token, int] | None:
    """The token that holds this character of the text, and where in it.

    Tokens may tell more than the text does (thinking that the server has put elsewhere, before it).
    """
    whole = "".join(token.text for token in reply.tokens)
    offset = whole.rfind(reply.text)
    if not reply.text or offset < 0:
        return None
    position, wanted = 0, offset + start
    for token in reply.tokens:
        if position + len(token.text) > wanted:
            return token, wanted - position
        position += len(token.text)
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
