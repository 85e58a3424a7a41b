"""The wire codec: any chunking, and whatever is wrong is a WireError."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors.errors import WireError
from monitors.wire import DONE, MAX_EVENT_BYTES, SSEDecoder, decode_chunk

RECORDED = Path(__file__).parents[3] / "shared" / "wire"
STREAM = (
    b': hi\r\n\r\ndata: {"a":1}\r\n\r\nevent: x\ndata:one\ndata: two\n\nid: 3\n\ndata: [DONE]\n\n'
)
PAYLOADS = [b'{"a":1}', b"one\ntwo", DONE]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8).map(sorted))
def test_any_chunking_gives_the_same_payloads(cuts: list[int]) -> None:
    decoder = SSEDecoder()
    parts = [STREAM[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    assert [payload for part in parts for payload in decoder.feed(part)] == PAYLOADS
    decoder.close()


@pytest.mark.parametrize("rest", [b"data: {", b"data: {}\n"])
def test_a_stream_cut_inside_an_event_is_an_error(rest: bytes) -> None:
    decoder = SSEDecoder()
    assert decoder.feed(rest) == []
    with pytest.raises(WireError):
        decoder.close()


@pytest.mark.parametrize("end", [b"", b"\n\n"])
def test_an_event_over_the_size_limit_is_an_error_whole_or_not(end: bytes) -> None:
    with pytest.raises(WireError):
        SSEDecoder().feed(b"data: " + b"x" * MAX_EVENT_BYTES + end)


def test_a_long_line_in_small_pieces_is_not_copied_for_each() -> None:
    decoder = SSEDecoder()
    start = time.perf_counter()
    for _ in range(100_000):
        decoder.feed(b"data: " + b"x" * 58)
    assert len(decoder.feed(b"\n\n")[0]) == 100_000 * 64 - 6
    assert time.perf_counter() - start < 5


PROSE = "how to make it: first"


@pytest.mark.parametrize(
    ("choice", "finish", "stop"),
    [
        ({"finish_reason": "length", "stop_reason": 7}, "length", 7),
        ({"finish_reason": PROSE, "stop_reason": PROSE}, "stop", None),
        ({"finish_reason": ""}, "stop", None),
        ({}, None, None),
    ],
)
def test_no_prose_passes_as_a_reason(
    choice: dict[str, object], finish: str | None, stop: int | None
) -> None:
    (read,) = decode_chunk(json.dumps({"choices": [choice]}).encode()).choices
    assert (read.finish_reason, read.stop_reason) == (finish, stop)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("vllm-0.32.0-80003ea8", True), (PROSE, False), ("x" * 65, False), ("a\n", False)],
)
def test_no_prose_passes_as_a_fingerprint(sent: str, kept: bool) -> None:
    read = decode_chunk(json.dumps({"system_fingerprint": sent}).encode())
    assert read.system_fingerprint == (sent if kept else None)


def test_no_prose_passes_as_a_count() -> None:
    details = {"cached_tokens": 3, "multimodal_tokens": {"image": 64, PROSE: 1}, PROSE: PROSE}
    usage = decode_chunk(json.dumps({"usage": {"prompt_tokens_details": details}}).encode()).usage
    assert usage is not None
    counts = {"cached_tokens": 3, "multimodal_tokens": {"image": 64}}
    assert msgspec.to_builtins(usage.prompt_tokens_details) == counts
    for wrong in ({"cached_tokens": PROSE}, {"multimodal_tokens": {"image": PROSE}}):
        with pytest.raises(WireError):
            decode_chunk(json.dumps({"usage": {"prompt_tokens_details": wrong}}).encode())


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"nope",
        b"null",
        b"[]",
        b'{"choices":3}',
        b'{"choices":[{"delta":{"content":5}}]}',
        b'{"choices":[{"delta":{"content":"\\ud800"}}]}',
        b'{"choices":[{"delta":{"content":"\xff"}}]}',
        b'{"usage":{"completion_tokens":-1}}',
        b'{"usage":{"prompt_tokens":1' + b"0" * 400 + b"}}",
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_chunk_is_a_wire_error(payload: bytes) -> None:
    with pytest.raises(WireError) as caught:
        decode_chunk(payload)
    assert "nope" not in str(caught.value)


@given(st.binary(max_size=60))
def test_garbage_raises_nothing_else(payload: bytes) -> None:
    for action in (decode_chunk, SSEDecoder().feed):
        with suppress(WireError):
            action(payload)


def test_an_error_event_keeps_its_json() -> None:
    error = decode_chunk(b'{"error":{"message":"busy"}}').error
    assert error is not None
    assert bytes(error) == b'{"message":"busy"}'
    assert decode_chunk(b'{"error":null}').error is decode_chunk(b"{}").error is None


@pytest.mark.skipif(not RECORDED.is_dir(), reason="no recorded streams beside the checkout")
def test_recorded_streams_of_vllm_decode() -> None:
    names = sorted(RECORDED.glob("*chat-stream*.txt"))
    assert names
    for name in names:
        head, _, body = name.read_bytes().partition(b"\n\n")
        assert b"200 OK" in head, name.name
        decoder = SSEDecoder()
        payloads = decoder.feed(body + b"\n\n")
        decoder.close()
        assert payloads[-1] == DONE, name.name
        chunks = [decode_chunk(payload) for payload in payloads[:-1]]
        assert any(choice.finish_reason for chunk in chunks for choice in chunk.choices)
