"""The LiteLLM client, by its providers for OpenAI-compatible servers and for vLLM."""

from __future__ import annotations

import gc
import json
import sys
from importlib.metadata import version
from typing import Any

import litellm
from pydantic import BaseModel

from tests.clients.driver import MODEL, TOOL, TOOL_RESULT, Ask, Seen, serve

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": TOOL,
            "description": "The weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


class Recipe(BaseModel):
    title: str
    minutes: int


class Caller:
    def __init__(self, provider: str) -> None:
        self._provider = provider

    def act(self, ask: Ask, seen: Seen) -> None:
        messages: list[Any] = [{"role": "user", "content": ask.prompt}]
        if ask.action == "chat":
            self._talk(messages, ask, seen)
        elif ask.action == "form":
            self._talk(messages, ask, seen, response_format=Recipe)
            seen.form = Recipe.model_validate_json(seen.text).model_dump()
        else:
            self._tool(messages, ask, seen)

    def _tool(self, messages: list[Any], ask: Ask, seen: Seen) -> None:
        for _ in range(2):
            message = self._talk(messages, ask, seen, tools=TOOLS)
            if not message.tool_calls:
                return
            messages.append(message.model_dump())
            for call in message.tool_calls:
                arguments = json.loads(call.function.arguments)
                seen.calls.append({"name": call.function.name, "arguments": arguments})
                messages.append({"role": "tool", "tool_call_id": call.id, "content": TOOL_RESULT})

    def _talk(self, messages: list[Any], ask: Ask, seen: Seen, **more: Any) -> Any:
        gc.collect()  # when no request is under way: see below
        reply: Any = litellm.completion(
            model=f"{self._provider}/{MODEL}",
            api_base=ask.url,
            api_key="none",
            messages=messages,
            stream=ask.stream,
            **more,
        )
        if not ask.stream:
            choice = reply.choices[0]
            seen.id(reply.id)
            seen.piece(choice.message.content)
            seen.finish = choice.finish_reason
            note(choice.message, "message", seen)
            guard(reply, "response.guard", seen)
            return choice.message
        chunks = []
        for chunk in reply:
            chunks.append(chunk)
            choice = chunk.choices[0]
            seen.id(chunk.id)
            seen.piece(choice.delta.content)
            seen.finish = choice.finish_reason or seen.finish
            note(choice.delta, "delta", seen)
            guard(chunk, "chunk.guard", seen)
        built: Any = litellm.stream_chunk_builder(chunks, messages=messages)
        return built.choices[0].message


def note(holder: Any, name: str, seen: Seen) -> None:
    held = holder.model_dump()
    fields = held.get("provider_specific_fields") or {}
    for key in ("reasoning_content", "reasoning"):
        if held.get(key):
            seen.reasoning += held[key]
            seen.reasoning_at = f"{name}.{key}"
            break
    if refusal := held.get("refusal") or fields.get("refusal"):
        seen.refusal = (seen.refusal or "") + refusal


def guard(holder: Any, name: str, seen: Seen) -> None:
    if found := holder.model_dump().get("guard"):
        seen.guard, seen.guard_at = found["action"], name


if __name__ == "__main__":
    # LiteLLM leaves a streamed reply to the garbage collector. Closing it takes httpx' lock: where
    # the collector runs inside that lock, in the next request, the process hangs. Seen once in 200.
    gc.disable()
    serve(f"litellm {version('litellm')} {sys.argv[1]}/", Caller(sys.argv[1]).act)
