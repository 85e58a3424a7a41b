"""Metrics move with what is recorded; what clients and upstreams say is in none, and not logged."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from gateway.access import key_hash
from gateway.settings import UPSTREAM_KEY
from gateway.telemetry import Levels, Telemetry, configure_logs
from monitors.bugs import log_bug
from monitors.events import Coverage, Outcome, Retraction, StepRecord, StepReleased
from monitors.formats import WireField
from monitors.judges.base import Verdict
from monitors.taxonomy import Action, Scenario, Stage
from tests.gateway.harness import MODEL, RULES, nobody, wait_until
from tests.gateway.scripted import DONE, FINISH, ROLE, Step, body, chunk, event, head, scripted
from tests.gateway.test_cli import SCRIPT

# --- metrics ----------------------------------------------------------------------------------


def values(telemetry: Telemetry, levels: Levels | None = None) -> dict[str, float]:
    """Every series that is not 0, as `name{label=value}` without our prefix."""
    text = telemetry.render(levels or Levels()).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("mlrm_guard_") and sample.value:
                labels = ",".join(
                    f"{name}={value}" for name, value in sorted(sample.labels.items())
                )
                series = sample.name.removeprefix("mlrm_guard_")
                found[f"{series}{{{labels}}}" if labels else series] = sample.value
    return {name: value for name, value in found.items() if "_created" not in name}


def step(verdict: Verdict, action: Action = Action.ALLOW) -> StepRecord:
    return StepRecord(Stage.REASONING, 0, 0, 9, "some text", verdict, 0.0, action, None)


def test_every_record_moves_its_metrics() -> None:
    telemetry = Telemetry()
    telemetry.observe("a", step(Verdict(0.1, "fake", ms=30.0)))
    telemetry.observe("a", step(Verdict.of_unknown("fake", "overload")))
    telemetry.observe("a", StepReleased(Stage.ANSWER, 0.03))
    telemetry.observe(
        "a",
        Outcome(
            action=Action.CORRECT,
            stage=Stage.REASONING,
            scenario=Scenario.FRAUD,
            reason="threshold",
            corrections=2,
            aborts=3,
            discarded_tokens=17,
            excursion_seconds=0.3,
            upstream_seconds=0.2,
            first_text_seconds=0.4,
            error="UpstreamUnavailableError",
            retract=[Retraction(WireField.CONTENT, 3, 10)],
            coverage={"answer": Coverage(20, 18, 19, {"blank": 1, "pending": 2})},
            ended="failed",
        ),
    )
    levels = Levels(live=4, judge_queue=5, image_queue=6, asked=20, remembered=7, shared=1)
    seen = values(telemetry, levels)
    expected = {
        "decisions_total{action=correct,scenario=fraud,stage=reasoning}": 1,
        "generations_total{ended=failed}": 1,
        "corrections_total": 2,
        "upstream_aborts_total": 3,
        "upstream_errors_total{error=UpstreamUnavailableError}": 1,
        "discarded_tokens_total": 17,
        "retracted_characters_total{field=content}": 7,
        "steps_total{known=yes,stage=reasoning}": 1,
        "steps_total{known=no,stage=reasoning}": 1,
        "characters_total{channel=answer,fate=received}": 20,
        "released_unjudged_characters_total{channel=answer,reason=pending}": 2,
        "judge_seconds_sum{stage=reasoning}": 0.03,
        "hold_lag_seconds_sum{stage=answer}": 0.03,
        "hold_lag_seconds_bucket{le=0.05,stage=answer}": 1,
        "excursion_seconds_sum": 0.3,
        "time_to_first_delta_seconds_sum": 0.2,
        "time_to_first_text_seconds_sum": 0.4,
        "live_generations": 4,
        "judge_queue": 5,
        "image_queue": 6,
        "judge_passages_total{answered=judge}": 12,
        "judge_passages_total{answered=memory}": 7,
        "judge_passages_total{answered=shared}": 1,
    }
    assert {name: seen.get(name) for name in expected} == pytest.approx(expected)
    assert "hold_lag_seconds_bucket{le=0.02,stage=answer}" not in seen


def test_what_was_not_reached_is_not_measured() -> None:
    telemetry = Telemetry()
    telemetry.observe("a", Outcome(ended="left"))
    seen = values(telemetry)
    assert seen["generations_total{ended=left}"] == 1
    assert not [name for name in seen if name.startswith("time_to_first")]


def test_a_rejected_policy_shows() -> None:
    levels = Levels("old@1", "shadow", policy_is_newest=False, reloads_ok=2, reloads_failed=1)
    seen = values(Telemetry(), levels)
    assert seen["policy_info{mode=shadow,policy=old@1}"] == 1
    assert "policy_is_newest" not in seen  # 0
    assert seen["policy_reloads_total{result=ok}"] == 2
    assert seen["policy_reloads_total{result=rejected}"] == 1
    assert values(Telemetry())["policy_is_newest"] == 1


def test_no_judge_can_make_series_without_bound() -> None:
    telemetry = Telemetry()
    for number in range(100):
        unjudged = {f"purple teapot {number}": 1}
        telemetry.observe("a", Outcome(coverage={"answer": Coverage(released_unjudged=unjudged)}))
    seen = values(telemetry)
    assert seen["released_unjudged_characters_total{channel=answer,reason=other}"] == 100
    assert not [name for name in seen if "teapot" in name]


# --- logs -------------------------------------------------------------------------------------


@contextmanager
def logged(level: str) -> Iterator[list[dict[str, Any]]]:
    """What is logged within, as JSON lines; puts back what `configure_logs` replaces."""
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    lines: list[dict[str, Any]] = []
    try:
        with redirect_stderr(io.StringIO()) as err:
            configure_logs(level)
            yield lines
        lines += [json.loads(line) for line in err.getvalue().splitlines()]
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        structlog.reset_defaults()


def test_libraries_may_say_who_and_where_but_not_what() -> None:
    secret = "crimson kettle"
    with logged("debug") as lines:
        try:
            raise ValueError(f"cannot read {secret}")
        except ValueError as error:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI %s\n%s", secret, secret)
            logging.getLogger("asyncio").error(f"callback({secret!r})", exc_info=error)
            log_bug(error)
        logging.getLogger("httpx").info('HTTP Request: %s "%s"', "POST", secret)
        logging.getLogger("uvicorn.error").error(OSError(98, f"bind {secret}"))
        logging.getLogger("anyone").log(5, secret)
        logging.getLogger("anyone").log(15, secret)
    assert not [line for line in lines if secret in json.dumps(line)]
    asgi, callback, bug, request, port, odd = lines
    assert asgi["message"] == "Exception in ASGI %s"
    assert {line["error"] for line in (asgi, callback, bug)} == {"ValueError"}
    assert (callback["logger"], callback["level"]) == ("asyncio", "error")
    assert request["logger"] == "httpx"
    assert (port["error"], port["system"]) == ("OSError", os.strerror(98))
    assert odd["level"] == "debug"


def test_libraries_are_quiet_unless_asked_for() -> None:
    with logged("info") as lines:
        logging.getLogger("httpx").info("a request")
        logging.getLogger("httpx").warning("a warning")
    assert [line["level"] for line in lines] == ["warning"]


# --- the whole, as a process at level debug ---------------------------------------------------

WORDS = ("zebra", "teapot", "kettle", "marmalade")
"""Of prompts, thinking, answers, errors, keys, names: none may be found again."""

KEY, UPSTREAM_SECRET = "mg-zebra-key", "zebra-upstream-key"


@contextmanager
def serving(folder: Path, upstream: str) -> Iterator[tuple[str, list[str]]]:
    """A `mlrm-guard serve --log-level debug` with keys; its lines, once it has ended."""
    policy, keys = folder / "policy.yaml", folder / "keys.txt"
    policy.write_text(json.dumps(RULES))
    keys.write_text(f"somebody {key_hash(KEY)}\n")
    root = nobody()
    command = [str(SCRIPT), "serve", "--upstream", f"{upstream}/v1", "--policy", str(policy)]
    command += ["--keys", str(keys), "--log-level", "debug", "--port", root.rpartition(":")[2]]
    environment = os.environ | {UPSTREAM_KEY: UPSTREAM_SECRET, "PYTHONASYNCIODEBUG": "1"}
    lines: list[str] = []
    with (
        (folder / "log").open("w+", encoding="utf-8") as log,
        subprocess.Popen(command, stderr=log, stdout=log, env=environment) as process,
    ):
        try:
            wait_until(lambda: ready(root), "not ready", 40)
            yield root, lines
        finally:
            process.terminate()
            process.wait(20)
            log.seek(0)
            lines += log.read().splitlines()


def ready(root: str) -> bool:
    try:
        return httpx.get(f"{root}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def ask(root: str, prompt: str, key: str = KEY, **fields: Any) -> str:
    """Send a request, read the reply; returns its id."""
    reply = httpx.post(
        f"{root}/v1/chat/completions?q=zebra",
        json={"model": MODEL, "stream": True, "messages": [{"role": "user", "content": prompt}]}
        | fields,
        headers={"Authorization": f"Bearer {key}", "x-zebra": "zebra", "traceparent": "zebra"},
        timeout=20,
    )
    return reply.headers["x-guard-request-id"]


THINKS = [ROLE, chunk(reasoning="The zebra eats marmalade today. It is good. "), chunk(content="Z")]
QUOTES = {"message": "marmalade of the zebra is bad", "type": "zebra", "code": 400}
REPLIES: dict[str, Sequence[Step]] = {
    "finished": [head(), *THINKS, chunk(content="ebra says yes."), FINISH, DONE],
    "refused": [head(), *THINKS, chunk(content="A purple teapot. It pours. "), FINISH, DONE],
    "400": [body({"error": QUOTES}, 400)],
    "500": [body({"error": {**QUOTES, "code": 500}}, 500)],
    "first event": [head(), event({"error": QUOTES}), DONE],
    "mid-stream": [head(), *THINKS, event({"error": QUOTES})],
    "garbage": [head(), *THINKS, b"data: {zebra marmalade\n\n"],
    "not UTF-8": [head(), *THINKS, b'data: "zebra \xff"\n\n'],
    "cut": [head(), *THINKS],
    "no stream": [head(kind="text/zebra"), b"marmalade"],
    "no HTTP": [b"zebra marmalade\r\n\r\n"],
}


def test_nothing_that_was_said_is_logged_or_measured(tmp_path: Path) -> None:
    ids = []
    with scripted() as upstream, serving(tmp_path, upstream.root) as (root, lines):
        for name, steps in REPLIES.items():
            for stream in (True, False):
                upstream.play(*steps)
                ids.append(ask(root, f"How does a zebra spread marmalade? ({name})", stream=stream))
        generations = len(ids)
        ids.append(ask(root, "Tell me about the crimson kettle."))
        ids.append(ask(root, "Zebra?", key="mg-marmalade"))
        ids.append(ask(root, "Zebra?", zebra="marmalade"))
        ids.append(ask(root, "Zebra?", temperature="marmalade"))
        ids.append(ask(root, "Zebra?", model="marmalade"))
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,zebra"}}
        ids.append(ask(root, "Zebra?", messages=[{"role": "user", "content": [image]}]))
        headers = {"Authorization": f"Bearer {KEY}"}
        raw = b'{"model": "zebra", "messages": [zebra marmalade'
        httpx.post(f"{root}/v1/chat/completions", content=raw, headers=headers)
        httpx.get(f"{root}/zebra/marmalade?zebra", headers=headers)
        httpx.request("ZEBRA", f"{root}/v1/models", headers=headers)
        metrics = httpx.get(f"{root}/metrics", headers=headers).text
    assert upstream.headers.count(UPSTREAM_SECRET.encode()) == 1
    assert "mlrm_guard_generations_total" in metrics
    assert not found_words(metrics)
    assert [line for line in lines if found_words(line)] == []
    # All of it can only be told from lines that are there.
    told = [json.loads(line) for line in lines if line.startswith("{")]
    assert {row.get("request_id") for row in told if row["event"] == "step"} & set(ids)
    assert {"started", "probed", "stopped", "library"} <= {row["event"] for row in told}
    summed = [row["request_id"] for row in told if row["event"] in ("generation", "turned away")]
    assert set(ids) <= set(summed)
    assert len(summed) == len(set(summed))
    assert generations <= sum(row["event"] == "generation" for row in told)


def found_words(text: str) -> list[str]:
    return re.findall("|".join(WORDS), text, re.IGNORECASE)
