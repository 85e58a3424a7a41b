"""Token accounting over the legs of one generation: what was delivered, what was thrown away.

Log probabilities, where a client asked for them, wait here too: those of a delta's tokens leave
once all its text has.

The client's `usage` counts the prompt once and the completion tokens whose text it got. An aborted
upstream request reports no final usage, so every delta's running count is remembered until the
frontier has passed it. An upstream that reports none is counted in deltas with text, which vLLM
sends one per token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from monitors.wire import TokenLogprob, TokensDetails, Usage

_NO_LOGPROBS: Sequence[TokenLogprob] = ()


class TokenLedger:
    """Counts one generation."""

    __slots__ = (
        "_characters",
        "_deltas",
        "_first",
        "_kept",
        "_last",
        "_marks",
        "_passed",
        "_prompt",
        "_released",
        "discarded",
    )

    def __init__(self) -> None:
        self._kept = 0  # of earlier legs
        self._first = True  # the first leg is under way
        self._prompt: Usage | None = None  # the first leg's: what the client's own prompt cost
        self.discarded = 0
        """Completion tokens generated but not delivered."""
        self._begin_leg()

    def _begin_leg(self) -> None:
        self._last: Usage | None = None
        self._deltas = 0
        self._characters = 0
        self._released = 0  # of these, how many the client has
        # (characters so far, tokens so far, the last tokens' log probabilities)
        self._marks: deque[tuple[int, int, Sequence[TokenLogprob]]] = deque()
        self._passed = (0, 0, _NO_LOGPROBS)  # the last mark that the frontier has passed

    @property
    def generated(self) -> int:
        """Completion tokens of this leg so far."""
        if self._last is not None and self._last.completion_tokens is not None:
            return self._last.completion_tokens
        return self._deltas

    @property
    def spent(self) -> int:
        """Completion tokens of earlier legs that were kept."""
        return self._kept

    def delta(
        self,
        usage: Usage | None,
        characters: int,
        logprobs: Sequence[TokenLogprob] = _NO_LOGPROBS,
        *,
        more: bool = False,
    ) -> None:
        """One delta came, with so many characters of text; `more` of the same delta."""
        self._characters += characters
        if usage is not None:
            self._last = usage
            if self._first or self._prompt is None:  # the first leg's last usage has the details
                self._prompt = usage
        elif characters and not more:  # the role's and the finish reason's are no tokens
            self._deltas += 1
        if self._marks and self._marks[-1][0] == self._characters:
            earlier = self._marks.pop()[2]  # no text since: there is nothing between the two
            logprobs = [*earlier, *logprobs] if earlier else logprobs
        self._marks.append((self._characters, self.generated, logprobs))

    def release(self, characters: int) -> Sequence[TokenLogprob]:
        """So many more characters of the leg have left; return the log probabilities that may."""
        self._released += characters
        marks = self._marks
        passed = _NO_LOGPROBS
        while marks and marks[0][0] <= self._released:
            self._passed = marks.popleft()
            if self._passed[2]:
                passed = [*passed, *self._passed[2]]
        return passed

    def cut(self) -> None:
        """The leg ends where the client's text does; a delta delivered in part counts."""
        self.release(0)
        characters, delivered, _ = self._passed
        if self._marks and self._released > characters:
            delivered = min(self._marks[0][1], delivered + 1)
        self.discarded += max(0, self.generated - delivered)
        self._kept += delivered
        self._first = False
        self._begin_leg()

    def so_far(self) -> Usage | None:
        """The client's usage while the reply is under way."""
        return self._usage(self._kept + self._passed[1])

    def total(self) -> Usage | None:
        """The client's usage; None where the upstream never reported any."""
        return self._usage(self._kept + self.generated)

    def _usage(self, completion: int) -> Usage | None:
        if self._prompt is None:
            return None
        details = self._last.completion_tokens_details if self._last is not None else None
        if details is not None and details.reasoning_tokens is not None:
            details = TokensDetails(self._kept + details.reasoning_tokens)
        return Usage(
            prompt_tokens=self._prompt.prompt_tokens,
            completion_tokens=completion,
            total_tokens=self._prompt.prompt_tokens + completion,
            completion_tokens_details=details,
            prompt_tokens_details=self._prompt.prompt_tokens_details,
        )


def in_text(logprobs: Sequence[TokenLogprob], text: str) -> Sequence[TokenLogprob]:
    """The log probabilities of the tokens that stand in this text, in order.

    Others (control tokens, of a tag that a parser took out) show what no judge has seen.
    """
    if not logprobs:
        return _NO_LOGPROBS
    at = 0
    inside: list[TokenLogprob] = []
    for entry in logprobs:
        found = text.find(entry.token, at) if entry.token else -1
        if found >= 0:
            at = found + len(entry.token)
            inside.append(entry)
    return inside
