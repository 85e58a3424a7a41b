"""POST /beta/litellm_basic_guardrail_api: LiteLLM's Generic Guardrail API.

As LiteLLM 1.106 calls it, read in its package (`litellm/types/proxy/guardrails/guardrail_hooks/
generic_guardrail_api.py` and `litellm/proxy/guardrails/guardrail_hooks/generic_guardrail_api/`) and
described at https://docs.litellm.ai/docs/adding_provider/generic_guardrail_api. Sent are
`{input_type, texts, images, tools, tool_calls, structured_messages, ..}`, back go
`{action: NONE | BLOCKED, blocked_reason}`; GUARDRAIL_INTERVENED, which changes texts, is not used.

LiteLLM wants an action, not a verdict, so modes are kept: `shadow` judges and records, `off` does
not even judge, and both answer NONE. It can neither prime nor correct: what would, blocks. The
reason is the policy's refusal, which tells an attacker nothing; LiteLLM shows it to its client. It
calls us for a stream again and again with the text so far, so verdicts on steps are remembered,
too. Of a reply's thinking it sends nothing: whoever needs that judged puts this gateway in front
of the model.

Images are an error, which LiteLLM takes for a block unless it is told to `fail_on_error: false`. In
mode `shadow` they are counted, and the texts beside them judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import OverloadedError
from gateway.foreign import Conversation, call_readings, calls_of, read, rest_of_call, without_ids
from gateway.judging import Inquiry, bounded, no_image, parse, serve
from gateway.prompt import joined, readings
from gateway.request import RequestLimits
from monitors.events import Outcome
from monitors.evidence import Decision
from monitors.formats import SEPARATED
from monitors.task import ResumeMethod, Task
from monitors.taxonomy import Action, Mode
from monitors.wire import ToolDelta
from monitors.wording import detect_language

NONE: Final = {"action": "NONE"}


class GuardrailRequest(BaseModel):
    """The body, of which other fields tell who asks."""

    model_config = ConfigDict(extra="ignore", strict=True)

    input_type: Literal["request", "response"]
    texts: list[str] | None = None
    images: list[Any] | None = None
    tools: list[Any] | None = None
    tool_calls: list[Any] | None = None
    structured_messages: list[Any] | None = None


@dataclass(slots=True, frozen=True)
class Said:
    """What to judge: a request's conversation; or replies to it, each by itself, and calls."""

    conversation: Conversation
    replies: tuple[str, ...] = ()
    calls: tuple[ToolDelta, ...] = ()


async def guardrail(request: Request) -> Response:
    """Answer one request."""
    return await serve(request, "litellm", _read, _answer, off=NONE, bearer=_bearer)


def _bearer(headers: Mapping[str, str]) -> str | None:
    """LiteLLM sends its `api_key` as x-api-key, and what its configuration says in `headers`."""
    key = headers.get("x-api-key")
    return headers.get("authorization") or (f"Bearer {key}" if key else None)


def _read(document: dict[str, Any], limits: RequestLimits) -> Said:
    given = parse(GuardrailRequest, document)
    said = read(given.structured_messages or (), "structured_messages")
    if given.images:  # more than stand in the messages are of the reply
        there = sum(error.code == "image_not_judged" for error in said.unjudged)
        said.unjudged += [no_image("images")] * max(0, len(given.images) - there)
    calls = calls_of(given.tool_calls, "tool_calls")
    texts = given.texts or []
    rest = [left for call in given.tool_calls or () if (left := rest_of_call(call))]
    if given.input_type == "response":
        texts += [readings(left)[1] for left in map(without_ids, rest) if left]
        bounded((*texts, *(text for call in calls for text in call_readings(call))), limits)
        return Said(said, tuple(texts), tuple(calls))
    unplaced = [text for text in texts if text not in said.inputs]
    said.add(*unplaced, *joined(unplaced))  # parts of one message look like that, too
    for left in rest:
        said.add(*readings(left))
    for tool in given.tools or ():
        said.add(*readings(tool))
    for call in calls:
        said.add(*call_readings(call))
    bounded(said.inputs, limits)
    return Said(said)


async def _answer(inquiry: Inquiry, said: Said) -> dict[str, Any]:
    try:
        return await _action(inquiry, said)
    except OverloadedError:
        if inquiry.guard.policy.mode is Mode.ENFORCE:
            raise
        return NONE  # shadow changes nothing


async def _action(inquiry: Inquiry, said: Said) -> dict[str, Any]:
    policy = inquiry.guard.policy
    if unjudged := said.conversation.unjudged:
        if policy.mode is Mode.ENFORCE:
            raise unjudged[0]
        inquiry.found.unjudged += len(unjudged)
    prompt = said.conversation.prompt
    if said.replies or said.calls:
        decision: Decision | Outcome = await _replies(inquiry, said)
        prompt = prompt or "".join(said.replies[:1])
    else:
        passages = said.conversation.asked(inquiry.guard.policy)
        decision = inquiry.of_input((await inquiry.verdicts(passages)).values())
        prompt = prompt or next(iter(said.conversation.inputs), "")
    inquiry.decided(decision)
    if policy.mode is not Mode.ENFORCE or not decision.action.intervenes:
        return NONE
    refusal = policy.refusal(decision.scenario, detect_language(prompt))
    return {"action": "BLOCKED", "blocked_reason": refusal}


async def _replies(inquiry: Inquiry, said: Said) -> Outcome:
    """The strongest outcome of several choices' texts, and of the calls that came with them."""
    prompt = said.conversation.prompt
    strongest = Outcome()
    for number, text in enumerate(said.replies or ("",)):
        task = Task(prompt=prompt, resume=ResumeMethod.REFUSE, format=SEPARATED)
        calls = said.calls if number == 0 else ()
        outcome = (await inquiry.generation(task, "", text, calls)).outcome
        strongest = max(strongest, outcome, key=_strength)
    return strongest


def _strength(outcome: Outcome) -> int:
    action: Action = outcome.action
    return action.strength
