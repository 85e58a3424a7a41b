"""What a judge may see if it is to learn who wrote a text, but nothing of what the text says.

A judge trained on this is the control that every headline figure stands beside: safe and unsafe
thinking come from different models, whose manner alone tells them apart.
"""

from __future__ import annotations

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
"""English; of other languages the control sees numbers and punctuation only."""

_TOKEN = regex.compile(r"\p{L}+(?:'\p{L}+)?|\p{N}+|[\p{P}\p{S}]")


def voice_only(passage: Passage) -> Passage:
    """The passage reduced to function words, punctuation and the places of its numbers.

    Request and earlier steps are left out.
    """
    tokens = _TOKEN.findall(normalise(passage.whole.text).replace("’", "'"))
    kept = [
        "0" if token[0].isnumeric() else token
        for token in tokens
        if token in FUNCTION_WORDS or not token[0].isalpha()
    ]
    return Passage(passage.stage, " ".join(kept))
