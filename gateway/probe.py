"""Find out how an upstream goes on with a cut thought: measured on the server, never assumed.

What can go wrong (all seen on real vLLM): a chat template closes the block or wraps the continued
message behind an empty think block; a reasoning parser reports the continued thinking as answer;
the server ignores `continue_final_message`. So the probe continues a known prefix, has the server
show the prompt it rendered, and compares its end; then it looks in which field the text came back.

The format is, in this order: what the operator says; separated, where reasoning comes in its field;
the registry's for this model name; what shows inline; else AUTO. Whether the chat template writes
the opener is always looked at, for a family known from the registry too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.upstream import Upstream
from monitors.errors import GuardError
from monitors.formats import AUTO, FAMILIES, Channel, Format, Mark, ReplyParser
from monitors.models import format_of
from monitors.task import ResumeMethod
from monitors.wire import Chunk

_QUESTION = "What is the capital of France?"
_THOUGHT = "The user asks about the capital of France.\nI know this one well."


@dataclass(slots=True)
class ProbeReport:
    """What was found, and why."""

    model: str
    method: ResumeMethod
    format: Format
    findings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For /readyz and the command's JSON."""
        return {
            "model": self.model,
            "resume": self.method.value,
            "format": self.format.name,
            "findings": self.findings,
        }


async def probe(upstream: Upstream, model: str, told: Format | None = None) -> ProbeReport:
    """Probe one model; `told` is the format that the operator gave.

    Raises GuardError when the upstream cannot be asked at all.
    """
    report = ProbeReport(model, ResumeMethod.RESTART, AUTO)
    first = await upstream.complete(_body(model, max_tokens=48))
    report.format = _format(first, model, report.findings)
    if told is not None:
        report.findings.append(f"the format is set to {told.name}")
        report.format = told
    if await _continues(upstream, model, report):
        report.method = ResumeMethod.CONTINUE
    elif await _takes_kwarg(upstream, model, report):
        report.method = ResumeMethod.TEMPLATE_KWARG
    else:
        report.findings.append("a correction restarts with the safety thought as system message")
    return report


def _body(model: str, *, max_tokens: int = 24, **extra: Any) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": _QUESTION}],
        "temperature": 0,
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "return_prompt_text": True,
        **extra,
    }


def _format(chunks: list[Chunk], model: str, findings: list[str]) -> Format:
    """How the upstream writes reasoning, from how an ordinary reply begins and who says it."""
    reasoning, content, prompt = _texts(chunks)
    family = format_of(model)
    if family is not None:
        findings.append(f"the registry knows this model's format: {family.name}")
    if reasoning:
        findings.append("reasoning comes in a field of its own")
        return (family or _opened_by(prompt or "", AUTO) or AUTO).parsed
    known = family if family is not None and family.known else AUTO
    seen, opened = _inline(content, prompt or "", known)
    if seen is None:
        findings.append("no reasoning seen in an ordinary reply")
        return family or AUTO
    if opened:
        findings.append("the chat template opens the think block; reasoning comes inline")
        return seen.opened
    findings.append(f"reasoning comes inline, behind {seen.opener}")
    return seen


def _inline(content: str, prompt: str, family: Format) -> tuple[Format | None, bool]:
    """Whose tags show in `content` or at the prompt's end, and whether the template opens."""
    parser = ReplyParser(family)
    pieces = parser.feed("", content) + parser.close()
    marks = [piece.mark for piece in pieces if piece.mark in (Mark.OPEN, Mark.CLOSE)]
    if marks and marks[0] is Mark.OPEN:
        return parser.family, False
    if (opened := _opened_by(prompt, family)) is not None:
        return opened, True
    thought = "".join(piece.text for piece in pieces if piece.channel is Channel.UNPARSED)
    if marks and not parser.family.opens_in(thought):  # closed, and not by the model opened
        return parser.family, True
    return None, False


def _opened_by(prompt: str, family: Format) -> Format | None:
    """The family whose opener the rendered prompt ends with."""
    families = (family,) if family.known else FAMILIES
    return next((each for each in families if each.is_open_after(prompt)), None)


async def _continues(upstream: Upstream, model: str, report: ProbeReport) -> bool:
    """Whether `continue_final_message` renders exactly what we give it, inside an open thought."""
    prefix = f"{report.format.opener}\n{_THOUGHT}"
    body = _body(model, continue_final_message=True, add_generation_prompt=False)
    body["messages"] = [*body["messages"], {"role": "assistant", "content": prefix}]
    try:
        chunks = await upstream.complete(body)
    except GuardError as error:
        report.findings.append(f"continue_final_message is refused: {error}")
        return False
    return _rendered(chunks, prefix, "continue_final_message", report)


async def _takes_kwarg(upstream: Upstream, model: str, report: ProbeReport) -> bool:
    """Whether the operator's chat template takes the prefix as `think_prefix`."""
    kwargs: Mapping[str, Any] = {"think_prefix": _THOUGHT}
    try:
        chunks = await upstream.complete(_body(model, chat_template_kwargs=kwargs))
    except GuardError as error:
        report.findings.append(f"chat_template_kwargs is refused: {error}")
        return False
    prefix = f"{report.format.opener}\n{_THOUGHT}"
    return _rendered(chunks, prefix, "the template kwarg think_prefix", report)


def _rendered(chunks: list[Chunk], prefix: str, how: str, report: ProbeReport) -> bool:
    reasoning, content, prompt = _texts(chunks)
    if prompt is None:
        report.findings.append(f"{how}: the server does not show its prompt, so nothing is proven")
        return False
    if not prompt.endswith(prefix):
        report.findings.append(f"{how}: the prompt does not end with the prefix")
        return False
    if report.format.is_empty_at_end(prompt[: -len(prefix)]):
        report.findings.append(f"{how}: the template puts an empty think block before the prefix")
        return False
    if report.format.separated and content and not reasoning:
        report.findings.append(f"{how}: the reasoning parser reports continued thinking as answer")
        return False
    report.findings.append(f"{how}: the prompt ends with the prefix exactly")
    return True


def _texts(chunks: list[Chunk]) -> tuple[str, str, str | None]:
    """(reasoning, content, prompt as the server rendered it)."""
    reasoning, content, prompt = "", "", None
    for chunk in chunks:
        prompt = chunk.prompt_text or prompt
        for choice in chunk.choices[:1]:
            reasoning += choice.delta.reasoning or choice.delta.reasoning_content or ""
            content += choice.delta.content or ""
    return reasoning, content, prompt
