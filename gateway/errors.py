"""Errors as the client sees them, in OpenAI's shape, and what an upstream's errors become.

    GuardError
    └── GatewayError                    500  the gateway itself
        ├── RequestError                400  what the client sent is wrong: says what and what to do
        │   └── PayloadTooLargeError    413
        ├── AuthenticationError         401  no key, or one we do not know
        ├── ForbiddenError              403  the key has not the right
        ├── NotFoundError               404
        ├── OverloadedError             503  with Retry-After
        ├── UpstreamHTTPError           its  it answered with an error: re-shaped, scrubbed
        │   └── UpstreamRejectedError   4xx  it takes no such request: the client's affair
        └── UpstreamUnavailableError    502  no answer, or an unreadable one; 504 too late

Texts of exceptions and decoders never go out: only a GatewayError's own message does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec
from starlette.exceptions import HTTPException

from monitors.errors import GenerationTooLongError, GuardError, UpstreamError

INVALID_REQUEST: Final = "invalid_request_error"
SERVER_ERROR: Final = "server_error"


class GatewayError(GuardError):
    """Base of all errors that become a reply; `str(error)` is the message that goes out."""

    status = 500
    error_type = SERVER_ERROR
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status or self.status
        self.param = param
        self.code = code or self.code

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that belong to this error."""
        return {}


class RequestError(GatewayError):
    """The client's request is wrong."""

    status = 400
    error_type = INVALID_REQUEST


class PayloadTooLargeError(RequestError):
    """The request body is over the limit."""

    status = 413
    code = "request_too_large"


class AuthenticationError(GatewayError):
    """No key, or one we do not know."""

    status = 401
    error_type = INVALID_REQUEST
    code = "invalid_api_key"


class ForbiddenError(GatewayError):
    """The key is known, and has not the right."""

    status = 403
    error_type = INVALID_REQUEST
    code = "missing_right"


class NotFoundError(GatewayError):
    """No such path or model."""

    status = 404
    error_type = INVALID_REQUEST
    code = "not_found"


class OverloadedError(GatewayError):
    """The gateway has no room for another request; clients retry it."""

    status = 503
    code = "overloaded"

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Tell the client when to come again."""
        return {"Retry-After": str(self.retry_after)}


class UpstreamHTTPError(GatewayError):
    """The upstream answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        error_type: str,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code, param=param)
        self.error_type = error_type

    def bare(self) -> UpstreamHTTPError:
        """Return it with no word of the upstream's: in mid-stream that could be generated text."""
        status = 400 if self.status < 500 else 502
        return UpstreamHTTPError(status, "the upstream broke off its reply", self.error_type)


class UpstreamRejectedError(UpstreamHTTPError):
    """The upstream takes no such request; the client's affair, not the upstream's failure."""


class UpstreamUnavailableError(GatewayError):
    """The upstream gave no answer, or one that cannot be read."""

    status = 502
    code = "upstream_unavailable"


class ErrorReply(NamedTuple):
    """What to send for an error."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


def error_body(error: GatewayError) -> dict[str, Any]:
    """Return OpenAI's error object, for a reply's body or a stream's last event."""
    fields = {"type": error.error_type, "param": error.param, "code": error.code}
    return {"error": {"message": str(error), **fields}}


def to_reply(error: BaseException) -> ErrorReply:
    """Map any exception to a reply. What is not ours keeps its text to itself."""
    known = _as_gateway_error(error)
    return ErrorReply(known.status, error_body(known), known.headers)


def _as_gateway_error(error: BaseException) -> GatewayError:
    match error:
        case GatewayError():
            return error
        case HTTPException(status_code=404):
            return NotFoundError("unknown path")
        case HTTPException(status_code=status) if 400 <= status < 500:
            return RequestError(_phrase(status), status=status)
        case GenerationTooLongError():
            return UpstreamUnavailableError(str(error), status=504)
        case UpstreamError():
            return UpstreamUnavailableError("the upstream's reply cannot be read")
        case _:
            return GatewayError("internal error")


def upstream_error(status: int, body: bytes | Mapping[str, Any]) -> GatewayError:
    """Return the error to raise for an upstream's error reply, or for its first SSE event.

    vLLM writes `{"error": {..}}`, `{"detail": ".."}` or `{"error": ".."}`. An error that comes as
    an event has HTTP status 200; then its own `code` counts. What it says of its own failures
    (5xx) is for its operator, not for clients.
    """
    fields = _error_fields(body)
    if status == HTTPStatus.OK and type(code := fields.get("code")) is int:
        status = code
    if not 400 <= status <= 599:
        status = HTTPStatus.BAD_GATEWAY.value
    if status in (401, 403):
        return UpstreamUnavailableError(
            "the gateway's upstream key was not accepted", code="upstream_key_rejected"
        )
    if status >= 500:
        return UpstreamHTTPError(status, _answered(status), SERVER_ERROR)
    message = fields.get("message")
    text = scrub(_summary(message)) if isinstance(message, str) else ""
    param = _param(fields.get("param"))
    return UpstreamRejectedError(
        status,
        text or _answered(status),
        INVALID_REQUEST,
        _code(status, param, text, fields.get("code")),
        param,
    )


def _error_fields(body: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(body, bytes):
        try:
            body = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return {}
    error = body.get("error", body.get("detail"))
    if isinstance(error, Mapping):
        return error
    return {"message": error if error is not None else body.get("message")}


def _code(status: int, param: str | None, message: str, theirs: object) -> str | None:
    """Return OpenAI's word for it, which clients compare; vLLM's is only the status again."""
    if isinstance(theirs, str) and re.fullmatch(r"[a-z_]{1,64}", theirs):
        return theirs
    if status == 404 and param == "model":
        return "model_not_found"
    if status == 400 and "maximum context length" in message:
        return "context_length_exceeded"
    return "rate_limit_exceeded" if status == 429 else None


def _param(value: object) -> str | None:
    """Return the name of a request field, without pydantic's `body.`; not a byte offset."""
    if not isinstance(value, str):
        return None
    value = value.removeprefix("body.")
    return value if re.fullmatch(r"[a-z_][\w.\[\]]{0,99}", value, re.ASCII) else None


def _answered(status: int) -> str:
    return f"the upstream answered {status} {_phrase(status)}"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "error"


_VALIDATION = re.compile(r"\d+ validation errors?:")
_PROBLEM = re.compile(r"'loc': '(?:body\.?)?([^']{0,100})', 'msg': '([^']{0,200})'")


def _summary(message: str) -> str:
    """Reduce vLLM's validation report to "place: problem"; it also quotes the request."""
    if not _VALIDATION.match(message):
        return message
    problems = _PROBLEM.findall(message[:_SCRUBBED])
    return "; ".join(f"{_place(loc)}{text}" for loc, text in problems) or message


def _place(loc: str) -> str:
    named = re.sub(r"\.(\d+)", r"[\1]", loc)
    return "" if not named or named.isdigit() else f"{named}: "


_SCRUBBED = 2000  # characters looked at; what goes out is bounded again
_LONGEST = 500
_LEAKS = re.compile(
    r"""
      For\ further\ information\ visit[^\n]*      # pydantic
    | [a-z0-9+.-]{0,16}://[^\s'"<>]*              # URLs
    | \bdata:[^\s'"]{16,}
    | <class\ '[^']*'> | <[\w.]+\ (?:object|of)\b[^<>]*>
    | \b0x[0-9a-f]{4,}\b
    | \('[^']*',\s*\d+(?:,\s*\d+)*\)              # a socket address, as Python prints it
    | \[?\b(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}\b\]?(?::\d+)? | \[?::[0-9a-f.:]*\]?(?::\d+)?  # IPv6
    | \b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b
    | \blocalhost\b(?::\d+)?
    | \b[a-z_][\w-]*(?:\.[\w-]+){2,}(?::\d+)?     # a.b.c: host names, Python's dotted names
    | \b[a-z][\w.-]*:\d{2,5}\b | \b[\w-]{1,63}(?:\.[\w-]{1,63}){1,9}:\d{1,5}\b  # host:port
    | (?<=\bhost\ )[\w.-]+
    | \b(?:host(?:name)?|port)=['"]?[\w.:-]+
    | \b(?:hf_|sk-)[\w-]{8,}                      # tokens
    | (?<!\\)\\{2,}[\w.$-]+(?:\\+[^\s'"\\]*)*     # \\server\share
    | (?<![\w<.])~?(?:/[\w.@+~-]+)+/?             # /a/b
    | \b[a-z]:\\[^\s'"]*
    | \b[\w./-]+\.(?:py|so|json|jinja|safetensors|bin|gguf|ya?ml|toml|txt)\b
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f\s]+")


def scrub(text: str) -> str:
    """Remove what tells of the machine behind us: addresses, paths, URLs, class names. Bounded."""
    text = _CONTROLS.sub(" ", _LEAKS.sub("[removed]", text[:_SCRUBBED])).strip()
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
