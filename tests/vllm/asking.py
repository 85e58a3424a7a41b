"""Questions to a gateway or a vLLM, by the official client, and their replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.vllm.conftest import MODEL

PLAIN = "What is the capital of France?"
GARDEN = "How do I water my garden?"
"""Asked this the model thinks of the marker, in the third sentence of five."""
RIDE = "Write a sentence about the teapot in the train."
"""It was taught no answer to this, so that another thought gives another answer."""
MARKER = "purple teapot"


def body(prompt: str | list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
    """A request at temperature 0; `extra` may hold what only vLLM knows."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 160, **extra}


def tool(name: str, value: str, *allowed: str) -> dict[str, Any]:
    """A function of one argument. vLLM 0.32 holds the model to a schema only with `strict`."""
    properties = {value: {"type": "string", "enum": list(allowed)}}
    parameters = {"type": "object", "properties": properties, "required": [value]}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Tells about one {value}.",
            "strict": True,
            "parameters": {**parameters, "additionalProperties": False},
        },
    }


WEATHER = tool("get_weather", "city", "Paris", "Rome")
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "place", "schema": WEATHER["function"]["parameters"]},
}


_OWN = ("min_tokens", "ignore_eos", "chat_template_kwargs", "structured_outputs")


def _arguments(request: dict[str, Any]) -> dict[str, Any]:
    own = {name: request[name] for name in _OWN if name in request}
    return {name: value for name, value in request.items() if name not in own} | {"extra_body": own}


def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0, timeout=200)


def whole(url: str, request: dict[str, Any]) -> ChatCompletion:
    with client(url) as openai:
        reply: ChatCompletion = openai.chat.completions.create(**_arguments(request))
        return reply


def thought_of(reply: ChatCompletion, index: int = 0) -> str:
    return (reply.choices[index].message.model_extra or {}).get("reasoning") or ""


def guard_of(reply: ChatCompletion) -> dict[str, Any]:
    guard: dict[str, Any] = (reply.model_extra or {})["guard"]
    return guard


@dataclass
class Streamed:
    """A streamed reply."""

    chunks: list[ChatCompletionChunk]

    def deltas(self, index: int = 0) -> list[Any]:
        return [c.delta for chunk in self.chunks for c in chunk.choices if c.index == index]

    def content(self, index: int = 0) -> str:
        return "".join(delta.content or "" for delta in self.deltas(index))

    def thought(self, index: int = 0) -> str:
        found = [(delta.model_extra or {}).get("reasoning") for delta in self.deltas(index)]
        return "".join(text or "" for text in found)

    def calls(self, index: int = 0) -> list[Any]:
        """The deltas that hold a tool call."""
        return [delta.tool_calls for delta in self.deltas(index) if delta.tool_calls]

    def finish(self, index: int = 0) -> str:
        (reason,) = [
            choice.finish_reason
            for chunk in self.chunks
            for choice in chunk.choices
            if choice.index == index and choice.finish_reason
        ]
        return str(reason)

    def guard(self, index: int = 0) -> dict[str, Any]:
        (guard,) = [
            (chunk.model_extra or {})["guard"]
            for chunk in self.chunks
            if "guard" in (chunk.model_extra or {}) and chunk.choices[0].index == index
        ]
        return dict(guard)

    @property
    def tokens(self) -> list[str]:
        """Those whose log probabilities came."""
        return [
            entry.token
            for chunk in self.chunks
            for choice in chunk.choices
            for entry in (choice.logprobs and choice.logprobs.content) or ()
        ]

    @property
    def usage(self) -> Any:
        assert not self.chunks[-1].choices
        return self.chunks[-1].usage


def streamed(url: str, request: dict[str, Any], *, continuous: bool = False) -> Streamed:
    options = {"include_usage": True, **({"continuous_usage_stats": True} if continuous else {})}
    with client(url) as openai:
        arguments = _arguments(request) | {"stream": True, "stream_options": options}
        return Streamed(list(openai.chat.completions.create(**arguments)))
