"""POST /v1/chat/completions: admit the request, pick what it is judged by, relay it."""

from __future__ import annotations

import asyncio
import time
import uuid

import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.access import DETAIL, Client
from gateway.errors import OverloadedError, PayloadTooLargeError, RequestError
from gateway.relay import Exchange, Relay
from gateway.reply import ReplyHead
from gateway.request import ChatRequest, admit, reencode_images, trace_headers
from gateway.state import Gateway
from monitors.judges.base import Passage
from monitors.task import Task
from monitors.taxonomy import Mode, Stage
from monitors.wording import detect_language

BODY_SECONDS = 60.0
"""A client must have sent its request by then."""


def new_request_id() -> str:
    """One id from end to end: reply, headers, logs, upstream."""
    return uuid.uuid4().hex


async def chat_completions(gateway: Gateway, request: Request, request_id: str) -> Response | Relay:
    """Answer one request. Raises GatewayError for what is wrong before the upstream is asked."""
    client = gateway.keys.authenticate(request.headers.get("authorization"))
    if gateway.live >= gateway.settings.max_streams:
        raise OverloadedError("the gateway has all the generations it can guard; try again")
    with gateway.count_live():  # its body takes room too; the relay counts on, no wait between
        admitted = await _admit(gateway, request)
        task = await _task(gateway, admitted)
    return Relay(
        _exchange(gateway, request, request_id, client, admitted),
        gateway.policy,
        task,
        upstream=gateway.upstream,
        judges=gateway.judges,
        observer=gateway.observe,
        live=gateway.count_live,
    )


async def _admit(gateway: Gateway, request: Request) -> ChatRequest:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError("the content type must be application/json")
    settings = gateway.settings
    body = await _body(request, settings.request_limits.body_bytes)
    admitted = admit(body, permissive=settings.permissive, limits=settings.request_limits)
    if admitted.images:
        await _reencode(gateway, request, admitted)
    return admitted


async def _reencode(gateway: Gateway, request: Request, admitted: ChatRequest) -> None:
    steps = reencode_images(admitted, gateway.settings.image_limits)
    more = True
    while more:  # every step queues anew, and no thread works for a client that left meanwhile
        async with gateway.image_threads:
            if await request.is_disconnected():
                raise RequestError("the client left before its images were read")
            more = await anyio.to_thread.run_sync(next, steps, False)


async def _body(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise PayloadTooLargeError(f"the request body is over {limit} bytes")
                parts.append(part)
    except TimeoutError as error:
        raise RequestError("the request body took too long to arrive") from error
    except ClientDisconnect as error:
        raise RequestError("the client left while sending its request") from error
    return b"".join(parts)


def _exchange(
    gateway: Gateway, request: Request, request_id: str, client: Client, admitted: ChatRequest
) -> Exchange:
    gateway.telemetry.images.labels("no").inc(admitted.images)
    return Exchange(
        request_id=request_id,
        head=ReplyHead(
            id=f"chatcmpl-{request_id}",
            model=admitted.model,
            created=int(time.time()),
            include_usage=admitted.include_usage,
        ),
        stream=admitted.stream,
        upstream_body=admitted.upstream,
        upstream_headers=trace_headers(request.headers),
        max_tokens=admitted.max_tokens,
        max_tokens_field=admitted.max_tokens_field,
        images=admitted.images,
        detail=gateway.settings.expose == "detail" or DETAIL in client.rights,
    )


async def _task(gateway: Gateway, admitted: ChatRequest) -> Task:
    judged = gateway.policy.mode is not Mode.OFF
    report = await gateway.probes.of(admitted.model)
    return Task(
        prompt=admitted.prompt_text,
        inputs=_inputs(admitted) if judged else (),
        language=detect_language(admitted.prompt_text),
        stop=admitted.stop,
        hide_reasoning=admitted.hide_reasoning,
        resume=report.method,
        format=gateway.settings.format or report.format,
    )


def _inputs(admitted: ChatRequest) -> tuple[Passage, ...]:
    """What of the request is judged: every distinct text of every message."""
    passages = {
        Passage(Stage.REASONING, passage.text, admitted.prompt_text)
        if passage.kind == "reasoning"
        else Passage(Stage.INPUT, passage.text)
        for passage in admitted.passages
        if passage.text.strip()
    }
    return tuple(sorted(passages, key=lambda passage: (passage.stage, passage.text)))
