"""What the client has: frontier, bridge, inline block, message to resume."""

from __future__ import annotations

from dataclasses import replace

import pytest

from monitors.delivery import Delivery, resume_prefix
from monitors.formats import Channel, WireField
from monitors.units import Unit
from tests.playbook import TASK, THOUGHT, policy, says, thinks

R, C = WireField.REASONING, WireField.CONTENT


def delivery(*, hidden: bool = False) -> Delivery:
    return Delivery(policy(), replace(TASK, hide_reasoning=hidden), {})


def test_the_frontier_counts_text_and_not_tags() -> None:
    client = delivery()
    client.text(Channel.MARKUP, C, "<think>")
    client.text(Channel.REASONING, C, "Hm.")
    assert client.frontier == 3
    assert client.coverage(Channel.MARKUP).released == len("<think>")


def test_hidden_reasoning_moves_the_frontier_and_is_not_released() -> None:
    client = delivery(hidden=True)
    assert client.text(Channel.REASONING, R, "Hm.") is None
    assert (client.frontier, client.coverage(Channel.REASONING).released) == (3, 0)
    assert client.resume(THOUGHT) == f"<think>\nHm.\n{THOUGHT}"


@pytest.mark.parametrize(("text", "bridge"), [("So", "\n"), (" So", "")])
def test_the_first_text_behind_a_cut_is_bridged(text: str, bridge: str) -> None:
    client = delivery()
    client.text(Channel.REASONING, R, "Hm.")
    client.cut()
    assert client.text(Channel.REASONING, R, text) == thinks(bridge + text)
    assert client.text(Channel.REASONING, R, "so.") == thinks("so.")


def test_a_refusal_is_led_in_by_what_is_open() -> None:
    client = delivery()
    assert client.lead_in == ""
    client.text(Channel.MARKUP, C, "<think>")
    assert client.lead_in == "\n</think>\n\n"
    client.text(Channel.MARKUP, C, "</think>")
    assert client.lead_in == ""
    assert client.text(Channel.ANSWER, C, "Yes.") == says("Yes.")
    assert client.lead_in == "\n\n"


@pytest.mark.parametrize(
    ("message", "prefix"),
    [
        ("", f"<think>\n{THOUGHT}"),
        ("\nHm. \n", f"<think>\nHm.\n{THOUGHT}"),
        ("<THINK>Hm.", f"<THINK>Hm.\n{THOUGHT}"),
        ("<think>\n", f"<think>\n{THOUGHT}"),
    ],
)
def test_a_resumed_message_has_one_opener_and_no_trailing_whitespace(
    message: str, prefix: str
) -> None:
    assert resume_prefix(message, THOUGHT) == prefix


def test_unparsed_text_waits_where_it_may_be_thinking_to_hide() -> None:
    client = delivery(hidden=True)
    assert client.text(Channel.UNPARSED, C, "Hm, a secret.") is None
    assert client.text(Channel.MARKUP, C, "</think>") is None
    assert client.text(Channel.ANSWER, C, "Hello.") == says("Hello.")
    assert client.settle() is None
    assert client.coverage(Channel.UNPARSED).released == 0


def test_unparsed_text_that_no_closer_made_thinking_leaves_at_the_end() -> None:
    client = delivery(hidden=True)
    client.text(Channel.UNPARSED, C, "Hello, ")
    client.text(Channel.UNPARSED, C, "you.")
    assert client.settle() == says("Hello, you.")
    assert client.coverage(Channel.UNPARSED).released == len("Hello, you.")


def test_words_that_left_before_a_cut_are_context_of_what_follows() -> None:
    client = delivery()
    client.words(Unit(Channel.REASONING, R, "I like the purple", 0), "I like the purple")
    client.cut()
    assert list(client.kept) == ["I like the purple"]
