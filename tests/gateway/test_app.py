"""Everything around chat completions: other paths, health, metrics, models, keys, bad requests."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.access import key_hash, new_key
from gateway.app import create_app
from gateway.request import RequestLimits
from gateway.settings import Settings
from monitors.errors import UserError
from monitors.images import ImageLimits, reencode
from tests.gateway.harness import (
    BREAD,
    MODEL,
    SLIDE,
    Guarded,
    assert_openai_error,
    guarded,
    metric,
    nobody,
    wait_until,
)
from tests.gateway.scripted import Scripted, body, scripted

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4"
    "z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
POLICY = Path(__file__).parents[2] / "deploy" / "policies" / "default.yaml"


@pytest.fixture(scope="module")
def gate() -> Iterator[Guarded]:
    limits = RequestLimits(body_bytes=1 << 20)
    with guarded(strict_model=True, settings={"request_limits": limits}) as running:
        yield running


def send(gate: Guarded, content: bytes, kind: str = "application/json") -> httpx.Response:
    headers = {"Content-Type": kind}
    return httpx.post(f"{gate.url}/chat/completions", content=content, headers=headers, timeout=20)


# --- paths ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/completions", 404),
        ("POST", "/v1/responses", 404),
        ("POST", "/v1/messages", 404),
        ("POST", "/v1/embeddings", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/v1/chat/completions/render", 404),
        ("POST", "/v1//chat/completions", 404),
        ("GET", "/v1/models/simulated-mlrm", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1", 404),
        ("GET", "/", 404),
        ("POST", "/tokenize", 404),
        ("POST", "/invocations", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/healthz", 405),
        ("OPTIONS", "/v1/chat/completions", 405),
        ("POST", "/v1/moderations/", 404),
        ("POST", "/v1/guard", 404),
        ("POST", "/api/v1/text/context/doc", 404),
        ("POST", "/api/v1/text", 404),
        ("POST", "/health", 405),
    ],
)
def test_what_is_not_guarded_is_not_there(
    gate: Guarded, method: str, path: str, status: int
) -> None:
    assert_openai_error(httpx.request(method, gate.root + path, json={}), status)


def test_a_405_says_what_is_allowed(gate: Guarded) -> None:
    assert httpx.get(f"{gate.url}/chat/completions").headers["allow"] == "POST"


def test_health_needs_nothing(gate: Guarded) -> None:
    assert httpx.get(f"{gate.root}/healthz").json() == {"status": "ok"}


def test_ready_says_what_was_found(gate: Guarded) -> None:
    ready = httpx.get(f"{gate.root}/readyz").json()
    assert (ready["ready"], ready["upstream"], ready["mode"]) == (True, True, "enforce")
    assert ready["policy"].startswith("test@")
    assert set(ready["judges"]) == {"input", "reasoning", "answer"}
    assert ready["judges"]["reasoning"].startswith("rules@")
    (model,) = ready["models"]
    assert (model["model"], model["resume"], model["format"]) == (MODEL, "continue", "separated")
    assert model["findings"]


def test_not_ready_until_the_upstream_is_probed() -> None:
    with guarded(upstream=nobody(), ready=False) as gate:
        reply = httpx.get(f"{gate.root}/readyz")
        assert reply.status_code == 503
        assert (reply.json()["ready"], reply.json()["models"]) == (False, [])
        assert httpx.get(f"{gate.root}/healthz").status_code == 200


def test_models_are_listed_without_what_tells_of_the_machine(gate: Guarded) -> None:
    reply = httpx.get(f"{gate.url}/models").json()
    (model,) = reply["data"]
    assert (model["id"], model["object"], model["owned_by"]) == (MODEL, "model", "vllm")
    assert not {"root", "permission", "parent"} & set(model)
    assert [model.id for model in gate.client.models.list()] == [MODEL]


@pytest.mark.parametrize("payload", [[1], {"data": None}, {"data": [7]}, {}, "x"])
def test_a_list_of_models_that_is_none_is_a_502(
    payload: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scripted, "_steps", lambda *_: [body(payload)])
    with scripted() as upstream, guarded(upstream=upstream.root, ready=False) as gate:
        assert_openai_error(httpx.get(f"{gate.url}/models"), 502, "upstream_unavailable")


def test_metrics_count_what_happens() -> None:
    with guarded() as gate:
        for trace in (BREAD, SLIDE):
            gate.stream(trace.prompt)
        gate.post("", messages=[])

        def count(name: str, **labels: str) -> float:
            return metric(gate.root, f"mlrm_guard_{name}", **labels)

        assert count("requests_total", path="chat", status="400") == 1
        assert count("requests_total", status="200") == 2
        assert count("generations_total", ended="finished") == 2
        assert count("decisions_total", action="allow") == 1
        assert count("decisions_total", action="correct", scenario="other") == 1
        assert count("corrections_total") == 1
        assert count("steps_total", stage="reasoning", known="yes") >= 6
        received = count("characters_total", channel="reasoning", fate="received")
        released = count("characters_total", channel="reasoning", fate="released")
        assert received > released > len(BREAD.reasoning or "")
        assert count("judge_seconds_count") == count("steps_total")


# --- keys -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Guarded, str, str]]:
    """(gateway, a plain key, a key with the right to details)"""
    plain, trusted = new_key(), new_key()
    file = tmp_path_factory.mktemp("keys") / "keys"
    lines = ["# keys", f"app {key_hash(plain)}", "", f"ops {key_hash(trusted)} guard:detail # us"]
    file.write_text("\n".join(lines))
    with guarded(settings={"keys_file": file, "host": "0.0.0.0"}) as gate:
        yield gate, plain, trusted


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic abc", "Bearer x y"])
def test_without_a_known_key_nobody_gets_in(
    keys: tuple[Guarded, str, str], header: str | None
) -> None:
    gate, *_ = keys
    headers = {} if header is None else {"Authorization": header}
    assert_openai_error(httpx.get(f"{gate.url}/models", headers=headers), 401, "invalid_api_key")
    url = f"{gate.url}/chat/completions"
    assert_openai_error(httpx.post(url, json={}, headers=headers), 401, "invalid_api_key")


def test_without_a_key_readiness_is_all_there_is_to_see(keys: tuple[Guarded, str, str]) -> None:
    gate, plain, _ = keys
    assert httpx.get(f"{gate.root}/readyz").json() == {"ready": True}
    headers = {"Authorization": f"Bearer {plain}"}
    assert httpx.get(f"{gate.root}/readyz", headers=headers).json()["models"]


def test_a_key_opens_and_its_rights_decide_what_it_sees(keys: tuple[Guarded, str, str]) -> None:
    gate, plain, trusted = keys
    call = {"model": MODEL, "messages": [{"role": "user", "content": SLIDE.prompt}]}
    guards = [
        httpx.post(
            f"{gate.url}/chat/completions",
            json=call,
            headers={"Authorization": f"{scheme} {key}"},
            timeout=20,
        ).json()["guard"]
        for scheme, key in (("Bearer", plain), ("bearer", trusted))
    ]
    assert set(guards[0]) == {"action", "id"}
    assert guards[1]["category"] == "other"
    assert "authorization" not in gate.headers[-1]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_beyond_loopback_a_gateway_without_keys_does_not_start(host: str) -> None:
    with pytest.raises(UserError, match="without keys"):
        create_app(Settings("http://127.0.0.1:1/v1", POLICY, host=host))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_loopback_it_does(host: str) -> None:
    create_app(Settings("http://127.0.0.1:1/v1", POLICY, host=host))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no key"),
        ("app\n", ":1: must be"),
        ("\napp 1234\n", ":2: must be"),
        (f"app {'a' * 64} everything\n", "unknown right 'everything'"),
    ],
)
def test_a_bad_key_file_is_named_before_anything_starts(
    tmp_path: Path, text: str, problem: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(UserError, match=problem):
        create_app(Settings("http://127.0.0.1:1/v1", POLICY, keys_file=file))
    with pytest.raises(UserError, match="cannot be read"):
        create_app(Settings("http://127.0.0.1:1/v1", POLICY, keys_file=tmp_path / "none"))


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8000/v1", "ftp://x/v1", "http:///v1", "http://x", "http://x/v2"),
        *("http://[::1/v1", "http://x:99999/v1", "http://x:y/v1", "http://x/v1?key=1"),
    ],
)
def test_a_bad_upstream_url_is_named_before_anything_starts(url: str) -> None:
    with pytest.raises(UserError, match="--upstream"):
        create_app(Settings(url, POLICY))


@pytest.mark.parametrize("url", ["http://user:secret@x/v1", "ftp://secret@x", "http://u:#secret@x"])
def test_a_password_in_the_upstream_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UserError, match=r"--upstream: .*MLRM_GUARD_UPSTREAM_KEY") as caught:
        create_app(Settings(url, POLICY))
    assert "secret" not in str(caught.value)


# --- bodies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_type"),
        (b"null", "invalid_type"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"model": "x"}', "missing_required_parameter"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "missing_required_parameter"),
        (b'{"model": "x", "messages": []}', None),
        (b'{"model": 1, "messages": [{"role": "user", "content": "x"}]}', None),
        (b'{"model": "x", "messages": [{"role": "user", "content": 1}]}', None),
        (b'{"model": "x", "messages": "x"}', None),
        (b"[" * 50_000, "invalid_json"),
    ],
)
def test_a_bad_body_is_a_400(gate: Guarded, content: bytes, code: str | None) -> None:
    reply = send(gate, content)
    assert_openai_error(reply, 400, code)
    assert reply.headers["x-guard-request-id"]


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded"])
def test_another_content_type_is_a_400(gate: Guarded, kind: str) -> None:
    assert "application/json" in assert_openai_error(send(gate, b"{}", kind), 400)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_a_413(gate: Guarded, chunked: bool) -> None:
    parts = [b"x" * 65536] * 20
    reply = httpx.post(
        f"{gate.url}/chat/completions",
        content=iter(parts) if chunked else b"".join(parts),
        headers={"Content-Type": "application/json"},
    )
    assert_openai_error(reply, 413, "request_too_large")


@contextmanager
def sending(gate: Guarded, data: bytes, length: int) -> Iterator[socket.socket]:
    """A client that has sent this much of a body of `length` bytes."""
    start = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", int(gate.root.rpartition(":")[2]))) as client:
        client.settimeout(10)
        client.sendall(start + b"Content-Length: %d\r\n\r\n" % length + data)
        yield client


def test_a_body_that_does_not_come_is_a_400(gate: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.chat.BODY_SECONDS", 0.2)
    with sending(gate, b"{", 10) as client:
        assert client.recv(12) == b"HTTP/1.1 400"


def test_a_request_that_still_arrives_counts_as_a_stream() -> None:
    with guarded(settings={"max_streams": 1}) as gate:
        with sending(gate, b"{", 10):
            wait_until(lambda: metric(gate.root, "mlrm_guard_live_generations") == 1, "not begun")
            assert_openai_error(gate.post(BREAD.prompt), 503, "overloaded")
        wait_until(lambda: metric(gate.root, "mlrm_guard_live_generations") == 0, "stays")
        gate.stream(BREAD.prompt).check_whole()


def test_the_images_of_a_client_that_left_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(url: str, limits: ImageLimits) -> str:
        begun.append(url)
        assert left.wait(10)
        return reencode(url, limits)

    begun: list[str] = []
    left = threading.Event()
    monkeypatch.setattr("gateway.request.reencode", slow)
    image = {"type": "image_url", "image_url": {"url": PNG}}
    call = {"model": MODEL, "messages": [{"role": "user", "content": [image] * 8}]}
    data = json.dumps(call).encode()
    with guarded() as gate:
        with sending(gate, data, len(data)):
            wait_until(lambda: bool(begun), "not begun")
        time.sleep(0.2)  # for the server to see it
        left.set()
        wait_until(lambda: metric(gate.root, "mlrm_guard_live_generations") == 0, "stays")
        assert len(begun) == 1
        assert not gate.asked


def test_an_unknown_model_keeps_the_upstreams_404(gate: Guarded) -> None:
    for stream in (True, False):
        reply = gate.post(BREAD.prompt, model="nope", stream=stream)
        assert "nope" in assert_openai_error(reply, 404, "model_not_found")


def _value(rng: random.Random, depth: int = 0) -> Any:
    scalars: list[Any] = [
        None,
        True,
        -1,
        0.5,
        1e308,
        2**70,
        "",
        "user",
        "\x00",
        "\ud83d",
        "a" * 300,
    ]
    kind = rng.randrange(4 if depth < 3 else 2)
    if kind == 2:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 3:
        return {str(_value(rng, 9)): _value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return rng.choice(scalars)


_NAMES = (
    *("messages", "model", "stream", "stop", "stream_options", "max_tokens", "n", "tools", "seed"),
    *("response_format", "chat_template_kwargs", "temperature", "logit_bias", "odd"),
)


def test_random_bodies_never_break_the_server(gate: Guarded) -> None:
    rng = random.Random(3)
    good = {"model": MODEL, "messages": [{"role": "user", "content": BREAD.prompt}]}
    with httpx.Client(timeout=20) as client:
        for number in range(64):
            call = good | {rng.choice(_NAMES): _value(rng) for _ in range(rng.randint(1, 3))}
            data = json.dumps(call).encode()
            if number % 8 == 0:
                data = data[: rng.randrange(len(data))] + rng.randbytes(3)
            headers = {"Content-Type": "application/json"}
            reply = client.post(f"{gate.url}/chat/completions", content=data, headers=headers)
            if reply.status_code != 200:
                assert reply.status_code < 500, data
                assert_openai_error(reply, reply.status_code)
    gate.stream(BREAD.prompt).check_whole()
    wait_until(lambda: metric(gate.root, "mlrm_guard_live_generations") == 0, "streams stay")


def test_a_judge_that_cannot_judge_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(self: object, passages: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("monitors.judges.embedded.EmbeddedJudge.score", score)
    with pytest.raises(UserError, match=r"embedded@\w+ cannot judge: RuntimeError"):
        create_app(Settings(upstream="http://127.0.0.1:1/v1", policy_file=POLICY))
