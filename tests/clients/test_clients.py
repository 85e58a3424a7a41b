"""The clients that applications use, unchanged but for the base URL: what their users see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from tests.clients.clients import CLIENTS, INSTALLED, ROOT, Running, running
from tests.clients.driver import Action, Seen
from tests.clients.gate import (
    BAD_CALL,
    BAD_RECIPE,
    BREAK,
    BROKEN,
    PAUSE,
    PAUSED,
    RECIPE,
    WEATHER,
    Heard,
    gate,
)
from tests.clients.table import Row, table
from tests.gateway.harness import BREAD, KEPT, KETTLE, LATE, REFUSAL, SLIDE

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not INSTALLED.exists(), reason="`make test-clients` installs the clients"),
]

Gates = tuple[tuple[str, Heard], tuple[str, Heard]]
Asked = Callable[..., Seen]
"""(client, action, prompt, stream[, denying]): what the client's user saw; asked once."""

KEPT_ANSWER = "What a lovely day it is today.\n\n"
CORRECTED = "Dear reader!"
NEVER = ("teapot", "pours", "pouring")


@pytest.fixture(scope="module")
def gates() -> Iterator[Gates]:
    """One gateway that answers with refusals, one that denies risky input with an error."""
    with gate() as refusing, gate(input={"refuse_as": "error"}) as denying:
        yield refusing, denying


@pytest.fixture(scope="module")
def drivers() -> Iterator[Callable[[str], Running]]:
    with ExitStack() as stack:
        yield cache(lambda name: stack.enter_context(running(CLIENTS[name])))


@pytest.fixture(scope="module")
def asked(gates: Gates, drivers: Callable[[str], Running]) -> Asked:
    @cache
    def ask(client: str, action: Action, prompt: str, stream: bool, denying: bool = False) -> Seen:
        url, heard = gates[denying]
        before = heard.requests
        seen = drivers(client).ask(url, action, prompt, stream=stream)
        requests = heard.requests - before
        assert requests == (2 if seen.calls else 1), "asked again"
        assert not [word for word in NEVER if word in seen.text + seen.reasoning]
        return seen

    return ask


streams = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
clients = pytest.mark.parametrize("client", CLIENTS)


@clients
@streams
def test_a_benign_reply_is_what_was_sent(asked: Asked, client: str, stream: bool) -> None:
    seen = asked(client, "chat", BREAD.prompt, stream)
    assert (seen.text, seen.finish, seen.error) == (BREAD.answer, "stop", None)
    assert seen.pieces > 1 or not stream
    assert seen.refusal is None
    check_thinking(seen, client, stream, BREAD.reasoning)
    check_guard(seen, client, stream, "allow")


@clients
@streams
def test_a_corrected_reply_is_one_reply(asked: Asked, client: str, stream: bool) -> None:
    seen = asked(client, "chat", SLIDE.prompt, stream)
    assert (seen.text, seen.finish, seen.error) == (CORRECTED, "stop", None)
    assert len(seen.ids) <= 1
    rest = "Pouring would not help anybody here. I stay with the honest letter."
    check_thinking(seen, client, stream, f"{KEPT} {rest}")
    check_guard(seen, client, stream, "correct")


@clients
@streams
@pytest.mark.parametrize(
    ("prompt", "kept"), [(LATE.prompt, KEPT_ANSWER), (KETTLE.prompt, "")], ids=["answer", "input"]
)
def test_a_refusal_is_read_by_people_and_programs(
    asked: Asked, client: str, stream: bool, prompt: str, kept: str
) -> None:
    seen = asked(client, "chat", prompt, stream)
    wanted = CLIENTS[client]
    assert seen.text == kept + REFUSAL * wanted.shows_refusal
    assert (seen.finish, seen.error) == (wanted.filtered, None)
    assert seen.refusal == (REFUSAL if wanted.refusal[not stream] else None)
    check_guard(seen, client, stream, "refuse")


@clients
@streams
def test_a_denied_request_is_an_error_that_is_not_retried(
    asked: Asked, client: str, stream: bool
) -> None:
    seen = asked(client, "chat", KETTLE.prompt, stream, True)
    assert seen.error is not None
    assert seen.error["kind"] == CLIENTS[client].denied
    assert seen.error["status"] == 400
    assert "content_policy_violation" in (seen.error["code"] or seen.error["message"])
    assert REFUSAL in seen.error["message"]
    assert {"BadRequestError", "APICallError"} & set(seen.error["kinds"])
    assert not seen.text


@clients
@streams
def test_a_structured_output_is_parsed(asked: Asked, client: str, stream: bool) -> None:
    seen = asked(client, "form", RECIPE.prompt, stream)
    assert (seen.form, seen.error) == ({"title": "Bread", "minutes": 90}, None)


@clients
@streams
@pytest.mark.parametrize("prompt", [BAD_RECIPE.prompt, KETTLE.prompt], ids=["answer", "input"])
def test_a_refused_structured_output_is_never_a_form(
    asked: Asked, client: str, stream: bool, prompt: str
) -> None:
    seen = asked(client, "form", prompt, stream)
    assert seen.form is None
    assert seen.error is not None
    assert seen.error["kind"] == CLIENTS[client].unformed


@clients
@streams
def test_a_tool_call_is_complete_and_its_result_is_answered(
    asked: Asked, client: str, stream: bool
) -> None:
    seen = asked(client, "tool", WEATHER.prompt, stream)
    assert seen.calls == [{"name": "get_weather", "arguments": {"city": "Paris"}}]
    assert (seen.text, seen.finish, seen.error) == (WEATHER.answer, "stop", None)


@clients
@streams
def test_a_refused_tool_call_is_a_refusal(asked: Asked, client: str, stream: bool) -> None:
    seen = asked(client, "tool", BAD_CALL, stream)
    assert seen.calls == []
    if seen.error is None:
        assert seen.text == REFUSAL * CLIENTS[client].shows_refusal
        assert seen.finish == CLIENTS[client].filtered
    else:  # the helpers of the official clients parse calls
        assert seen.error["kind"] == "ContentFilterFinishReasonError"


@pytest.mark.parametrize("client", ["openai-python", "openai-python-2", "openai-js"])
@streams
def test_two_choices_come_under_one_id(asked: Asked, client: str, stream: bool) -> None:
    seen = asked(client, "two", BREAD.prompt, stream)
    assert seen.texts == [BREAD.answer, BREAD.answer]
    assert (len(seen.ids), seen.error) == (1, None)


@clients
@streams
def test_signs_of_life_are_no_text(asked: Asked, client: str, stream: bool) -> None:
    """The model goes on only when the gateway has sent one."""
    seen = asked(client, "chat", PAUSE, stream)
    assert (seen.text, seen.finish, seen.error) == ("".join(PAUSED), "stop", None)


@clients
def test_an_error_in_a_stream_is_raised_after_what_came_before(asked: Asked, client: str) -> None:
    seen = asked(client, "chat", BREAK, True)
    assert seen.text == BROKEN
    assert seen.error is not None
    assert seen.error["kind"] == CLIENTS[client].broken


def test_the_readme_says_what_the_clients_show(
    asked: Asked, drivers: Callable[[str], Running]
) -> None:
    def pair(client: str, action: Action, prompt: str, *denying: bool) -> tuple[Seen, Seen]:
        return (
            asked(client, action, prompt, True, *denying),
            asked(client, action, prompt, False, *denying),
        )

    rows = [
        Row(
            name=drivers(client).name,
            benign=pair(client, "chat", BREAD.prompt),
            corrected=pair(client, "chat", SLIDE.prompt),
            refused=pair(client, "chat", LATE.prompt),
            denied=pair(client, "chat", KETTLE.prompt, True),
            unformed=pair(client, "form", BAD_RECIPE.prompt),
            called=pair(client, "tool", WEATHER.prompt),
            broken=asked(client, "chat", BREAK, True),
        )
        for client in CLIENTS
    ]
    observed = table(
        rows,
        benign=BREAD.answer or "",
        corrected=CORRECTED,
        answered=WEATHER.answer or "",
        refusal=REFUSAL,
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, begin, rest = readme.partition("<!-- clients:begin -->\n")
    written, end, _ = rest.partition("<!-- clients:end -->")
    assert begin and end and written == observed, f"the README's table should be:\n{observed}"


def check_thinking(seen: Seen, client: str, stream: bool, text: str | None) -> None:
    at = CLIENTS[client].thinking
    assert (seen.reasoning, seen.reasoning_at) == ((text, at[not stream]) if at else ("", ""))


def check_guard(seen: Seen, client: str, stream: bool, action: str) -> None:
    at = CLIENTS[client].guard[not stream]
    assert (seen.guard, seen.guard_at) == ((action, at) if at else (None, ""))
