"""From when the upstream sent and what the client got when: how long text was under way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tests.bench.load import Received
from tests.bench.text import Script

Seconds = NDArray[np.float64]


def character_delays(script: Script, sent: Sequence[float], got: Received) -> Seconds:
    """One delay per character that came, from the sending of its chunk to its arrival."""
    ends, times = _tokens(script, sent, got)
    if not got.arrivals:
        return np.empty(0)
    have, when = _arrivals(got)
    characters = np.arange(min(have[-1], ends[-1]))
    left = times[np.searchsorted(ends, characters, side="right")]
    came = when[np.searchsorted(have, characters, side="right")]
    return np.asarray(came - left)


def hold_lags(script: Script, sent: Sequence[float], got: Received, *, held: bool) -> Seconds:
    """One lag per arrival of text, from the chunk that let it out.

    Unheld, that is the text's own last chunk. Held, it is the first chunk behind it, which closes
    the step; but the text's own last where it came before that.
    """
    ends, times = _tokens(script, sent, got)
    lags = []
    for characters, when in got.arrivals:
        last = int(np.searchsorted(ends, characters, side="left"))
        behind = int(np.searchsorted(ends, characters, side="right"))
        if last >= len(ends):
            continue
        if held and behind >= len(ends):
            continue  # the end of the stream closed it
        closes = behind if held and when >= times[behind] else last
        lags.append(when - times[closes])
    return np.asarray(lags)


def _tokens(
    script: Script, sent: Sequence[float], got: Received
) -> tuple[NDArray[np.int64], Seconds]:
    """(characters so far, time sent) of the tokens that reach this client.

    A proxy that drops the reasoning is measured by what it delivers. `sent` begins with the role.
    """
    times = np.asarray(sent[1 : 1 + len(script.reasoning) + len(script.content)])
    ends = np.asarray(script.ends[: len(times)])
    if not got.reasoning and got.content:
        dropped = len(script.reasoning)
        return ends[dropped:] - ends[dropped - 1], times[dropped:]
    return ends, times


def _arrivals(got: Received) -> tuple[NDArray[np.int64], Seconds]:
    have, when = zip(*got.arrivals, strict=True)
    return np.asarray(have), np.asarray(when)
