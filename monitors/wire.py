"""Bytes of an OpenAI-compatible upstream <-> SSE payloads <-> chat chunks.

Read from vLLM 0.32's stream; unknown keys are ignored, so that older and newer servers work.
Whatever is not the SSE or JSON that it should be raises `WireError`; its text never quotes the
upstream. Text passes in a delta's three fields alone, which are judged; what else a client gets is
counts and known words.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from monitors.errors import WireError

MAX_EVENT_BYTES = 8 << 20
"""One SSE event; vLLM's largest (a whole reply in one delta) stay far below."""

DONE = b"[DONE]"


class SSEDecoder:
    """Incremental SSE decoder: `feed` bytes, get the `data` payloads of the events they complete.

    Lines may end in LF or CRLF. Comments and the fields `event`, `id` and `retry` are skipped:
    nothing that an OpenAI-compatible server says stands in them.
    """

    __slots__ = ("_data", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = bytearray()  # of a line: appending does not copy it
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Add bytes; return the payloads of the events that they complete.

        Raises WireError past MAX_EVENT_BYTES.
        """
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        payloads: list[bytes] = []
        for raw in lines:
            line = raw.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                self._size += len(line)
                _check_size(self._size)
            elif not line and self._data:
                payloads.append(b"\n".join(self._data))
                self._data, self._size = [], 0
        _check_size(self._size + len(self._rest))
        return payloads

    def close(self) -> None:
        """The stream ended. Raises WireError when it ended inside an event."""
        if self._rest.strip() or self._data:
            raise WireError("the upstream's stream ended in the middle of an event")


def _check_size(size: int) -> None:
    if size > MAX_EVENT_BYTES:
        raise WireError("the upstream sent an event over the size limit")


_Tokens = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class TokensDetails(msgspec.Struct):
    """`usage.completion_tokens_details`; only what is counted."""

    reasoning_tokens: _Tokens | None = None


class Modalities(msgspec.Struct, omit_defaults=True):
    """`usage.prompt_tokens_details.multimodal_tokens`: vLLM's modalities."""

    image: _Tokens | None = None
    video: _Tokens | None = None
    audio: _Tokens | None = None
    vision_chunk: _Tokens | None = None


class PromptDetails(msgspec.Struct, omit_defaults=True):
    """`usage.prompt_tokens_details`; only what is counted."""

    cached_tokens: _Tokens | None = None
    created_cache_tokens: _Tokens | None = None
    audio_tokens: _Tokens | None = None
    multimodal_tokens: Modalities | None = None


class Usage(msgspec.Struct):
    """`usage`: token counts of one upstream request."""

    prompt_tokens: _Tokens = 0
    completion_tokens: _Tokens | None = 0
    total_tokens: _Tokens = 0
    completion_tokens_details: TokensDetails | None = None
    prompt_tokens_details: PromptDetails | None = None


class FunctionDelta(msgspec.Struct):
    """`choices[].delta.tool_calls[].function`; vLLM sends the name once, arguments in fragments."""

    name: str | None = None
    arguments: str | None = None


class ToolDelta(msgspec.Struct):
    """`choices[].delta.tool_calls[]`."""

    index: Annotated[int, msgspec.Meta(ge=0, lt=1024)] = 0
    id: str | None = None
    function: FunctionDelta = msgspec.field(default_factory=FunctionDelta)


class TokenAlternative(msgspec.Struct):
    """`top_logprobs[]`: one token, its log probability, and its UTF-8 bytes."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TokenAlternative):
    """`logprobs.content[]`."""

    top_logprobs: list[TokenAlternative] = msgspec.field(default_factory=list)


class Logprobs(msgspec.Struct):
    """`choices[].logprobs`."""

    content: list[TokenLogprob] | None = None


class Delta(msgspec.Struct):
    """`choices[].delta`. vLLM names the thinking `reasoning`, up to 0.15 `reasoning_content`."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolDelta] | None = None


_FINISH_REASONS = (
    *("stop", "length", "content_filter", "tool_calls", "function_call"),  # OpenAI's
    *("abort", "error", "repetition"),  # vLLM's
)


class Choice(msgspec.Struct):
    """`choices[]` of a chunk."""

    delta: Delta = msgspec.field(default_factory=Delta)
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: _Tokens | str | None = None
    """A stop token's id; stop strings are ours to find, so the upstream's are dropped."""

    def __post_init__(self) -> None:
        if self.finish_reason is not None and self.finish_reason not in _FINISH_REASONS:
            self.finish_reason = "stop"
        if isinstance(self.stop_reason, str):
            self.stop_reason = None


_FINGERPRINT = re.compile(r"[A-Za-z0-9._+-]{1,64}")


_NO_ERROR = msgspec.Raw()


class Chunk(msgspec.Struct):
    """One `chat.completion.chunk`, or the error that stands in its place."""

    choices: list[Choice] = msgspec.field(default_factory=list)
    usage: Usage | None = None
    raw_error: msgspec.Raw = msgspec.field(name="error", default=_NO_ERROR)
    system_fingerprint: str | None = None
    prompt_text: str | None = None

    def __post_init__(self) -> None:
        if self.system_fingerprint is not None and not _FINGERPRINT.fullmatch(
            self.system_fingerprint
        ):
            self.system_fingerprint = None

    @property
    def error(self) -> msgspec.Raw | None:
        """The JSON of the error; msgspec decodes `Raw | None` as null only."""
        if self.raw_error is _NO_ERROR or bytes(self.raw_error) == b"null":
            return None
        return self.raw_error


_decoder = msgspec.json.Decoder(Chunk)


def decode_chunk(payload: bytes) -> Chunk:
    """Decode one payload. Raises WireError when it is not a chat chunk."""
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("the upstream sent an event that is not a chat chunk") from error


def encode_event(payload: object) -> bytes:
    """One SSE event with a JSON payload."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


DONE_EVENT = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
