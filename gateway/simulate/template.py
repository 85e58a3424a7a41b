"""The chat template: what the model sees of a request, and where it goes on from."""

from __future__ import annotations

from typing import Any

from gateway.simulate.options import SimulatorOptions
from gateway.simulate.requests import Chat

OPENER, CLOSER = "<think>", "</think>"
EMPTY_THINK = f"{OPENER}\n\n{CLOSER}\n\n"


def message_text(message: dict[str, Any], image: str = "") -> str:
    """The text of a message, whose content is a string or parts; `image` stands for each image."""
    content = message.get("content")
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    parts = [part for part in content if isinstance(part, dict)]
    return "".join(str(part["text"]) if "text" in part else image for part in parts)


def continued(chat: Chat, options: SimulatorOptions) -> str | None:
    """The assistant text that generation goes on from; None for a new turn."""
    kwargs = chat.template_kwargs
    if options.template_kwarg is not None and options.template_kwarg in kwargs:
        return f"{OPENER}\n{kwargs[options.template_kwarg]}"
    if not chat.continue_final_message or not chat.messages:
        return None
    last = chat.messages[-1]
    if last.get("role") != "assistant":
        return None
    text, reasoning = message_text(last), last.get("reasoning")
    # the template closes a thought that comes in the field: it cannot be continued that way
    return f"{OPENER}\n{reasoning}\n{CLOSER}\n\n{text}" if reasoning else text


def render(chat: Chat, options: SimulatorOptions) -> str:
    """The prompt as the model sees it, ChatML; it ends with the continued text, exactly."""
    prefix = continued(chat, options)
    final = prefix is not None and chat.continue_final_message
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    rendered = "".join(
        f"<|im_start|>{message.get('role')}\n{message_text(message, image)}<|im_end|>\n"
        for message in (chat.messages[:-1] if final else chat.messages)
    )
    if prefix is None and not chat.add_generation_prompt:
        return rendered
    rendered += "<|im_start|>assistant\n"
    if prefix is None:
        return rendered + (EMPTY_THINK if no_thinking(chat) else "")
    wrapped = options.wrap_empty_think and final and prefix.startswith(OPENER)
    return rendered + (EMPTY_THINK if wrapped else "") + prefix


def no_thinking(chat: Chat) -> bool:
    """Whether the request turns thinking off."""
    return chat.template_kwargs.get("enable_thinking") is False
