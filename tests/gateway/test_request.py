"""Admitting requests: every field has a row, every message is read, nothing else gets through."""

from __future__ import annotations

import json
import subprocess
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import completion_create_params as openai_params
from PIL import Image

from gateway.errors import GatewayError, PayloadTooLargeError, RequestError
from gateway.fields import FIELDS, Treatment, field_table
from gateway.request import (
    ChatRequest,
    RequestLimits,
    admit,
    reencode_images,
    trace_headers,
)
from monitors.images import ImageLimits

ROOT = Path(__file__).parents[2]
SNAPSHOT: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "vllm_fields.json").read_text()
)
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
PRINT_FIELDS = """
import importlib.metadata, json, vllm
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
print(json.dumps([vllm.__version__, sorted(ChatCompletionRequest.model_fields)]))
"""

HELLO = {"role": "user", "content": "Hello there."}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


def ask(
    *messages: Any,
    permissive: Any = False,
    limits: Any = None,
    **fields: Any,
) -> ChatRequest:
    body = {"model": "think", "messages": list(messages) or [HELLO], **fields}
    return admit(json.dumps(body).encode(), permissive=permissive, limits=limits)


def refused(*messages: Any, permissive: Any = False, **fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        ask(*messages, permissive=permissive, **fields)
    assert caught.value.status == 400
    return caught.value


def judged(request: ChatRequest) -> list[tuple[str, str, str, int | None]]:
    return [(p.role, p.kind, p.text, p.message_index) for p in request.passages]


# --- the table


@pytest.mark.parametrize("version", SNAPSHOT)
def test_every_field_of_vllm_has_a_row(version: str) -> None:
    assert set(SNAPSHOT[version]) <= FIELDS.keys()


@pytest.mark.vllm
def test_every_field_of_the_installed_vllm_has_a_row() -> None:
    shown = subprocess.run(
        [VLLM_PYTHON, "-c", PRINT_FIELDS], check=False, capture_output=True, text=True, timeout=55
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    version, fields = json.loads(shown.stdout.splitlines()[-1])
    assert set(fields) <= FIELDS.keys()
    assert SNAPSHOT[version.partition("+")[0]] == fields


def test_every_field_of_openai_has_a_row() -> None:
    streaming = openai_params.CompletionCreateParamsStreaming.__annotations__
    fields = openai_params.CompletionCreateParamsBase.__annotations__ | streaming
    assert fields.keys() <= FIELDS.keys()


def test_the_readme_holds_the_table() -> None:
    readme = (ROOT / "README.md").read_text()
    _, begin, rest = readme.partition("<!-- fields:begin -->\n")
    assert begin, "README.md has no <!-- fields:begin -->"
    assert rest.partition("<!-- fields:end -->")[0].strip() == field_table().strip()


def test_the_table_has_a_row_for_every_field() -> None:
    rows = field_table().splitlines()
    assert len(rows) == 2 + len(FIELDS)
    assert all(row.count("|") == 4 for row in rows)


@pytest.mark.parametrize("name", [n for n, f in FIELDS.items() if f.treatment == "refused"])
def test_a_refused_field_names_itself_and_a_remedy(name: str) -> None:
    error = refused(**{name: {"something": "else"}})
    assert error.param == name
    assert name in str(error) and "leave it out" in str(error)
    for nothing in (None, *FIELDS[name].except_for):
        assert name not in ask(**{name: nothing}).upstream
    if FIELDS[name].lenient:
        assert name in ask(**{name: {"something": "else"}}, permissive=True).upstream
    else:
        assert refused(**{name: {"something": "else"}}, permissive=True).param == name


@pytest.mark.parametrize("name", [n for n, f in FIELDS.items() if f.treatment == "dropped"])
def test_a_dropped_field_goes_nowhere(name: str) -> None:
    assert name not in ask(**{name: "anything"}).upstream


@pytest.mark.parametrize("name", [n for n, f in FIELDS.items() if f.check])
@pytest.mark.parametrize("value", [["wrong"], [1, {}]])
def test_a_checked_field_refuses_another_type(name: str, value: Any) -> None:
    assert (refused(**{name: value}).param or "").startswith(name)


def test_false_is_not_zero() -> None:
    assert refused(n=True).param == "n"
    assert refused(echo=0).param == "echo"
    assert refused(max_tokens=True).code == "invalid_type"
    assert refused(temperature=False).code == "invalid_type"


def test_an_unknown_field_gets_the_nearest_name() -> None:
    error = refused(max_token=3)
    assert "'max_token' is unknown; did you mean 'max_tokens'?" in str(error)
    assert error.code == "unknown_parameter"
    assert ask(foo_bar=[1], permissive=True).upstream["foo_bar"] == [1]
    long = refused(**{"x" * 5000 + "\n": 1})
    assert len(str(long)) < 300 and "\n" not in str(long)


# --- what is sent, what is remembered


def test_upstream_is_always_streamed_with_usage() -> None:
    for asked in ({}, {"stream": False}, {"stream": True, "include_reasoning": True}):
        request = ask(**asked)
        assert request.upstream == {
            "model": "think",
            "messages": [HELLO],
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "include_reasoning": True,
        }
        assert request.stream is asked.get("stream", False)
        assert not request.include_usage and not request.hide_reasoning


def test_what_the_client_asked_is_remembered() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True, "include_obfuscation": False}
    request = ask(
        stream=True,
        stream_options=options,
        stop=["END", "\n\n"],
        include_reasoning=False,
        max_completion_tokens=50,
        cache_salt="salt",
    )
    assert request.include_usage and request.hide_reasoning
    assert request.stop == ("END", "\n\n") and "stop" not in request.upstream
    assert (request.max_tokens, request.max_tokens_field) == (50, "max_completion_tokens")
    assert request.upstream["max_completion_tokens"] == 50
    assert request.upstream["include_reasoning"] is True
    assert request.upstream["cache_salt"] == "salt"
    assert ask(stop="END").stop == ("END",)
    assert ask(stop=None).stop == ask(stop=[]).stop == ()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": "x" * 257}, "stop[0]"),
        ({"stop": 3}, "stop"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"include_reasoning": "no"}, "include_reasoning"),
        ({"chat_template_kwargs": {"think_prefix": "I"}}, "chat_template_kwargs.think_prefix"),
        ({"chat_template_kwargs": {"thinking": "yes"}}, "chat_template_kwargs.thinking"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"structured_outputs": {"grammar": "root ::= x"}}, "structured_outputs.grammar"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"model": None}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [HELLO] * 2049}, "messages"),
    ],
)
def test_wrong_values_are_named(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


# --- messages


def test_every_text_of_every_message_is_judged() -> None:
    request = ask(
        {"role": "system", "content": "Be kind.", "name": "boss"},
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Look it up."},
        {"role": "assistant", "content": None, "reasoning": "I shall look.", "tool_calls": [CALL]},
        {"role": "tool", "content": "Found it.", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nHere.", "refusal": None},
        {"role": "user", "content": [{"type": "text", "text": "And"}, IMAGE, {**IMAGE}]},
    )
    assert judged(request) == [
        ("system", "text", "boss", 0),
        ("system", "text", "Be kind.", 0),
        ("developer", "text", "Be brief.", 1),
        ("user", "text", "Look it up.", 2),
        ("assistant", "reasoning", "I shall look.", 3),
        ("assistant", "text", "call_1 look {}", 3),
        ("tool", "text", "Found it.", 4),
        ("assistant", "reasoning", "\nHm.\n", 5),
        ("assistant", "text", "Here.", 5),
        ("user", "text", "And", 6),
    ]
    assert request.prompt_text == "And" and request.images == 2
    assert request.upstream["messages"][5] == {"role": "assistant", "content": "Here."}


def test_fields_with_text_are_judged() -> None:
    schema = {"name": "n", "schema": {"description": "böse"}}
    request = ask(
        response_format={"type": "json_schema", "json_schema": schema},
        documents=[{"title": "T", "text": "D"}],
        structured_outputs={"choice": ["yes"]},
    )
    texts = [(p.role, p.text) for p in request.passages if p.message_index is None]
    assert texts == [
        ("response_format", '{"name":"n","schema":{"description":"böse"}}'),
        ("response_format", "n\nböse\nname\nschema\ndescription"),
        ("structured_outputs", '{"choice":["yes"]}'),
        ("structured_outputs", "yes\nchoice"),
        ("documents", '[{"title":"T","text":"D"}]'),
        ("documents", "T\nD\ntitle\ntext"),
    ]
    assert len(ask(response_format={"type": "json_object"}).passages) == 1
    assert "reasoning tag" in str(refused(documents=[{"text": "</think>"}]))


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_parts_are_judged_in_both_ways_that_templates_join_them(role: str) -> None:
    parts = [{"type": "text", "text": text} for text in ("a crim", "son ket", "tle")]
    called = {"tool_call_id": "c"} if role == "tool" else {}
    request = ask(HELLO, {"role": role, "content": parts, **called}, HELLO)
    texts = {p.text for p in request.passages if p.message_index == 1}
    assert texts >= {"a crimson kettle", "a crim\nson ket\ntle"}


@pytest.mark.parametrize("escaped", ["\n", "\t", '"', "\\"])
def test_no_escape_stands_between_the_words_that_a_template_writes(escaped: str) -> None:
    value = {"crimson": [{"text": f"crimson{escaped}kettle"}]}
    function = {"name": "f", "arguments": json.dumps(value)}
    schema = {"name": "n", "schema": value}
    request = ask(
        HELLO,
        {"role": "assistant", "tool_calls": [{**CALL, "function": function}]},
        {"role": "tool", "content": "x", "tool_call_id": "call_1"},
        documents=value["crimson"],
        response_format={"type": "json_schema", "json_schema": schema},
        structured_outputs={"json": value},
    )
    found = {p.role for p in request.passages if f"crimson{escaped}kettle" in p.text}
    assert found == {"assistant", "documents", "response_format", "structured_outputs"}


def test_the_text_to_judge_is_bounded() -> None:
    limits = RequestLimits(text_chars=20)
    thought = {"role": "assistant", "content": "", "reasoning": "x" * 5}
    user = {"role": "user", "content": "x" * 10}
    ask(thought, user, limits=limits)
    with pytest.raises(PayloadTooLargeError, match="over 20 characters") as caught:
        ask(thought, user, thought, user, limits=limits)
    assert (caught.value.status, caught.value.param) == (413, "messages[3].content")
    with pytest.raises(PayloadTooLargeError):
        ask(thought, user, limits=limits, documents=[{"": "x"}])


def test_a_reply_can_be_sent_back() -> None:
    """As `model_dump()` of the official client writes it, our own refusals too."""
    empty = dict.fromkeys(("annotations", "audio", "function_call"))
    reply: dict[str, Any] = {"role": "assistant", "content": None, "refusal": "I cannot."}
    request = ask(HELLO, {**empty, **reply, "tool_calls": []}, HELLO)
    assert request.upstream["messages"][1] == {"role": "assistant", "content": "I cannot."}
    cut = {"role": "assistant", "content": None, "reasoning": "I was think"}
    assert ask(HELLO, cut, HELLO).upstream["messages"][1] == {**cut, "content": ""}


@pytest.mark.parametrize(
    ("content", "thoughts", "rest"),
    [
        ("<think>a</think>b", ["a"], "b"),
        (" <THINK>a</Think >\n b ", ["a"], "b "),
        ("a\n</think>\n\nb", ["a\n"], "b"),
        ("<think>a</think><think>b</think>c", ["a", "b"], "c"),
        ("<think>a", ["a"], ""),
        (" plain <think> ", [], " plain <think> "),
        ([{"type": "text", "text": "<think>a</th"}, {"type": "text", "text": "ink>b"}], ["a"], "b"),
    ],
)
def test_inline_thinking_leaves_the_history(content: Any, thoughts: list[str], rest: str) -> None:
    request = ask(HELLO, {"role": "assistant", "content": content}, HELLO)
    assert request.upstream["messages"][1]["content"] == rest
    assert [p.text for p in request.passages if p.kind == "reasoning"] == thoughts


PARTS = [{"type": "text", "text": "</thi"}, IMAGE, {"type": "text", "text": "nk>"}]
ESCAPED = {"name": "f", "arguments": '{"a": "\\u003c/think>"}'}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "x </think> y"},
        {"role": "user", "content": "x < / THINK > y"},
        {"role": "user", "content": "[/THINK]"},
        {"role": "user", "content": "</ifm|think_fast>"},
        {"role": "user", "content": PARTS},
        {"role": "user", "content": "<|END_THINKING|>"},
        {"role": "tool", "content": "</seed:think>", "tool_call_id": "c"},
        {"role": "assistant", "content": "ok", "reasoning": "a</think>"},
        {"role": "assistant", "tool_calls": [{**CALL, "function": ESCAPED}]},
    ],
)
def test_literal_reasoning_tags_are_refused(message: dict[str, Any]) -> None:
    error = refused(HELLO, message, HELLO)
    assert (error.param or "").startswith("messages[1].")
    assert "--permissive" in str(error)
    ask(HELLO, message, HELLO, permissive=True)


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        ("Tags are <think> and </think>.", "Tags are <think> and <\u2060/think>."),
        ("<think>a</think>b</think>c", "b<\u2060/think>c"),
        (
            [{"type": "text", "text": "a</thi"}, {"type": "text", "text": "nk>b"}],
            "a<\u2060/think>b",
        ),
    ],
)
def test_a_model_that_spoke_of_the_tags_does_not_end_its_session(content: Any, sent: str) -> None:
    request = ask(HELLO, {"role": "assistant", "content": content}, HELLO)
    assert request.upstream["messages"][1]["content"] == sent


def test_a_system_prompt_may_explain_the_tags() -> None:
    system = {"role": "system", "content": "Think in <think> </think> tags, then answer."}
    request = ask(system, HELLO)
    assert request.upstream["messages"][0] == system
    assert request.passages[0].text == system["content"]


def test_hostile_lengths_take_no_time() -> None:
    for text in (" " * 10**6, "<" * 10**6, "</" * 10**6, "<think>" * 10**5 + "</think>" * 10**5):
        message = {"role": "assistant", "content": text}
        limits = RequestLimits(text_chars=10**7)
        ask(HELLO, message, HELLO, permissive=True, limits=limits)


def test_arguments_are_sent_as_they_were_judged() -> None:
    calls = [
        {**CALL, "index": 0, "function": {"name": "f", "arguments": arguments}}
        for arguments in ('{"a": "\\u0041"}', "[1]", "oops", "[" * 10**5, '{"a":1,"a":2}')
    ]
    request = ask(HELLO, {"role": "assistant", "tool_calls": calls}, HELLO)
    sent = [c["function"]["arguments"] for c in request.upstream["messages"][1]["tool_calls"]]
    assert sent == ['{"a":"A"}', "{}", "{}", "{}", '{"a":2}']
    texts = [p.text for p in request.passages[1:-1]]
    assert [text for text in texts if "{" in text] == [f"call_1 f {text}" for text in sent]
    assert [text for text in texts if "{" not in text] == ["A\na", "2\na"]


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def image(url: Any, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}, **more}


@pytest.mark.parametrize(
    ("message", "param", "says"),
    [
        ("Hello", "", "an object"),
        ({"content": "x"}, ".role", "one of"),
        ({"role": "function", "content": "x", "name": "f"}, ".role", "one of"),
        ({"role": "user"}, ".content", "a string"),
        ({"role": "user", "content": []}, ".content", "a string"),
        ({"role": "user", "content": 3}, ".content", "a string"),
        ({"role": "user", "content": "x", "tools": []}, ".tools", "unknown"),
        ({"role": "user", "content": "x", "name": "a b"}, ".name", "without spaces"),
        ({"role": "tool", "content": "x"}, ".tool_call_id", "a string"),
        ({"role": "assistant", "content": "x"}, "", "continue"),
        ({"role": "assistant", "audio": {"id": "a"}}, ".audio", "not accepted"),
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, ".tool_calls[0].function", "required"),
        (user("text"), ".content[0]", "an object"),
        (user({"text": "x"}), ".content[0].type", "nothing else"),
        (user({"type": "text"}), ".content[0].text", "a string"),
        (user({"type": "text", "text": "x", "uuid": "u"}), ".content[0].uuid", "unknown"),
        (user({"type": "thinking", "thinking": "x"}), ".content[0].type", "nothing else"),
        (user({"type": "video_url", "video_url": {"url": "x"}}), ".content[0].type", "nothing"),
        (user({"type": "image_embeds", "image_embeds": "x"}), ".content[0].type", "nothing"),
        (user({"type": "refusal", "refusal": "x"}), ".content[0].type", "assistant"),
        (user(image(None)), ".content[0].image_url.url", "required"),
        (user({"type": "image_url", "image_url": None}), ".content[0].image_url", "an object"),
        (user(image("data:,x", uuid="u")), ".content[0].uuid", "unknown"),
        (user(image("HTTPS://x/y.png")), ".content[0].image_url.url", "later version"),
        (user(image("file:///etc/passwd")), ".content[0].image_url.url", "data: URL"),
        ({"role": "system", "content": [IMAGE]}, ".content[0].type", "user messages only"),
    ],
)
def test_wrong_messages_are_named(message: Any, param: str, says: str) -> None:
    error = refused(message, permissive=True)
    assert error.param == f"messages[0]{param}"
    assert says in str(error)


def test_too_many_images() -> None:
    assert ask(user(*[IMAGE] * 16)).images == 16
    assert "16 images" in str(refused(user(*[IMAGE] * 17)))


# --- bodies


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"model": "\\ud800"}',
        b'{"model": "m", "temperature": NaN}',
        b'{"model": "m", "temperature": 1e999}',
        b'{"model": "m", "x": ' + b"[" * 10**5,
        b'{"model": "m", "x": ' + b"[" * 99 + b"]" * 99 + b"}",
        b'{"model": "m", "seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_json_object_is_refused_without_a_decoders_text(body: bytes) -> None:
    with pytest.raises(RequestError, match=r"^the request body ") as caught:
        admit(body, permissive=True)
    assert caught.value.status == 400 and "byte" not in str(caught.value)


def test_a_large_body_is_refused() -> None:
    with pytest.raises(PayloadTooLargeError):
        admit(b" " * 11, limits=RequestLimits(body_bytes=10))
    with pytest.raises(PayloadTooLargeError):
        admit(b'{"x": [' + b"[]," * 10**6 + b"0]}")


# --- images and headers


def test_images_are_encoded_anew_in_place() -> None:
    buffer = BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "GIF")
    url = "data:image/gif;base64," + b64encode(buffer.getvalue()).decode()
    request = ask(user({"type": "text", "text": "What?"}, image(url)))
    assert len(list(reencode_images(request, ImageLimits()))) == 1
    sent = request.upstream["messages"][0]["content"][1]["image_url"]["url"]
    assert sent.startswith("data:image/png;base64,")
    with pytest.raises(RequestError, match="no PNG, JPEG") as caught:
        list(reencode_images(ask(HELLO, user(IMAGE)), ImageLimits()))
    assert caught.value.param == "messages[1].content[0].image_url.url"


def test_the_pixels_of_all_images_are_bounded_before_any_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    buffer = BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    url = "data:image/png;base64," + b64encode(buffer.getvalue()).decode()
    request = ask(user(image(url)), user(image(url), image(url)))
    assert len(list(reencode_images(request, ImageLimits(total_pixels=48)))) == 3
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(RequestError, match="over 47 pixels in all") as caught:
        next(reencode_images(request, ImageLimits(total_pixels=47)))
    assert caught.value.code == "invalid_image"


def test_only_the_trace_context_goes_upstream() -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    inbound = {
        "Traceparent": trace,
        "tracestate": "a=1",
        "Authorization": "Bearer client",
        "Cookie": "c",
        "X-Request-Id": "r",
        "X-Session-ID": "s",
        "X-Vllm-Priority": "1",
        "X-data-parallel-rank": "0",
        "x-guard-mode": "off",
    }
    assert trace_headers(inbound) == {"traceparent": trace, "tracestate": "a=1"}
    assert trace_headers({"traceparent": trace + "\r\nx: y", "tracestate": "a"}) == {}


# --- anything

KEYS = ["role", "content", "type", "text", "image_url", "url", "name", "tool_calls", "function"]
VALUES = ["arguments", "id", "user", "assistant", "tool", "data:", "</think>", "none"]
WORDS = st.sampled_from([*FIELDS, *KEYS, *VALUES])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=30,
)
PART = st.fixed_dictionaries(
    {"type": WORDS}, optional={"text": JSON, "image_url": JSON, "refusal": JSON}
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"])},
    optional={
        "content": JSON | st.lists(PART, max_size=3),
        "name": JSON,
        "tool_calls": JSON,
        "tool_call_id": JSON,
        "reasoning": JSON,
        "refusal": JSON,
    },
)


def survives(body: bytes, permissive: bool) -> None:
    try:
        request = admit(body, permissive=permissive)
    except GatewayError as error:
        assert 400 <= error.status < 500 and len(str(error)) < 1000
    else:
        assert request.upstream["stream"] is True
        json.dumps(request.upstream, allow_nan=False).encode()
        hidden = {Treatment.DROPPED, Treatment.REFUSED}
        if not permissive:
            assert all(FIELDS[name].treatment not in hidden for name in request.upstream)


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_break_it(body: bytes, permissive: bool) -> None:
    survives(body, permissive)


@given(JSON, st.booleans())
def test_no_json_breaks_it(value: Any, permissive: bool) -> None:
    survives(json.dumps(value).encode(), permissive)


@given(st.lists(MESSAGE, max_size=4), st.dictionaries(WORDS, JSON, max_size=3), st.booleans())
def test_no_request_breaks_it(messages: Any, fields: dict[str, Any], permissive: bool) -> None:
    body = {**fields, "model": "think", "messages": messages}
    survives(json.dumps(body).encode(), permissive)


@given(st.lists(MESSAGE, min_size=1, max_size=4))
def test_no_tag_gets_through(messages: Any) -> None:
    try:
        request = ask(*messages)
    except GatewayError:
        return
    assert "</think>" not in json.dumps(request.upstream["messages"])
