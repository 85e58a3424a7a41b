"""Errors in OpenAI's shape; nothing of the machine behind us in their texts."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from gateway.errors import (
    AuthenticationError,
    GatewayError,
    NotFoundError,
    OverloadedError,
    PayloadTooLargeError,
    RequestError,
    UpstreamHTTPError,
    UpstreamUnavailableError,
    error_body,
    scrub,
    to_reply,
    upstream_error,
)
from monitors.errors import WireError


def vllm(message: str, status: int = 400, param: str | None = None) -> bytes:
    fields = {"message": message, "type": "BadRequestError", "param": param, "code": status}
    return json.dumps({"error": fields}).encode()


@pytest.mark.parametrize(
    ("error", "status", "error_type", "code"),
    [
        (RequestError("m", param="p"), 400, "invalid_request_error", None),
        (PayloadTooLargeError("m"), 413, "invalid_request_error", "request_too_large"),
        (AuthenticationError("m"), 401, "invalid_request_error", "invalid_api_key"),
        (NotFoundError("m"), 404, "invalid_request_error", "not_found"),
        (OverloadedError("m", retry_after=3), 503, "server_error", "overloaded"),
        (UpstreamUnavailableError("m"), 502, "server_error", "upstream_unavailable"),
        (UpstreamUnavailableError("m", status=504), 504, "server_error", "upstream_unavailable"),
        (UpstreamHTTPError(422, "m", "t", "c"), 422, "t", "c"),
    ],
)
def test_errors_become_openai_replies(
    error: GatewayError, status: int, error_type: str, code: str | None
) -> None:
    reply = to_reply(error)
    fields = {"message": "m", "type": error_type, "param": error.param, "code": code}
    assert (reply.status, reply.body) == (status, {"error": fields})
    assert reply.headers == ({"Retry-After": "3"} if status == 503 else {})


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("secret"), 500, "internal error"),
        (KeyboardInterrupt("secret"), 500, "internal error"),
        (WireError("secret"), 502, "the upstream's reply cannot be read"),
        (HTTPException(404, "secret"), 404, "unknown path"),
        (HTTPException(405, "secret"), 405, "Method Not Allowed"),
        (HTTPException(503, "secret"), 500, "internal error"),
    ],
)
def test_other_exceptions_keep_their_text(error: BaseException, status: int, message: str) -> None:
    reply = to_reply(error)
    assert (reply.status, reply.body["error"]["message"]) == (status, message)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [  # bodies as vLLM 0.32 sends them
        (
            404,
            vllm("The model `nope` does not exist. Valid aliases: think.", 404, "model"),
            (404, "The model `nope` does not exist. Valid aliases: think.", "model_not_found"),
        ),
        (
            400,
            vllm("This model's maximum context length is 2048 tokens. However, ..."),
            (
                400,
                "This model's maximum context length is 2048 tokens. However, ...",
                "context_length_exceeded",
            ),
        ),
        (
            400,
            vllm(
                "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages.0.role', "
                "'msg': 'Field required', 'input': '<dict of 1 items>'}"
            ),
            (400, "messages[0].role: Field required", None),
        ),
        (
            400,
            vllm(
                "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.28', 'msg': "
                "'JSON decode error', 'input': '<dict of 0 items>', 'ctx': {'error': 'x'}}"
            ),
            (400, "JSON decode error", None),
        ),
        (404, b'{"detail":"Not Found"}', (404, "Not Found", None)),
        (401, b'{"error":"Unauthorized"}', (502, "key was not accepted", "upstream_key_rejected")),
        (403, vllm("Scale-out", 403), (502, "key was not accepted", "upstream_key_rejected")),
        (503, vllm("at rank 0", 503), (503, "the upstream answered 503 Service Unavail", None)),
        (500, b"<html>", (500, "the upstream answered 500 Internal Server Error", None)),
        (500, b"\xff", (500, "the upstream answered 500", None)),
        (500, b"[1]", (500, "the upstream answered 500", None)),
        (302, b"", (502, "the upstream answered 502", None)),
        (302, vllm("m", 400), (502, "the upstream answered 502", None)),
        (204, vllm("m", 400), (502, "the upstream answered 502", None)),
        (600, vllm("m", 400), (502, "the upstream answered 502", None)),
        (999, b"", (502, "the upstream answered 502", None)),
        (200, vllm("m", 777), (502, "the upstream answered 502", None)),
        (599, b'{"error":{"message":3}}', (599, "the upstream answered 599 error", None)),
        (400, b'{"error":{"message":"m","code":"model_loading"}}', (400, "m", "model_loading")),
    ],
)
def test_upstream_errors(status: int, body: bytes, expected: tuple[int, str, str | None]) -> None:
    error = upstream_error(status, body)
    assert (error.status, error.code) == (expected[0], expected[2])
    assert expected[1] in str(error)


def test_an_error_as_first_event_becomes_its_status() -> None:
    busy = {"error": {"message": "busy", "type": "Service Unavailable", "code": 503}}
    assert upstream_error(200, busy).status == 503
    assert upstream_error(200, {"error": {"message": "m", "code": "odd"}}).status == 502


def test_parameters_keep_their_names_only() -> None:
    assert upstream_error(400, vllm("m", param="body.messages")).param == "messages"
    assert upstream_error(400, vllm("m", param="body.28")).param is None
    assert upstream_error(400, vllm("m", param="/srv/x")).param is None
    assert error_body(upstream_error(400, vllm("m", param="top_p")))["error"]["param"] == "top_p"


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        (
            "Cannot connect to host 10.1.2.3:9 ssl:default [Connect call failed ('10.1.2.3', 9)]",
            "9",
        ),
        ("Connect call failed ('::1', 8000, 0, 0)", "::1"),
        ("at [2001:db8::1]:8000", "2001"),
        ("try gpu-node-7:8000 again", "gpu-node"),
        ("host vllm-0 is away", "vllm-0"),
        ("see vllm.prod.svc.cluster.local", "prod"),
        ("GET http://u:p@vllm/v1?key=1 failed", "vllm"),
        ('File "/opt/venv/lib/x.py", line 3', "opt"),
        ("missing C:\\models\\secret.bin", "models"),
        ("cannot open weights/tokenizer.json", "tokenizer"),
        ("cannot identify image file <_io.BytesIO object at 0x7f3a2b1c>", "BytesIO"),
        ("pointer 0xDEADBEEF", "DEAD"),
        ("HTTPConnectionPool(host='vllm', port=8000): Max retries exceeded", "vllm"),
        ("HTTPConnectionPool(host='vllm', port=8000): Max retries exceeded", "8000"),
        ("cannot reach 7node.lan:8", "node"),
        (r"no file \\nas\models$\secret there", "nas"),
        (repr(r"no file \\nas\models$\secret there"), "nas"),
        (r"no file \\nas\models$\secret there", "secret"),
        ("token hf_AbCdEfGhIjKl is invalid", "AbCd"),
        ("Incorrect API key provided: sk-proj-abc_123456", "abc"),
        ("got <class 'vllm.inputs.Token'>", "Token"),
        ("bad\n For further information visit https://errors.pydantic.dev/2.11/v/missing", "visit"),
    ],
)
def test_scrub_removes(text: str, leak: str) -> None:
    assert leak not in scrub(text)
    assert leak not in str(upstream_error(400, vllm(text)))


@pytest.mark.parametrize(
    "text",
    [
        "think is not a multimodal model",
        "The model `meta-llama/Llama-3.1-8B` does not exist.",
        "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)",
        "At most 2 image(s) may be provided in one prompt.",
        "a literal </think> and/or <think>",
        "risk-based task-related ask-me: sk-1",
        "Cannot load local files without `--allowed-local-media-path`.",
    ],
)
def test_scrub_keeps(text: str) -> None:
    assert scrub(text) == text


@given(st.text(alphabet="ab1.:/\\[]<>'() \n0xhtp~-_=%,", max_size=3000))
def test_scrub_is_bounded_and_leaves_no_address(text: str) -> None:
    clean = scrub(text)
    assert len(clean) <= 500 and "\n" not in clean
    assert not re.search(r"\b\d{1,3}(\.\d{1,3}){3}\b|://", clean)


@given(st.integers(100, 999), st.binary(max_size=100))
def test_no_upstream_body_breaks_it(status: int, body: bytes) -> None:
    assert 400 <= upstream_error(status, body).status <= 599
