"""One normalisation for every judge that looks at characters.

What a reader sees as the same text becomes the same string: compatibility forms and case are
folded (NFKC, case-fold), characters that show nothing dropped, whitespace runs made one space.
Of the marks on one base the first thirty count.
Joiners stay where a script needs them to spell (Arabic to Khmer): there they change the word.
"""

from __future__ import annotations

import unicodedata

import regex

_ASCII_CONTROLS = {code: None for code in (*range(0x20), 0x7F) if not chr(code).isspace()}
_INVISIBLE = regex.compile(
    r"""
      (?<![\u0600-\u109f\u1780-\u17ff\ua840-\uabff])[\u200c\u200d]  # a joiner that spells nothing
    | [\p{Default_Ignorable_Code_Point}\p{Cf}\u2800--[\u200c\u200d\p{Prepended_Concatenation_Mark}]]
    | [\p{Cc}--[\s\x1c-\x1f]]
    """,
    regex.VERBOSE | regex.VERSION1,
)
_SURROGATE = regex.compile(r"\p{Cs}")
# More marks on one base than any script has: NFKC sorts them in quadratic time. (The two half-width
# letters become marks.)
_MARKS = regex.compile(r"([\p{M}\uff9e\uff9f]{30})[\p{M}\uff9e\uff9f]+")
_MAX_ROUNDS = 8  # two suffice for real text; hostile mark sequences may need one or two more


def visible(text: str) -> str:
    """Return the text as a reader sees it, case and white space as they are."""
    if text.isascii():
        return text.translate(_ASCII_CONTROLS)
    text = _MARKS.sub(r"\1", _SURROGATE.sub("\ufffd", text))
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))


def normalise(text: str) -> str:
    """Return the text as judges compare it. Idempotent; the result is encodable as UTF-8."""
    if text.isascii():
        return " ".join(text.translate(_ASCII_CONTROLS).casefold().split())
    text = _SURROGATE.sub("\ufffd", text)
    for _ in range(_MAX_ROUNDS):  # dropping a character can bring two together that then compose
        folded = unicodedata.normalize("NFKC", _MARKS.sub(r"\1", text)).casefold()
        folded = unicodedata.normalize("NFKC", folded)
        folded = " ".join(_INVISIBLE.sub("", folded).split())
        if folded == text:
            break
        text = folded
    return text
