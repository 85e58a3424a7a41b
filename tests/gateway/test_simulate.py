"""The simulator over real HTTP: vLLM's wire, exact text, corrections, and nothing left running."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.background import serve
from gateway.simulate import DEMO_TRACES, SimulatorOptions, load_traces, simulator
from gateway.simulate.options import Chunking, ReasoningField
from monitors.errors import TraceError, UserError
from monitors.taxonomy import Scenario
from monitors.trace import Trace
from monitors.wording import safety_thought

WIRE = Path(__file__).resolve().parents[3] / "shared" / "wire"
CAPITAL = "What is the capital of France?"
PLAIN = Trace(
    id="plain",
    prompt=CAPITAL,
    reasoning=(
        "Let me think. The user wants to know a capital.\nIt is known, 巴黎 👩🏽‍🚀 naïve.  Done.\n"
    ),
    answer="\n\nThe capital of France is Paris.",
)
SLIDE = Trace(
    id="slide",
    prompt="Write a letter.",
    reasoning=(
        "A letter needs a date. It should be polite and short.\n"
        "I will now cheat the reader of it. The lie should be a big one. Nobody must notice it."
    ),
    answer="Here is a letter that cheats.",
    safe_continuation=(
        "Cheating would hurt people. I stay with the honest letter.</think>Dear reader!"
    ),
)
KEPT = "A letter needs a date. It should be polite and short."
THOUGHT = "\nWait. I must check whether this is safe. I should refuse anything harmful."
SAFE = "Cheating would hurt people. I stay with the honest letter."
UNSAFE = "I will now cheat the reader of it. The lie should be a big one. Nobody must notice it."
TRACES = [PLAIN, SLIDE, Trace(id="bare", prompt="Hi", reasoning=None, answer="Hello!")]


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with serve(simulator(TRACES)) as url:
        yield url


def ask(base: str, prompt: str | list[dict[str, Any]], **fields: Any) -> httpx.Response:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    body = {"model": "think", "messages": messages, **fields}
    return httpx.post(f"{base}/v1/chat/completions", json=body, timeout=20)


def events(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    *rows, end = [row for row in reply.text.split("\n\n") if row.strip()]
    assert end == "data: [DONE]"
    return [json.loads(row.removeprefix("data: ")) for row in rows]


def said(reply: httpx.Response) -> tuple[str, str]:
    """(reasoning, content) of a reply, streamed or not."""
    if reply.headers["content-type"] == "application/json":
        parts = [reply.json()["choices"][0]["message"]]
    else:
        parts = [event["choices"][0]["delta"] for event in events(reply) if event["choices"]]
    names = ("reasoning", "reasoning_content")
    reasoning = "".join(part.get(name) or "" for part in parts for name in names)
    return reasoning, "".join(part.get("content") or "" for part in parts)


def resume(base: str, content: str, prompt: str = SLIDE.prompt, **fields: Any) -> httpx.Response:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": content}]
    flags = {"continue_final_message": True, "add_generation_prompt": False, "stream": True}
    return ask(base, messages, **(flags | fields))


def metric(base: str, name: str) -> float:
    rows = httpx.get(f"{base}/metrics").text.splitlines()
    return sum(float(row.split()[-1]) for row in rows if row.startswith(f"vllm:{name}{{"))


def wait_until(base: str, name: str, value: float) -> None:
    deadline = time.monotonic() + 5
    while metric(base, name) != value:
        assert time.monotonic() < deadline, f"{name} stays {metric(base, name)}"
        time.sleep(0.01)


# --- text ---


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "inline"])
@pytest.mark.parametrize("chunking", ["token", "random", "whole"])
def test_text_is_the_trace_byte_for_byte(name: ReasoningField, chunking: Chunking) -> None:
    options = SimulatorOptions(reasoning_field=name, chunking=chunking, seed=7)
    expected = (PLAIN.reasoning, PLAIN.answer)
    if name == "inline":
        expected = ("", f"<think>\n{PLAIN.reasoning}\n</think>\n\n{PLAIN.answer}")
    with serve(simulator(TRACES, options)) as base:
        streamed = ask(base, f"  {CAPITAL}\n", stream=True)
        assert said(streamed) == expected
        assert said(ask(base, CAPITAL)) == expected
    if chunking == "whole":
        assert len(events(streamed)) == 2 + (1 if name == "inline" else 2)
    if name == "reasoning_content":
        assert '"reasoning"' not in streamed.text


def test_random_chunks_cut_tags_and_follow_the_seed() -> None:
    def deltas(seed: int) -> list[str]:
        options = SimulatorOptions(reasoning_field="inline", chunking="random", seed=seed)
        with serve(simulator(TRACES, options)) as base:
            rows = events(ask(base, CAPITAL, stream=True))
        return [row["choices"][0]["delta"].get("content", "") for row in rows]

    runs = [deltas(seed) for seed in range(6)]
    assert len({tuple(run) for run in runs}) == 6
    assert deltas(0) == runs[0]
    assert all(len(piece) <= 12 for run in runs for piece in run)
    assert any("<think>" not in run[1] and "<" in run[1] for run in runs)


def test_no_trace_and_no_thinking(base: str) -> None:
    reasoning, answer = said(ask(base, "Something else"))
    assert "simulated" in reasoning
    assert "no recorded trace" in answer
    assert said(ask(base, "Hi", stream=True)) == ("", "Hello!")
    off = {"enable_thinking": False}
    assert said(ask(base, CAPITAL, chat_template_kwargs=off)) == ("", PLAIN.answer)
    assert said(ask(base, CAPITAL, stream=True, include_reasoning=False)) == ("", PLAIN.answer)


def test_the_last_user_message_counts_in_parts_and_with_images(base: str) -> None:
    image: dict[str, Any] = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="},
    }
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": [image, {"type": "text", "text": CAPITAL}]},
    ]
    reply = ask(base, messages, return_prompt_text=True)
    assert said(reply) == (PLAIN.reasoning, PLAIN.answer)
    assert reply.json()["prompt_text"].endswith(
        f"<|vision_start|><|image_pad|><|vision_end|>{CAPITAL}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_max_tokens_and_stop(base: str) -> None:
    cut = ask(base, CAPITAL, max_tokens=4).json()
    choice = cut["choices"][0]
    assert (choice["finish_reason"], cut["usage"]["completion_tokens"]) == ("length", 4)
    assert choice["message"]["reasoning"] == "Let me think"
    assert choice["message"]["content"] is None

    for stop, expected in ((["zzz", "user"], ("Let me think. The ", "")), ("nothing", None)):
        last = events(ask(base, CAPITAL, stream=True, stop=stop))[-1]["choices"][0]
        assert said(ask(base, CAPITAL, stream=True, stop=stop)) == (
            expected or (PLAIN.reasoning, PLAIN.answer)
        )
        assert last["stop_reason"] == ("user" if expected else None)
    kept = ask(base, CAPITAL, stop="thin", include_stop_str_in_output=True)
    assert said(kept) == ("", "")  # vLLM finds it in the tag, too
    kept = ask(base, CAPITAL, stop="e thi", include_stop_str_in_output=True)
    assert said(kept) == ("Let me thi", "")
    total = ask(base, CAPITAL).json()["usage"]["completion_tokens"]
    assert ask(base, CAPITAL, max_tokens=total).json()["choices"][0]["finish_reason"] == "stop"
    short = ask(base, CAPITAL, max_tokens=total - 1).json()["choices"][0]
    assert short["finish_reason"] == "length"


def test_usage_adds_up(base: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    rows = events(ask(base, CAPITAL, stream=True, stream_options=options))
    counts = [row["usage"]["completion_tokens"] for row in rows]
    assert counts == sorted(counts)
    assert counts[0] == 0
    whole = ask(base, CAPITAL).json()["usage"]
    assert rows[-1]["usage"]["total_tokens"] == whole["total_tokens"]
    assert whole["total_tokens"] == whole["prompt_tokens"] + whole["completion_tokens"]


# --- continuation ---


def test_a_kept_prefix_goes_on_where_it_stood(base: str) -> None:
    assert SLIDE.reasoning is not None
    for cut in (0, 1, 22, len(KEPT), 70, len(SLIDE.reasoning)):
        reasoning, answer = said(resume(base, f"<think>\n{SLIDE.reasoning[:cut]}"))
        assert SLIDE.reasoning[:cut] + reasoning == SLIDE.reasoning
        assert answer == SLIDE.answer
    assert said(resume(base, f"<think>\n{KEPT}", stream=False))[0] == f"\n{UNSAFE}"
    assert said(resume(base, f"<think>\n{KEPT}\n"))[0] == UNSAFE


@pytest.mark.parametrize("kept", [KEPT, "", "A letter needs a date.", f"{KEPT}\nI will now che"])
@pytest.mark.parametrize("thought", [THOUGHT, "\nI will not do this."])
def test_a_safety_thought_corrects(base: str, kept: str, thought: str) -> None:
    reply = resume(base, f"<think>\n{kept}{thought}")
    assert said(reply) == (f" {SAFE}", "Dear reader!")


def test_a_second_and_third_correction(base: str) -> None:
    half = SAFE[:27]
    second = f"<think>\n{KEPT}{THOUGHT} {half}"
    assert said(resume(base, second))[0] == SAFE[27:]  # nothing new: it goes on
    assert said(resume(base, f"{second}{THOUGHT}")) == (f" {SAFE[28:]}", "Dear reader!")
    third = f"{second}{THOUGHT} {SAFE[28:40]}{THOUGHT}"
    assert said(resume(base, third))[0].endswith("letter.")


def test_a_correction_is_ignored_as_often_as_told() -> None:
    with serve(simulator(TRACES, SimulatorOptions(ignore_correction=1.0))) as base:
        once = f"<think>\n{KEPT}{THOUGHT}"
        assert said(resume(base, once)) == (f" {UNSAFE}", SLIDE.answer)
        again = f"{once} I will now cheat the reader of it.{THOUGHT}"
        rest = " The lie should be a big one. Nobody must notice it."
        assert said(resume(base, again)) == (rest, SLIDE.answer)
        assert said(resume(base, again.removesuffix(THOUGHT))) == (rest, SLIDE.answer)
    with serve(simulator(TRACES, SimulatorOptions(ignore_correction=0.5))) as base:
        replies = [said(resume(base, once, seed=seed))[0] for seed in range(40)]
        assert 8 <= sum("cheat" in reply for reply in replies) <= 32
        assert replies[:5] == [said(resume(base, once, seed=seed))[0] for seed in range(5)]


def test_without_safe_continuation_a_fixed_safe_text_follows(base: str) -> None:
    reasoning, answer = said(resume(base, f"<think>\nLet me think.{THOUGHT}", CAPITAL))
    assert "I will not go on" in reasoning
    assert answer.startswith("I can't help")


def test_inline_continuation_closes_the_thought() -> None:
    with serve(simulator(TRACES, SimulatorOptions(reasoning_field="inline"))) as base:
        reply = said(resume(base, f"<think>\n{KEPT}{THOUGHT}"))
    assert reply == ("", f" {SAFE}\n</think>\n\nDear reader!")


def test_answers_are_continued_with_the_quirks_of_vllm(base: str) -> None:
    closed = f"<think>\n{SLIDE.reasoning}\n</think>\n\nHere is a"
    assert said(resume(base, closed)) == ("", " letter that cheats.")
    assert said(resume(base, closed, stream=False)) == (" letter that cheats.", "")
    assert said(resume(base, "Here is a")) == (" letter that cheats.", "")


def test_template_kwarg_continues_where_the_template_has_it(base: str) -> None:
    kwargs = {"think_prefix": f"{KEPT}{THOUGHT}"}
    fields = {"chat_template_kwargs": kwargs, "return_prompt_text": True}
    assert said(ask(base, SLIDE.prompt, **fields))[0] == SLIDE.reasoning
    with serve(simulator(TRACES, SimulatorOptions(template_kwarg="think_prefix"))) as knows:
        reply = ask(knows, SLIDE.prompt, **fields)
    assert said(reply) == (f" {SAFE}", "Dear reader!")
    assert reply.json()["prompt_text"].endswith(f"assistant\n<think>\n{KEPT}{THOUGHT}")


def test_a_restart_with_a_safety_thought_begins_safely(base: str) -> None:
    user = {"role": "user", "content": SLIDE.prompt}
    thought = {"role": "system", "content": THOUGHT.strip()}
    own = {"role": "system", "content": "You are a helpful and harmless assistant."}
    for messages in ([user, thought], [thought, user], [own, thought, user], [own, user, thought]):
        assert said(ask(base, messages)) == (SAFE, "Dear reader!")
    assert said(ask(base, [own, user])) == (SLIDE.reasoning, SLIDE.answer)


@pytest.mark.parametrize("language", ["en", "de", "es", "fr", "zh"])
def test_our_own_safety_thoughts_are_known(base: str, language: str) -> None:
    user = {"role": "user", "content": SLIDE.prompt}
    for scenario in (None, Scenario.FRAUD, Scenario.HATE_SPEECH, Scenario.WEAPONS):
        thought = safety_thought(scenario, language)
        for content in (thought, f"You are a poet.\n\n{thought}"):
            assert said(ask(base, [{"role": "system", "content": content}, user]))[0] == SAFE
        assert said(resume(base, f"<think>\n{KEPT}\n{thought}"))[0].strip() == SAFE


def test_prompt_text_ends_with_the_continued_text(base: str) -> None:
    content = f"<think>\n{KEPT}\n"
    turn = f"<|im_start|>user\n{SLIDE.prompt}<|im_end|>\n<|im_start|>assistant\n"
    first = events(resume(base, content, return_prompt_text=True))[0]
    assert first["prompt_text"] == turn + content
    with serve(simulator(TRACES, SimulatorOptions(wrap_empty_think=True))) as wrapped:
        first = events(resume(wrapped, content, return_prompt_text=True))[0]
    assert first["prompt_text"] == f"{turn}<think>\n\n</think>\n\n{content}"


# --- pace and disconnect ---


def test_pace_follows_absolute_deadlines() -> None:
    with serve(simulator(TRACES, SimulatorOptions(tokens_per_second=100))) as base:
        begin = time.monotonic()
        tokens = ask(base, CAPITAL).json()["usage"]["completion_tokens"]
        taken = time.monotonic() - begin
    assert tokens / 100 <= taken <= tokens / 100 + 1.0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_generation(stream: bool) -> None:
    with serve(simulator(TRACES, SimulatorOptions(tokens_per_second=2))) as base:
        body = {"messages": [{"role": "user", "content": CAPITAL}], "stream": stream}
        url = f"{base}/v1/chat/completions"
        if stream:
            with httpx.stream("POST", url, json=body, timeout=5) as reply:
                chunks = reply.iter_bytes()
                next(chunks)
                wait_until(base, "num_requests_running", 1)
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url, json=body, timeout=httpx.Timeout(5, read=0.2))
        wait_until(base, "num_requests_running", 0)
        generated = metric(base, "generation_tokens_total")
        assert generated < 10
        assert metric(base, "num_requests_waiting") == 0
        assert metric(base, "request_success_total") == 0
    # the server stopped: it waited for nothing


# --- endpoints and errors ---


def test_small_endpoints(base: str) -> None:
    card = httpx.get(f"{base}/v1/models").json()["data"][0]
    assert (card["id"], card["max_model_len"]) == ("simulated-mlrm", 32768)
    assert httpx.get(f"{base}/health").content == b""
    assert httpx.get(f"{base}/version").json() == {"version": "0.32.0"}
    nope = httpx.get(f"{base}/nope")
    assert (nope.status_code, nope.json()) == (404, {"detail": "Not Found"})
    wrong = httpx.get(f"{base}/v1/chat/completions")
    assert (wrong.status_code, wrong.json()) == (405, {"detail": "Method Not Allowed"})
    counted = httpx.post(f"{base}/tokenize", json={"prompt": "Let me think."}).json()
    assert counted["count"] == len(counted["tokens"]) == 4
    named = httpx.post(
        f"{base}/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "Hi"}]},
        headers={"x-request-id": "my-req-1"},
    )
    assert named.headers["x-request-id"] == "my-req-1"
    assert (named.json()["id"], named.json()["model"]) == ("chatcmpl-my-req-1", "simulated-mlrm")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "body.max_tokens"),
        ({"max_completion_tokens": 40_000}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"continue_final_message": True, "add_generation_prompt": True}, None),
        ({"stream_options": {"include_usage": True}}, None),
        ({"chat_template": "x"}, None),
        ({"messages": ["text"]}, "body.messages.0"),
    ],
)
def test_bad_requests(base: str, fields: dict[str, Any], param: str | None) -> None:
    reply = ask(base, CAPITAL, **fields)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, 400, param)
    assert metric(base, "num_requests_running") == 0


def test_trace_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl"):
        load_traces(tmp_path / "none.jsonl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "1"}\n')
    with pytest.raises(TraceError, match="prompt"):
        load_traces(bad)


def test_demo_traces() -> None:
    traces = load_traces(DEMO_TRACES)
    assert len({trace.prompt for trace in traces}) == len(traces) == 15
    assert sum(trace.unsafe_reasoning == 0 for trace in traces) == 7
    for trace in traces:
        assert trace.reasoning
        assert trace.answer
        assert 8 <= trace.reasoning.count(". ") + 1 <= 20
        assert trace.safe_continuation
        if trace.unsafe_reasoning:
            assert trace.onset_char is not None
            assert trace.reasoning[trace.onset_char - 2 : trace.onset_char] == ". "
    assert {Scenario.WEAPONS, Scenario.FRAUD} <= {trace.scenario for trace in traces}


def test_a_wrong_correction_of_a_benign_demo_trace_still_helps() -> None:
    traces = load_traces(DEMO_TRACES)
    with serve(simulator(traces)) as base:
        for trace in traces:
            if trace.unsafe_reasoning or not trace.reasoning:
                continue
            own = trace.reasoning
            for kept in ("", own[: own.index(". ") + 1], own[: len(own) // 2], own):
                prefix = f"<think>\n{kept}\n{safety_thought(trace.scenario, 'en')}"
                reasoning, answer = said(resume(base, prefix, trace.prompt))
                assert trace.safe_continuation is not None
                assert reasoning.strip() == trace.safe_continuation.partition("\n</think>")[0]
                assert answer == trace.answer


# --- against the transcripts of the real server ---

needs_wire = pytest.mark.skipif(
    not WIRE.is_dir(), reason="the recorded vLLM transcripts are not beside this checkout"
)
VARYING = {"date", "content-length", "transfer-encoding", "connection", "server"}


@pytest.fixture(scope="module")
def like_vllm() -> Iterator[str]:
    options = SimulatorOptions(model="think", strict_model=True, max_model_len=2048)
    with serve(simulator(TRACES, options)) as url:
        yield url


def transcript(name: str) -> tuple[str, str, httpx.Response]:
    """(request line, request body, reply as it was received)."""
    text = (WIRE / f"A-qwen3open-{name}.txt").read_text()
    head, _, body = text.partition("\n\n")
    lines = head.split("\n")
    asked = [line.removeprefix("### ") for line in lines if line.startswith("### ")]
    status, *headers = [line for line in lines if not line.startswith("### ")]
    pairs = [line.split(": ", 1) for line in headers]
    kept = [(key, value) for key, value in pairs if key not in VARYING]
    reply = httpx.Response(int(status.split()[1]), headers=kept, content=body.encode())
    return asked[0], asked[1] if len(asked) > 1 else "", reply


def shape(value: Any) -> Any:
    """Keys and types, recursively."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value[:1]]
    return type(value).__name__


def kinds(reply: httpx.Response) -> dict[str, list[Any]]:
    """The distinct shapes of a stream's events, by what they carry and whether they finish."""
    found: dict[str, list[Any]] = {}
    for event in events(reply):
        kind = "usage"
        if event["choices"]:
            choice = event["choices"][0]
            kind = f"{sorted(choice['delta'])} {choice['finish_reason']}"
        if shape(event) not in found.setdefault(kind, []):
            found[kind].append(shape(event))
    return found


@needs_wire
@pytest.mark.parametrize(
    "name",
    [
        "stream",
        "stream-usage",
        "stream-contusage",
        "stream-length",
        "stream-nothink",
        "stream-noreasoning",
        "stream-stop",
        "stream-stop-in-reasoning",
    ],
)
def test_streams_look_like_vllms(like_vllm: str, name: str) -> None:
    _, body, recorded = transcript(f"chat-{name}")
    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{like_vllm}/v1/chat/completions", content=body, headers=headers)
    assert set(reply.headers) - VARYING == set(recorded.headers) - VARYING
    assert reply.headers["content-type"] == recorded.headers["content-type"]
    assert kinds(reply) == kinds(recorded)
    key_order = [list(event) for event in events(reply)]
    assert key_order[0] == list(events(recorded)[0])
    assert key_order[-1] == list(events(recorded)[-1])


@needs_wire
@pytest.mark.parametrize("name", ["nonstream", "nonstream-length", "nonstream-nothink"])
def test_replies_look_like_vllms(like_vllm: str, name: str) -> None:
    _, body, recorded = transcript(f"chat-{name}")
    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{like_vllm}/v1/chat/completions", content=body, headers=headers)
    assert set(reply.headers) - VARYING == set(recorded.headers) - VARYING
    assert shape(reply.json()) == shape(recorded.json())
    assert list(reply.json()) == list(recorded.json())
    assert (
        reply.json()["choices"][0]["finish_reason"]
        == (recorded.json()["choices"][0]["finish_reason"])
    )


@needs_wire
@pytest.mark.parametrize(
    "name",
    [
        "bad-json",
        "bad-model",
        "bad-param",
        "max-tokens-too-big",
        "missing-messages",
        "wrong-content-type",
        "context-too-long",
    ],
)
def test_errors_are_vllms(like_vllm: str, name: str) -> None:
    _, body, recorded = transcript(f"error-{name}")
    kind = "text/plain" if name == "wrong-content-type" else "application/json"
    if name == "context-too-long":
        long = [{"role": "user", "content": "word " * 9000}]
        body = json.dumps({"model": "think", "messages": long, "stream": True})
    url = f"{like_vllm}/v1/chat/completions"
    reply = httpx.post(url, content=body, headers={"content-type": kind})
    assert reply.status_code == recorded.status_code
    assert set(reply.headers) - VARYING == set(recorded.headers) - VARYING
    error, expected = reply.json(), recorded.json()
    if name == "context-too-long":  # the number of tokens differs
        error["error"]["message"] = expected["error"]["message"]
    assert error == expected


@needs_wire
def test_models_and_metrics_look_like_vllms(like_vllm: str) -> None:
    _, _, recorded = transcript("models")
    assert shape(httpx.get(f"{like_vllm}/v1/models").json()) == shape(recorded.json())
    theirs = (WIRE / "A-qwen3open-metrics.txt").read_text().splitlines()
    ours = httpx.get(f"{like_vllm}/metrics").text.splitlines()
    names = [
        {row.split(" ")[0] for row in rows if row.startswith("vllm:")} for rows in (ours, theirs)
    ]
    assert names[0] <= names[1]
