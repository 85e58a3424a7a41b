"""Cut channel text into steps, the units that are judged.

Theory. A step closes (1) at a sentence end: a terminator, at most eight closing marks, then
whitespace; or right behind a terminator of a script that writes no spaces; (2) at a line end; (3)
at `MAX_BYTES`; (4) behind `RUN_BYTES` of ASCII without whitespace, which may be prose in a code,
and else is text of machines (URLs, minified JSON, images), of which it makes more steps. (1) waits
until the step has `MIN_BYTES` of text, so that "1." and "Dr." are no steps, and (2) until it has
`LINE_BYTES`: lines may be wrapped anywhere, and a few words of a sentence say nothing by
themselves. Sizes count UTF-8 bytes, which is roughly fair to scripts that say more in fewer
characters. Whitespace between two steps belongs to the later one, so a step never ends in
whitespace that was followed by text.

Boundaries depend on the text alone, never on chunking or time: every rule looks at a bounded window
behind it and at most `_LOOKAHEAD` characters ahead, and waits for those. The concatenated steps are
the text, character for character. Judges are trained on steps cut by this very class.
"""

from __future__ import annotations

import re

import regex

MIN_BYTES = 20
"""Shorter sentences join the next one."""

LINE_BYTES = 100
"""Shorter lines that end no sentence join the next one: about a line and a half of a letter."""

MAX_BYTES = 480
"""About 100 tokens of English, well inside the window of every judge we ship."""

RUN_BYTES = 160
"""What a sentence or two take in base64: a reply in a code has as many steps as one in words."""

_LOOKAHEAD = 16
_CLOSERS = r"""["'’”»)\]}*_`]"""
_BOUNDARY = re.compile(rf"[.!?…]{_CLOSERS}{{0,8}}(?=\s)|[。！？｡।۔؟]|(?P<line>[^\n](?=\n))")
_RUN = re.compile(rf"[!-~]{{{RUN_BYTES}}}")
_LATER_RUN = re.compile(rf"(?<![!-~])[!-~]{{{RUN_BYTES}}}")  # tried once a run: linear
_BEHIND = 10  # longer than any match of _BOUNDARY
_GRAPHEME = regex.compile(r"\X")
_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))


class Segmenter:
    """Incremental segmentation: `feed` text, get closed steps; `close` gives the rest."""

    __slots__ = ("_scanned", "_text")

    def __init__(self) -> None:
        self._text = ""  # the open step
        self._scanned = 0  # every boundary before this index was too early to close the step

    @property
    def open(self) -> str:
        """The text of the open step so far."""
        return self._text

    def feed(self, text: str) -> list[str]:
        """Add text; return the steps that it closes, oldest first."""
        self._text += text
        return self._cut(final=False)

    def close(self) -> list[str]:
        """End of the channel: return the remaining steps; the last may be whitespace only."""
        steps = self._cut(final=True)
        if self._text:
            steps.append(self._text)
        self._text, self._scanned = "", 0
        return steps

    def _cut(self, *, final: bool) -> list[str]:
        text, start, scan = self._text, 0, self._scanned
        steps: list[str] = []
        while start < len(text):
            limit = _limit(text, start)
            run = _run_end(text, start, scan, limit)
            end = _natural_end(text, start, scan, limit if run is None else run) or run
            if end is None:
                if limit is None or (len(text) < limit + _LOOKAHEAD and not final):
                    break
                end = _forced_end(text, start, limit)
            steps.append(text[start:end])
            start = scan = end
        self._text = text[start:]
        self._scanned = max(0, len(self._text) - _BEHIND)
        return steps


def _limit(text: str, start: int) -> int | None:
    """The index up to which the step from `start` fits MAX_BYTES; None while all of it does."""
    if (len(text) - start) * 4 <= MAX_BYTES:
        return None
    encoded = text[start : start + MAX_BYTES + 1].encode("utf-8", "surrogatepass")
    if len(encoded) <= MAX_BYTES:
        return None
    split_inside = encoded[MAX_BYTES] in _CONTINUATION_BYTES
    return start + len(encoded[:MAX_BYTES].translate(None, _CONTINUATION_BYTES)) - split_inside


def _natural_end(text: str, start: int, scan: int, limit: int | None) -> int | None:
    """The end of the sentence or line that closes the step, up to the limit; else None."""
    stop = len(text) if limit is None else limit + 1  # one more, for the lookahead
    for match in _BOUNDARY.finditer(text, scan, stop):
        end = match.end()
        if limit is not None and end > limit:
            return None
        least = MIN_BYTES if match["line"] is None else LINE_BYTES
        if len(text[start:end].strip().encode("utf-8", "surrogatepass")) >= least:
            return end
    return None


def _run_end(text: str, start: int, scan: int, limit: int | None) -> int | None:
    """The end of the step's first run of `RUN_BYTES` without whitespace, up to the limit.

    One that ended before `scan` would have closed the step.
    """
    stop = len(text) if limit is None else limit
    if stop - start < RUN_BYTES:
        return None
    since = max(start + 1, scan - RUN_BYTES)
    run = _RUN.match(text, start, stop) or _LATER_RUN.search(text, since, stop)
    return None if run is None else run.end()


def _forced_end(text: str, start: int, limit: int) -> int:
    """Where to cut too long a step: at whitespace, else between graphemes, else at the limit."""
    middle = (start + limit) // 2
    for index in range(limit, middle, -1):
        if text[index : index + 1].isspace():
            return index
    tail = max(middle, limit - 64)
    ends = (tail + match.end() for match in _GRAPHEME.finditer(text[tail : limit + _LOOKAHEAD]))
    inside = [end for end in ends if end <= limit]
    return inside[-1] if inside else limit
