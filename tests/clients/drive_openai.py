"""The official Python client."""

from __future__ import annotations

from typing import Any

import openai
from openai import OpenAI
from pydantic import BaseModel

from tests.clients.driver import MODEL, TOOL_RESULT, Ask, Seen, serve


class Recipe(BaseModel):
    title: str
    minutes: int


class GetWeather(BaseModel):
    """The weather in a city."""

    city: str


TOOLS = [openai.pydantic_function_tool(GetWeather, name="get_weather")]


def act(ask: Ask, seen: Seen) -> None:
    client = OpenAI(base_url=ask.url, api_key="none")
    messages: list[Any] = [{"role": "user", "content": ask.prompt}]
    {"chat": chat, "form": form, "tool": tool, "two": two}[ask.action](client, messages, ask, seen)


def chat(client: OpenAI, messages: list[Any], ask: Ask, seen: Seen) -> None:
    if not ask.stream:
        whole(client.chat.completions.create(model=MODEL, messages=messages), seen)
        return
    for chunk in client.chat.completions.create(model=MODEL, messages=messages, stream=True):
        part(chunk, seen)


def form(client: OpenAI, messages: list[Any], ask: Ask, seen: Seen) -> None:
    call: Any = {"model": MODEL, "messages": messages, "response_format": Recipe}
    if ask.stream:
        with client.chat.completions.stream(**call) as stream:
            for event in stream:
                if event.type == "chunk":
                    part(event.chunk, seen)
            parsed = stream.get_final_completion().choices[0].message.parsed
    else:
        reply = client.chat.completions.parse(**call)
        whole(reply, seen)
        parsed = reply.choices[0].message.parsed
    seen.form = parsed.model_dump() if parsed else None


def tool(client: OpenAI, messages: list[Any], ask: Ask, seen: Seen) -> None:
    """Calls what the model asks for, and sends the result back."""
    call: Any = {"model": MODEL, "messages": messages, "tools": TOOLS}
    for _ in range(2):
        if ask.stream:
            with client.chat.completions.stream(**call) as stream:
                for event in stream:
                    if event.type == "chunk":
                        part(event.chunk, seen)
                message = stream.get_final_completion().choices[0].message
        else:
            reply = client.chat.completions.parse(**call)
            whole(reply, seen)
            message = reply.choices[0].message
        if not message.tool_calls:
            return
        messages.append(message)
        for wanted in message.tool_calls:
            arguments = GetWeather.model_validate(wanted.function.parsed_arguments).model_dump()
            seen.calls.append({"name": wanted.function.name, "arguments": arguments})
            messages.append({"role": "tool", "tool_call_id": wanted.id, "content": TOOL_RESULT})


def two(client: OpenAI, messages: list[Any], ask: Ask, seen: Seen) -> None:
    seen.texts = ["", ""]
    call: Any = {"model": MODEL, "messages": messages, "n": 2, "logprobs": True}
    if ask.stream:
        for chunk in client.chat.completions.create(**call, stream=True):
            seen.id(chunk.id)
            for choice in chunk.choices:
                seen.texts[choice.index] += choice.delta.content or ""
    else:
        reply = client.chat.completions.create(**call)
        seen.id(reply.id)
        for choice in reply.choices:
            seen.texts[choice.index] = choice.message.content or ""


def whole(reply: Any, seen: Seen) -> None:
    choice = reply.choices[0]
    seen.id(reply.id)
    seen.piece(choice.message.content)
    seen.finish, seen.refusal = choice.finish_reason, choice.message.refusal
    extra(choice.message, "message", seen)
    guard(reply, "completion.guard", seen)


def part(chunk: Any, seen: Seen) -> None:
    seen.id(chunk.id)
    guard(chunk, "chunk.guard", seen)
    choice = chunk.choices[0]  # as most programs have it
    seen.piece(choice.delta.content)
    seen.finish = choice.finish_reason or seen.finish
    if choice.delta.refusal:
        seen.refusal = (seen.refusal or "") + choice.delta.refusal
    extra(choice.delta, "delta", seen)


def extra(holder: Any, name: str, seen: Seen) -> None:
    if text := (holder.model_extra or {}).get("reasoning"):
        seen.reasoning += text
        seen.reasoning_at = f"{name}.reasoning"


def guard(holder: Any, name: str, seen: Seen) -> None:
    if found := (holder.model_extra or {}).get("guard"):
        seen.guard, seen.guard_at = found["action"], name


if __name__ == "__main__":
    serve(f"openai-python {openai.__version__}", act)
