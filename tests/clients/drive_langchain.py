"""LangChain's `ChatOpenAI`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.clients.driver import MODEL, TOOL_RESULT, Ask, Seen, serve


class Recipe(BaseModel):
    title: str
    minutes: int


def get_weather(city: str) -> str:
    """The weather in a city."""
    return TOOL_RESULT


def act(ask: Ask, seen: Seen) -> None:
    model: Any = ChatOpenAI(model=MODEL, base_url=ask.url, api_key="none")
    messages: list[Any] = [HumanMessage(ask.prompt)]
    if ask.action == "form":
        form(model, messages, ask, seen)
        return
    if ask.action == "chat":
        talk(model, messages, ask, seen)
        return
    model = model.bind_tools([get_weather])
    for _ in range(2):
        reply = talk(model, messages, ask, seen)
        if not reply.tool_calls:
            return
        messages.append(reply)
        for call in reply.tool_calls:
            seen.calls.append({"name": call["name"], "arguments": call["args"]})
            result = get_weather(**call["args"])
            messages.append(ToolMessage(result, tool_call_id=call["id"]))


def talk(model: Any, messages: list[Any], ask: Ask, seen: Seen) -> AIMessage:
    if not ask.stream:
        reply = model.invoke(messages)
        seen.piece(reply.text)
        note(reply, seen)
        return reply
    total: AIMessageChunk | None = None
    for chunk in model.stream(messages):
        seen.piece(chunk.text)
        total = chunk if total is None else total + chunk
    assert total is not None
    note(total, seen)
    return total


def form(model: Any, messages: list[Any], ask: Ask, seen: Seen) -> None:
    structured = model.with_structured_output(Recipe)
    if ask.stream:
        for parsed in structured.stream(messages):
            seen.form = parsed.model_dump()
    else:
        seen.form = structured.invoke(messages).model_dump()


def note(reply: AIMessage, seen: Seen) -> None:
    seen.finish = reply.response_metadata.get("finish_reason")
    seen.refusal = reply.additional_kwargs.get("refusal")
    for where in ("additional_kwargs", "response_metadata"):
        held = getattr(reply, where)
        for name in ("reasoning", "reasoning_content"):
            if held.get(name):
                seen.reasoning, seen.reasoning_at = held[name], f"{where}.{name}"
        if held.get("guard"):
            seen.guard, seen.guard_at = held["guard"]["action"], f"{where}.guard"


if __name__ == "__main__":
    serve(f"langchain-openai {version('langchain-openai')}", act)
