"""Find out how an upstream goes on with a cut thought: measured on the server, never assumed.

What can go wrong (all seen on real vLLM): a chat template closes the block or wraps the continued
message behind an empty think block; a reasoning parser reports the continued thinking as answer;
the server ignores `continue_final_message`. So the probe continues a known prefix, has the server
show the prompt it rendered, and compares its end; then it looks in which field the text came back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.upstream import Upstream
from monitors.errors import GuardError
from monitors.formats import AUTO, CLOSER, OPENER, SEPARATED, THINK, THINK_OPEN, Format
from monitors.task import ResumeMethod
from monitors.wire import Chunk

_QUESTION = "What is the capital of France?"
_THOUGHT = "The user asks about the capital of France.\nI know this one well."
_EMPTY_BLOCK = re.compile(r"<think>\s*</think>\s*$", re.IGNORECASE)


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


async def probe(upstream: Upstream, model: str) -> ProbeReport:
    """Probe one model. Raises GuardError when the upstream cannot be asked at all."""
    report = ProbeReport(model, ResumeMethod.RESTART, AUTO)
    first = await upstream.complete(_body(model, max_tokens=48))
    report.format = _format(first, report.findings)
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


def _format(chunks: list[Chunk], findings: list[str]) -> Format:
    """Whether a reasoning parser separates, from how an ordinary reply begins."""
    reasoning, content, prompt = _texts(chunks)
    thought, closer, _ = content.lower().partition(CLOSER)
    opened = prompt is not None and prompt.rstrip().lower().endswith(OPENER)
    opened |= bool(closer) and OPENER not in thought  # closed, and not by the model opened
    if reasoning:
        findings.append("reasoning comes in a field of its own")
        return SEPARATED
    if content.lstrip().lower().startswith(OPENER):
        findings.append("reasoning comes inline, between <think> tags")
        return THINK
    if opened:
        findings.append("the chat template opens the think block; reasoning comes inline")
        return THINK_OPEN
    findings.append("no reasoning seen in an ordinary reply")
    return AUTO


async def _continues(upstream: Upstream, model: str, report: ProbeReport) -> bool:
    """Whether `continue_final_message` renders exactly what we give it, inside an open thought."""
    prefix = f"{OPENER}\n{_THOUGHT}"
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
    return _rendered(chunks, f"{OPENER}\n{_THOUGHT}", "the template kwarg think_prefix", report)


def _rendered(chunks: list[Chunk], prefix: str, how: str, report: ProbeReport) -> bool:
    reasoning, content, prompt = _texts(chunks)
    if prompt is None:
        report.findings.append(f"{how}: the server does not show its prompt, so nothing is proven")
        return False
    if not prompt.endswith(prefix):
        report.findings.append(f"{how}: the prompt does not end with the prefix")
        return False
    if _EMPTY_BLOCK.search(prompt[: -len(prefix)]):
        report.findings.append(f"{how}: the template puts an empty think block before the prefix")
        return False
    if report.format is SEPARATED and content and not reasoning:
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
