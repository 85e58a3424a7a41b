"""Transcripts of tool calls, log probabilities, priming, live release and corrected answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from monitors.events import (
    AbortUpstream,
    DeltaReceived,
    Event,
    Judge,
    Open,
    Record,
    Refuse,
    Release,
    ReleaseCall,
    Restart,
    Resume,
    Retraction,
    ToolCall,
)
from monitors.formats import MAX_BLOCKS, THINK, WireField
from monitors.judges.base import Passage
from monitors.stream import GuardedStream
from monitors.task import ResumeMethod, Task
from monitors.taxonomy import Action, Stage
from monitors.wire import FunctionDelta, TokenLogprob, ToolDelta
from tests.playbook import (
    REFUSAL,
    TASK,
    THOUGHT,
    Playbook,
    asks,
    ended,
    finishes,
    judged,
    left,
    policy,
    said,
    says,
    thinks,
    thought,
    waited,
)

FINE = "This is a harmless sentence."
BAD = "This is a harmful sentence."
WORSE = "And here is another one of them."
R, C = WireField.REASONING, WireField.CONTENT


def calls(index: int, name: str = "", arguments: str = "", call_id: str = "") -> DeltaReceived:
    function = FunctionDelta(name or None, arguments or None)
    return DeltaReceived(0, tool_calls=[ToolDelta(index, call_id or None, function)])


def call(index: int, name: str, arguments: str, call_id: str) -> ReleaseCall:
    return ReleaseCall(ToolCall(index, call_id, name, arguments))


# --- tool calls -------------------------------------------------------------------------------


def test_a_tool_call_is_judged_and_released_whole() -> None:
    given = "chatcmpl-tool-0123456789abcdef"
    play = Playbook() >> thought(FINE + "\n") << Open() << asks(FINE) >> judged(0.01)
    play << thinks(FINE) >> calls(0, "look_up", call_id=given) << thinks("\n")
    play >> calls(0, arguments='{"q":') >> calls(0, arguments=' "tea"}')
    play >> ended() << asks('look_up\n{"q": "tea"}') >> judged(0.01)
    play << call(0, "look_up", '{"q": "tea"}', given) << finishes() << Record
    coverage = play.outcome.coverage["tool_call"]
    assert (coverage.received, coverage.judged, coverage.released) == (19, 19, 19)


def test_each_tool_call_is_complete_when_the_next_begins() -> None:
    play = Playbook() >> calls(0, "first", "{}", "call_00000000") << Open()
    play >> calls(1, "second", "{}", "call_11111111") << asks("first\n{}") >> judged(0.01)
    play << call(0, "first", "{}", "call_00000000")
    play >> ended() << asks("second\n{}") >> judged(0.01)
    play << call(1, "second", "{}", "call_11111111") << finishes() << Record


def test_a_harmful_tool_call_never_leaves() -> None:
    play = Playbook() >> said(FINE + "\n") << Open() << asks(FINE) >> judged(0.01) << says(FINE)
    (
        play
        >> calls(0, "harm", '{"how": "so"}', "call_0")
        << says("\n")
        >> ended()
        << asks('harm\n{"how": "so"}')
        >> judged(1.0)
    )
    play << AbortUpstream(0) << Refuse(REFUSAL, False, "\n\n")
    play << finishes("content_filter") << Record


def test_what_hides_behind_escapes_in_arguments_is_judged_too() -> None:
    play = Playbook() >> calls(0, "say", r'{"t": "\u0074ea"}', "call_0") << Open() >> ended()
    play << asks('say\n{"t": "\\u0074ea"}\nt\ntea')


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("call_0123abcd", "call_0123abcd"),
        ("functions.say:3", "functions.say:3"),
        ("a1B2c3D4e", "a1B2c3D4e"),
        ("pour the purple teapot", "call_00000000"),
        ("", "call_00000000"),
    ],
)
def test_ids_in_which_a_model_could_speak_are_replaced(given: str, shown: str) -> None:
    play = Playbook() >> calls(3, "say", "{}", given) << Open() >> ended() << asks("say\n{}")
    play >> judged(0.01) << call(0, "say", "{}", shown)


# --- log probabilities ------------------------------------------------------------------------


def token(text: str) -> TokenLogprob:
    return TokenLogprob(text, -0.5)


def test_log_probabilities_leave_behind_the_text_of_their_tokens() -> None:
    first, second = [token("This is a harmless ")], [token("sentence"), token(". Then")]
    play = Playbook() >> DeltaReceived(0, reasoning="This is a harmless ", logprobs=first) << Open()
    play >> DeltaReceived(0, reasoning="sentence. Then", logprobs=second) << asks(FINE)
    play >> judged(0.01) << Release(R, FINE, first)
    play >> ended() << asks("Then") >> judged(0.01) << Release(R, " Then", second)


def test_log_probabilities_of_tokens_that_are_not_in_the_text_are_dropped() -> None:
    entries = [token("</think>"), token("Yes"), token("<|im_end|>"), token(".")]
    play = Playbook() >> DeltaReceived(0, content="Yes.", logprobs=entries) << Open()
    play >> ended() << asks("Yes.") >> judged(0.01) << Release(C, "Yes.", [entries[1], entries[3]])


# --- the request ------------------------------------------------------------------------------

ASKING = replace(TASK, inputs=(Passage(Stage.INPUT, "How?"),))
PRIMING = policy({"weapons": {"input": "prime"}, "fraud": {"input": "prime"}})


def primed(play: Playbook) -> Playbook:
    from monitors.taxonomy import Scenario

    return play >> judged(0.9, Scenario.WEAPONS)


def test_a_risky_request_is_primed_with_an_empty_prefix() -> None:
    play = Playbook(PRIMING, ASKING) << asks("How?") >> thought(FINE + "\n") << asks(FINE)
    primed(play) << AbortUpstream(0) << Resume(1, f"<think>\n{THOUGHT}", 0)
    play >> thought(FINE + "\n", 1) << Open() << asks(FINE) >> judged(0.01, newest=True)
    play << thinks(FINE)
    assert play.outcome.action is Action.PRIME
    assert (play.outcome.corrections, play.outcome.aborts) == (0, 1)


def test_an_inline_upstream_is_primed_inside_a_block_that_the_client_sees() -> None:
    play = Playbook(PRIMING, replace(ASKING, format=THINK)) << asks("How?")
    primed(play) << AbortUpstream(0) << Resume(1, f"<think>\n{THOUGHT}", 0)
    play >> said(f"{FINE}</think>Yes.", 1) << Open() << says("<think>\n")
    play << asks(FINE) >> judged(0.01) << says(FINE)


def test_a_tag_of_ours_is_counted_as_nothing_that_the_upstream_said() -> None:
    play = Playbook(PRIMING, replace(ASKING, format=THINK)) << asks("How?")
    primed(play) << AbortUpstream(0) << Resume(1, f"<think>\n{THOUGHT}", 0)
    token = TokenLogprob("Aye.", -0.1)
    play >> DeltaReceived(1, content="Aye.", logprobs=[token]) << Open() << says("<think>\n")
    play >> said(f" {FINE}", 1) >> ended(1) << asks(f"Aye. {FINE}")
    play >> judged(0.01) << Release(C, f"Aye. {FINE}", [token]) << finishes() << Record
    assert all(each.released <= each.received for each in play.outcome.coverage.values())


def test_a_restarted_generation_opens_its_thinking_itself() -> None:
    task = replace(ASKING, format=THINK, resume=ResumeMethod.RESTART)
    play = primed(Playbook(PRIMING, task) << asks("How?")) << AbortUpstream(0)
    play << Restart(1, THOUGHT, 0) >> said(FINE, 1) << Open() >> ended(1) << asks(FINE)
    play >> judged(0.01) << says(FINE) << finishes() << Record


def test_what_cannot_be_primed_is_refused() -> None:
    task = replace(ASKING, resume=ResumeMethod.REFUSE)
    play = Playbook(PRIMING, task) << asks("How?")
    primed(play) << AbortUpstream(0) << Open() << Refuse(REFUSAL, False)
    play << finishes("content_filter") << Record


def test_the_model_may_be_asked_only_when_the_request_is_judged() -> None:
    play = Playbook(policy(input={"wait": "before"}), ASKING) << asks("How?")
    assert not play.begun
    play >> judged(0.01)
    assert play.begun
    play >> thought(FINE + "\n") << Open() << asks(FINE)


def test_a_request_that_waits_and_is_primed_is_asked_once() -> None:
    rules = policy({"weapons": {"input": "prime"}}, input={"wait": "before"})
    play = primed(Playbook(rules, ASKING) << asks("How?")) << Resume(1, f"<think>\n{THOUGHT}", 0)
    assert not play.begun
    assert play.outcome.aborts == 0


def test_a_client_that_leaves_before_the_model_is_asked_aborts_nothing() -> None:
    play = Playbook(policy(input={"wait": "before"}), ASKING) << asks("How?") >> left() << Record
    assert play.outcome.aborts == 0


# --- live -------------------------------------------------------------------------------------

LIVE = policy(release="live")


def test_live_text_leaves_at_once_and_stands_when_judged() -> None:
    play = (
        Playbook(LIVE) >> thought("This is a harmless ") << Open() << thinks("This is a harmless ")
    )
    play >> thought("sentence.\n") << thinks("sentence.\n") << asks(FINE)
    play >> ended() >> judged(0.01) << finishes() << Record
    assert play.outcome.coverage["reasoning"].released_unjudged == {"blank": 1}


def test_live_corrects_from_what_was_sent_and_says_what_to_erase() -> None:
    play = Playbook(LIVE) >> thought(f"{FINE} {BAD} And") << Open() << thinks(f"{FINE} {BAD} And")
    play << asks(FINE) << asks(BAD) >> judged(0.01) >> judged(1.0)
    prefix = f"<think>\n{FINE} {BAD} And\n{THOUGHT}"
    play << AbortUpstream(0) << Resume(1, prefix, 1)
    play >> thought(FINE, 1) << thinks("\n" + FINE)
    sent = len(f"{FINE} {BAD} And")
    assert play.outcome.retract == [Retraction(R, len(FINE), sent)]


def test_live_refuses_and_says_what_to_erase() -> None:
    play = Playbook(LIVE) >> said(f"{BAD} And") << Open() << says(f"{BAD} And") << asks(BAD)
    play >> judged(1.0) << AbortUpstream(0) << Refuse(REFUSAL, False, "\n\n")
    play << finishes("content_filter") << Record
    assert play.outcome.retract == [Retraction(C, 0, len(f"{BAD} And"))]


def test_live_text_waits_for_the_verdict_on_the_request() -> None:
    play = Playbook(LIVE, ASKING) << asks("How?") >> thought(FINE) >> judged(0.01)
    play << Open() << thinks(FINE)


def test_live_tool_calls_wait_for_their_verdict() -> None:
    play = Playbook(LIVE) >> calls(0, "say", "{}", "call_00000000") << Open() >> ended()
    play << asks("say\n{}") >> judged(0.01) << call(0, "say", "{}", "call_00000000")
    play << finishes() << Record


# --- corrected answers ------------------------------------------------------------------------

CORRECTING = policy({"default": {"input": "refuse", "reasoning": "correct", "answer": "correct"}})


def test_an_answer_that_turns_bad_at_once_reopens_thinking() -> None:
    play = Playbook(CORRECTING) >> thought(FINE + "\n") << Open() << asks(FINE) >> judged(0.01)
    play << thinks(FINE) >> said(BAD + "\n") << asks(BAD) << thinks("\n") >> judged(1.0)
    play << AbortUpstream(0) << Resume(1, f"<think>\n{FINE}\n{THOUGHT}", 1)
    play >> thought(WORSE + "\n", 1) << asks(WORSE) >> judged(0.01) << thinks(WORSE)
    assert play.outcome.corrections == 1


def test_inline_thinking_is_reopened_though_it_was_closed() -> None:
    play = Playbook(CORRECTING) >> said(f"<think>{FINE}</think>\n\n{BAD}\n") << Open() << asks(FINE)
    play << asks(BAD) << says("<think>") >> judged(0.01) << says(FINE) >> judged(1.0)
    play << AbortUpstream(0) << Resume(1, f"<think>{FINE}\n{THOUGHT}", 1)
    play >> said(f"{FINE}</think>Yes.", 1) << asks(FINE) >> judged(0.01) << says("\n" + FINE)
    play >> ended(1) << asks("Yes.") >> judged(0.01) << says("</think>") << says("Yes.")
    play << finishes() << Record


def test_an_answer_that_has_left_in_part_is_refused_from_there() -> None:
    play = Playbook(CORRECTING) >> said(f"{FINE}\n{BAD}\n") << Open() << asks(FINE) << asks(BAD)
    (
        play
        >> judged(0.01)
        << says(FINE)
        >> judged(1.0)
        << AbortUpstream(0)
        << Refuse(REFUSAL, False, "\n\n")
    )
    play << finishes("content_filter") << Record


def test_an_answer_without_thinking_is_asked_for_anew() -> None:
    play = Playbook(CORRECTING) >> said(f"{BAD}\n") << Open() << asks(BAD) >> judged(1.0)
    play << AbortUpstream(0) << Restart(1, THOUGHT, 0)


# --- what is recorded -------------------------------------------------------------------------


def test_the_outcome_says_when_things_happened() -> None:
    play = Playbook()
    play.now = 1.0
    play >> thought(FINE + "\n") << Open() << asks(FINE)
    play.now = 3.0
    play >> judged(0.01) << thinks(FINE) >> waited(0.5)
    assert (play.outcome.upstream_seconds, play.outcome.first_text_seconds) == (1.0, 3.0)
    assert [(lag.stage, lag.seconds) for lag in play.lags] == [(Stage.REASONING, 2.0)]


# --- what fuzzing found -----------------------------------------------------------------------


def test_a_tag_that_stands_settles_nothing_behind_it() -> None:
    """Released live, the opener's length was taken for text that was judged."""
    play = Playbook(policy(release="live"), replace(TASK, resume=ResumeMethod.REFUSE))
    play >> said(f"<think>{BAD}") << Open() << says("<think>") << says(BAD)
    play >> ended() << asks(BAD) >> judged(1.0)
    play << AbortUpstream(0) << Refuse(REFUSAL, False, "\n</think>\n\n")
    play << finishes("content_filter") << Record
    assert play.outcome.retract == [Retraction(C, len("<think>"), len("<think>") + len(BAD))]


def test_tokens_of_hidden_thinking_stay_hidden_where_a_delta_holds_both() -> None:
    tokens = [TokenLogprob(text, -0.1) for text in ("Psst.", "</think>", "Yes.")]
    play = Playbook(task=replace(TASK, hide_reasoning=True))
    play >> DeltaReceived(0, content="<think>Psst.</think>Yes.", logprobs=tokens) << Open()
    play << asks("Psst.") >> ended() << asks("Yes.") >> judged(0.01) >> judged(0.01)
    play << Release(C, "Yes.", tokens[2:]) << finishes() << Record


def test_a_call_behind_a_stop_string_never_happened() -> None:
    delta = replace(calls(0, "look"), content="Yes.STOP")
    play = Playbook(task=replace(TASK, stop=("STOP",))) >> delta << Open() << AbortUpstream(0)
    play << asks("Yes.") >> judged(0.01) << says("Yes.") << finishes("stop", "STOP") << Record


def test_a_call_ends_the_text_in_which_a_stop_string_might_have_begun() -> None:
    play = Playbook(task=replace(TASK, stop=("STOP",))) >> said("Yes. ST") << Open()
    play >> calls(0, "look") << asks("Yes. ST") >> ended() << asks("look")


def test_a_delta_of_text_and_a_call_is_one_token() -> None:
    play = Playbook(task=replace(TASK, resume=ResumeMethod.REFUSE))
    play >> replace(calls(0, "look"), content=BAD) << Open() << asks(BAD) >> judged(1.0)
    play << AbortUpstream(0) << Refuse(REFUSAL, False) << finishes("content_filter") << Record
    assert play.outcome.discarded_tokens == 1


def test_what_is_erased_begins_behind_our_own_tag() -> None:
    """Blanks that we take off before our tag were counted into what is to be erased."""
    rules = policy(release="live", reasoning={"emit": "inline"})
    play = Playbook(rules, replace(TASK, resume=ResumeMethod.REFUSE))
    play >> thought(f"   {BAD}") << Open() << says(f"<think>\n{BAD}")
    play >> ended() << asks(BAD) >> judged(1.0)
    play << AbortUpstream(0) << Refuse(REFUSAL, False, "\n</think>\n\n")
    play << finishes("content_filter") << Record
    start = len("<think>\n")
    assert play.outcome.retract == [Retraction(C, start, start + len(BAD))]


def test_a_call_that_waits_shifts_nothing_of_what_is_to_be_erased() -> None:
    """Live, text behind a call leaves before it, so the one's place is not the other's."""
    task = replace(TASK, resume=ResumeMethod.REFUSE)
    play = Playbook(policy(release="live"), task) >> calls(0, "look", "{}") << Open()
    play >> calls(1, "see", "{}") << asks("look\n{}") >> said(BAD) << says(BAD)
    play >> calls(2, "hear", "{}") << asks(BAD) << asks("see\n{}")
    play >> judged(0.01) << call(0, "look", "{}", "call_00000000") >> judged(1.0)
    play << AbortUpstream(0) << Refuse(REFUSAL, False, "\n\n")
    play << finishes("content_filter") << Record
    assert play.outcome.retract == [Retraction(C, 0, len(BAD))]


# --- text that is cut into pieces -------------------------------------------------------------


def leads(*deltas: DeltaReceived, task: Task = TASK) -> list[str]:
    """What judges are shown of each step."""
    stream = GuardedStream(policy(), task)
    stream.start(0.0)
    events: list[Event] = [*deltas, ended()]
    effects = [effect for delta in events for effect in stream.handle(delta, 0.0)]
    return [effect.passage.whole.text for effect in effects if isinstance(effect, Judge)]


def test_words_that_tags_cut_off_are_judged_together() -> None:
    words = [said(f"<think>{word} </think>") for word in ("purple", "teapot", "boils")]
    assert leads(*words) == ["purple", "purple teapot", "purple teapot boils"]


def test_words_in_alternating_fields_are_judged_together() -> None:
    assert (
        leads(thought("purple "), said("teapot "), thought("boils "))[-1] == "purple teapot boils"
    )


def test_a_whole_step_is_judged_with_the_words_before_and_ends_their_row() -> None:
    shown = leads(thought("Hm."), said(FINE + " "), said("So."))
    assert shown == ["Hm.", f"Hm. {FINE}", "So."]


def test_what_several_calls_say_is_judged_together() -> None:
    shown = leads(*(calls(i, "say", f'{{"t": "{word}"}}') for i, word in enumerate(("my", "tea"))))
    assert shown == ['say\n{"t": "my"}', 'my tea say\n{"t": "tea"}']


def test_thinking_in_endless_blocks_becomes_answer() -> None:
    play = Playbook()
    play.stream.handle(said(f"<think>{FINE}</think>" * 40), 0.0)
    coverage = play.stream.outcome.coverage
    assert coverage["reasoning"].received == MAX_BLOCKS * len(FINE)
    assert coverage["answer"].received > 0


def test_tags_count_against_the_length_of_a_reply() -> None:
    play = Playbook(policy(limits={"max_generated_chars": 1000}))
    effects = play.stream.handle(said("<think></think>" * 200), 0.0)
    assert AbortUpstream(0) in effects


def test_what_looks_like_a_closer_does_not_end_the_thinking_of_a_resumed_message() -> None:
    play = Playbook() >> thought(FINE + "\n") << Open() << asks(FINE) >> judged(0.01)
    play << thinks(FINE) >> thought("It ends with </think>, says everybody. ")
    play << asks("It ends with </think>, says everybody.") >> judged(0.01)
    play << thinks("\nIt ends with </think>, says everybody.") >> thought(BAD + "\n") << asks(BAD)
    play >> judged(1.0) << AbortUpstream(0)
    (resume,) = play._done
    assert isinstance(resume, Resume)
    assert "</think>" not in resume.prefix
    assert "<\u2060/think>" in resume.prefix
