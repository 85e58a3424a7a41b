"""What a text shows of its writer when its content is masked: the control of every figure."""

from __future__ import annotations

from dataclasses import replace

import regex

from monitors.judges.base import Passage
from monitors.normalise import normalise

FUNCTION_WORDS = frozenset(
    """
    a about after again all also although am an and another any are as at be because been
    before being both but by can could did do does doing done don't each either else even
    every few first for from get go going had has have having he her here him his how
    however i i'd i'll i'm i've if in into is it it's its itself just last let let's like
    many may maybe me might more most much must my need next no nor not now of off okay on
    once one only or other our out over own perhaps quite rather really right same second
    see shall she should since so some something still such than that that's the their them
    then there these they thing things think third this those though through to too two
    under until up us very wait want was way we well were what when where whether which
    while who why will with would yes yet you your
    """.split()  # noqa: SIM905  (a list of 170 strings reads worse)
)
_TOKEN = regex.compile(r"[\p{L}\p{M}']+|\p{N}+|[^\s\p{L}\p{M}\p{N}]")


def voice_only(passage: Passage) -> Passage:
    """The passage with function words, punctuation and "0" for numbers only, and no request."""
    return replace(
        passage,
        text=_masked(passage.text),
        request="",
        earlier=tuple(_masked(step) for step in passage.earlier),
    )


def _masked(text: str) -> str:
    found = _TOKEN.findall(normalise(text).replace("’", "'"))
    shown = ("0" if token[0].isdigit() else token for token in found)
    return " ".join(t for t in shown if t in FUNCTION_WORDS or not t[0].isalpha())
