"""Other gateways' conversations: what of them is to be judged, and as what.

Their messages are OpenAI's in the large and anything in the small, so nothing is refused for a
field that we do not know, and what is not plain text is judged as it may be written into a prompt
(`gateway.prompt.readings`). Only what we cannot judge at all (images, audio, files) is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.checks import is_image
from gateway.errors import RequestError
from gateway.fields import wrong_type
from gateway.judging import no_image
from gateway.prompt import OPERATORS, latest_turn, readings
from monitors.judges.base import Passage
from monitors.policy import Policy
from monitors.taxonomy import Stage
from monitors.wire import FunctionDelta, ToolDelta

_TEXTS = ("text", "refusal", "thinking")
_UNREAD = ("audio", "video", "file", "document")
_THOUGHTS = ("reasoning", "reasoning_content")
_READ = frozenset({"role", "content", "name", "tool_calls", *_THOUGHTS})


@dataclass(slots=True)
class Conversation:
    """What was said: texts of the request, and the reply where there is one."""

    inputs: dict[str, bool] = field(default_factory=dict)
    """Distinct texts, each in every way that a template may join it; whether of the latest turn, or
    of none."""
    prompt: str = ""
    """The latest user message, context of the reply."""
    reasoning: str = ""
    answer: str = ""
    calls: Sequence[ToolDelta] = ()

    @property
    def replied(self) -> bool:
        """Whether there is a reply to judge."""
        return bool(self.reasoning or self.answer or self.calls)

    def add(self, *texts: str, latest: bool = True) -> None:
        """More of the request. What was known keeps its turn, but for the latest."""
        for text in texts:
            if text.strip():
                self.inputs[text] = self.inputs.get(text, False) or latest

    def add_unplaced(self, *texts: str) -> None:
        """Texts of which nobody says where they stand: of the latest turn, unless known already."""
        self.add(*(text for text in texts if text not in self.inputs))

    def asked(self, policy: Policy) -> list[Passage]:
        """What of the request that policy has judged."""
        everything = policy.input.scope == "all"
        return [
            Passage(Stage.INPUT, t) for t, latest in self.inputs.items() if latest or everything
        ]


def read(messages: Sequence[Any], name: str, *, replied: bool = False) -> Conversation:
    """Read messages. `replied`: a last one of the assistant's is the reply, not of the request.

    Raises RequestError.
    """
    for at, message in enumerate(messages):
        if not isinstance(message, dict):
            raise wrong_type(f"{name}[{at}]", "an object")
    found = Conversation()
    rows = [(message, f"{name}[{at}]") for at, message in enumerate(messages)]
    if replied and rows and rows[-1][0].get("role") == "assistant":
        last, place = rows.pop()
        found.answer = "".join(_texts(last.get("content"), place))
        thoughts = dict.fromkeys(_strings(last.get(key) for key in _THOUGHTS))
        found.reasoning = "".join(thoughts)  # some servers write it under both names
        found.calls = calls_of(last.get("tool_calls"), f"{place}.tool_calls")
    start = latest_turn([message for message, _ in rows])
    row: list[str] = []  # of users' messages without an answer between

    def end_row(latest: bool) -> None:
        if row:  # they stand one behind the other in the prompt
            found.prompt = "\n".join(row)
            found.add(found.prompt, "".join(row), latest=latest)
            row.clear()

    for at, (message, place) in enumerate(rows):
        role = message.get("role")
        operator = isinstance(role, str) and role in OPERATORS
        if role != "user" and not operator:
            end_row(at > start)
        texts = _of_message(message, place, found, latest=at >= start or operator)
        if role == "user":
            row += texts
    end_row(latest=True)
    return found


def _of_message(
    message: dict[str, Any], place: str, found: Conversation, *, latest: bool
) -> list[str]:
    """Add what one message brings; returns the texts of its content."""
    texts = list(_texts(message.get("content"), place))
    found.add(*texts, "\n".join(texts), "".join(texts), latest=latest)
    found.add(*_strings(message.get(key) for key in ("name", *_THOUGHTS)), latest=latest)
    for call in calls_of(message.get("tool_calls"), f"{place}.tool_calls"):
        found.add(*call_readings(call), latest=latest)
    if rest := {key: message[key] for key in message.keys() - _READ if message[key]}:
        found.add(*readings(rest), latest=latest)
    return texts


def _texts(content: Any, place: str) -> Iterator[str]:
    """The texts of a message's content; what is none, as it may be written."""
    if content is None:
        return
    if isinstance(content, str):
        yield content
        return
    if not isinstance(content, list):
        raise wrong_type(f"{place}.content", "a string or a list of parts")
    for at, part in enumerate(content):
        if isinstance(part, str):
            yield part
            continue
        if not isinstance(part, dict):
            raise wrong_type(f"{place}.content[{at}]", "an object")
        if is_image(part):
            raise no_image(f"{place}.content[{at}]")
        kind = str(part.get("type"))
        if any(word in kind for word in _UNREAD):
            param = f"{place}.content[{at}]"
            problem = f"'{param}' is no text: audio, video and files are not judged"
            raise RequestError(problem, param=param, code="unsupported_value")
        plain = [key for key in _TEXTS if isinstance(part.get(key), str)]
        yield from (part[key] for key in plain)
        if rest := {key: part[key] for key in part.keys() - {"type", "cache_control", *plain}}:
            yield readings(rest)[1]


def _strings(values: Iterable[Any]) -> Iterator[str]:
    return (value for value in values if isinstance(value, str))


def calls_of(calls: Any, place: str) -> list[ToolDelta]:
    """Tool calls, of OpenAI's shape or nearly. Raises RequestError."""
    if calls is None:
        return []
    if not isinstance(calls, list) or len(calls) > 1000:
        raise wrong_type(place, "a list of at most 1000 calls")
    found: list[ToolDelta] = []
    for at, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise wrong_type(f"{place}[{at}].function", "an object")
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode()
        name = function.get("name")
        named = name if isinstance(name, str) else ""
        found.append(ToolDelta(at, None, FunctionDelta(named, arguments)))
    return found


def call_readings(call: ToolDelta) -> tuple[str, str]:
    """A call of the request's as templates write it: as it came, and its bare values."""
    arguments = call.function.arguments or ""
    called = f"{call.function.name} {arguments}"
    try:
        return called, readings(msgspec.json.decode(arguments))[1]
    except (msgspec.MsgspecError, RecursionError):
        return called, called
