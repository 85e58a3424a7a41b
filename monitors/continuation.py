"""The request that goes on with a generation that was cut: resumed behind its text, or anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monitors.events import Restart, Resume
from monitors.task import ResumeMethod

_BUDGETS = ("max_tokens", "max_completion_tokens")


def next_body(
    body: Mapping[str, Any], leg: Resume | Restart, method: ResumeMethod = ResumeMethod.CONTINUE
) -> dict[str, Any]:
    """The body of a chat completion request to vLLM that goes on with the one of `body`.

    All else stays as it was: images, sampling, tools, cache salt.
    """
    following = dict(body)
    following.pop("min_tokens", None)  # was meant for the whole reply
    for name in _BUDGETS:
        if following.get(name) is not None:
            following[name] = max(1, following[name] - leg.spent)
    if isinstance(leg, Restart):
        following["messages"] = _with_system_thought(body["messages"], leg.thought)
    elif method is ResumeMethod.TEMPLATE_KWARG:
        kwargs = dict(body.get("chat_template_kwargs") or {})
        kwargs["think_prefix"] = leg.prefix.removeprefix(leg.opener).removeprefix("\n")
        following["chat_template_kwargs"] = kwargs
    else:
        following["messages"] = [*body["messages"], {"role": "assistant", "content": leg.prefix}]
        following["continue_final_message"] = True
        following["add_generation_prompt"] = False
    return following


def _with_system_thought(
    messages: Sequence[Mapping[str, Any]], thought: str
) -> list[Mapping[str, Any]]:
    """The messages with a thought as (the end of) their system message."""
    first = messages[0]
    if first["role"] == "system" and isinstance(first["content"], str):
        return [{**first, "content": f"{first['content']}\n\n{thought}"}, *messages[1:]]
    return [{"role": "system", "content": thought}, *messages]
