"""Chat requests: what is read of them, and vLLM's words for those it refuses."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from gateway.simulate.options import SimulatorOptions


class RequestError(Exception):
    """A request that vLLM answers with an error."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        kind: str = "BadRequestError",
        status: int = 400,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class StreamOptions(BaseModel):
    """Which events of a stream carry usage."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class Chat(BaseModel):
    """The fields of a chat request that this server heeds; it accepts all others, as vLLM does."""

    model_config = ConfigDict(frozen=True)

    messages: list[dict[str, Any]]
    model: str | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    n: int | None = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool = False
    include_reasoning: bool = True
    return_prompt_text: bool | None = False

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in stop if text]

    @property
    def limit(self) -> int | None:
        """How many tokens the reply may have."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """The arguments of the chat template."""
        return self.chat_template_kwargs or {}

    @property
    def last_user(self) -> int:
        """Index of the last user message, -1 without one."""
        roles = [message.get("role") for message in self.messages]
        return max((index for index, role in enumerate(roles) if role == "user"), default=-1)


class Tokenize(BaseModel):
    """A request for the tokens of a text."""

    prompt: str


_Body = TypeVar("_Body", bound=BaseModel)


async def parsed(request: Request, model: type[_Body]) -> _Body:
    """The body as `model`; errors read as vLLM words them."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        allowed = (
            "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        )
        raise RequestError(allowed, kind="Bad Request")
    try:
        body = json.loads(await request.body())
    except json.JSONDecodeError as error:
        where = f"body.{error.pos}"
        detail: dict[str, Any] = {"type": "json_invalid", "loc": where, "msg": "JSON decode error"}
        detail |= {"input": "<dict of 0 items>", "ctx": {"error": error.msg}}
        raise RequestError(_one_error(detail), param=where, kind="Bad Request") from None
    except UnicodeDecodeError:
        raise RequestError("There was an error parsing the body", kind="Bad Request") from None
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(["body", *map(str, first["loc"])])
        shown = f"<{type(first['input']).__name__}>"
        if isinstance(first["input"], dict | list):
            shown = f"<{type(first['input']).__name__} of {len(first['input'])} items>"
        detail = {"type": first["type"], "loc": where, "msg": first["msg"], "input": shown}
        raise RequestError(_one_error(detail), param=where, kind="Bad Request") from None


def _one_error(detail: dict[str, Any]) -> str:
    return f"1 validation error:\n  {detail}"


def check(chat: Chat, options: SimulatorOptions) -> None:
    """Refuse what vLLM refuses. Raises `RequestError`."""
    if options.strict_model and chat.model not in (None, options.model):
        message = f"The model `{chat.model}` does not exist. Valid aliases: {options.model}."
        raise RequestError(message, param="model", kind="NotFoundError", status=404)
    if chat.continue_final_message and chat.add_generation_prompt:
        raise RequestError(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        )
    if chat.chat_template is not None:
        raise RequestError(
            "Chat template is passed with request, but --trust-request-chat-template is not set. "
            "Refused request with untrusted chat template."
        )
    if chat.stream_options and not chat.stream:
        raise RequestError("Stream options can only be defined when `stream=True`.")
    if chat.temperature is not None and chat.temperature < 0:
        _refuse_value(
            "temperature", chat.temperature, f"must be non-negative, got {chat.temperature}."
        )
    if chat.n not in (None, 1):
        _refuse_value("n", chat.n, f"must be 1 for a simulated model, got {chat.n}.")
    limit, longest = chat.limit, options.max_model_len
    if limit is not None and limit < 1:
        _refuse_value("max_tokens", limit, f"must be at least 1, got {limit}.")
    if limit is not None and limit > longest:
        raise RequestError(
            f"max_tokens={limit} cannot be greater than max_model_len={longest}. Please request "
            f"fewer output tokens. (parameter=max_tokens, value={limit})",
            param="max_tokens",
        )


def _refuse_value(name: str, value: object, problem: str) -> None:
    raise RequestError(f"{name} {problem} (parameter={name}, value={value})", param=name)
