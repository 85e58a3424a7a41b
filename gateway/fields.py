"""Every field of a chat completion request, and what becomes of it: the one table.

A field goes upstream only by a row of this table. A field may blind the guard (hide thinking, move
its end, show text around the guard, change what the model sees): then the gateway sets or refuses
it. The table covers OpenAI's chat schema and vLLM's; tests compare it with both.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from gateway.errors import RequestError

Check = Callable[[str, Any], None]
"""Raises RequestError where the value is not what the named field takes."""


class Treatment(StrEnum):
    """What becomes of a field."""

    PASSED = "passed"
    """Goes upstream after a type check."""
    JUDGED = "judged"
    """Goes upstream, and its text is judged."""
    SET = "set"
    """The gateway sends its own value, and does for the client what the client asked."""
    REFUSED = "refused"
    """400, unless the value asks for nothing."""
    DROPPED = "dropped"
    """Accepted, without effect."""


@dataclass(frozen=True, slots=True)
class Field:
    """One row. `null` counts as absent for every field.

    `except_for`: values of a refused field that ask for nothing.
    `lenient`: a refused field that `--permissive` passes.
    """

    treatment: Treatment
    why: str
    check: Check | None = None
    except_for: tuple[Any, ...] = ()
    lenient: bool = False


def bad(name: str, problem: str, code: str = "invalid_value") -> RequestError:
    """Return the error for a field or place in the request."""
    return RequestError(f"'{name}' {problem}", param=name, code=code)


def wrong_type(name: str, wanted: str) -> RequestError:
    """Return the error for a value of the wrong type."""
    return bad(name, f"must be {wanted}", code="invalid_type")


def anything(name: str, value: Any) -> None:
    """Take anything: the value is read elsewhere, or not at all."""


def boolean(name: str, value: Any) -> None:
    """Take true or false."""
    if not isinstance(value, bool):
        raise wrong_type(name, "true or false")


def number(low: float, high: float) -> Check:
    """Return the check for a number in [low, high]."""

    def check(name: str, value: Any) -> None:
        if type(value) not in (int, float):  # a bool is an int, but no number here
            raise wrong_type(name, "a number")
        if not low <= value <= high:
            raise bad(name, f"must be between {low:g} and {high:g}")

    return check


def integer(low: int, high: int = 2**31 - 1) -> Check:
    """Return the check for a whole number in [low, high]."""

    def check(name: str, value: Any) -> None:
        if type(value) is not int:
            raise wrong_type(name, "an integer")
        if not low <= value <= high:
            raise bad(name, f"must be an integer between {low} and {high}")

    return check


def text(longest: int, shortest: int = 1) -> Check:
    """Return the check for a string of `shortest` to `longest` characters."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, str):
            raise wrong_type(name, "a string")
        if not shortest <= len(value) <= longest:
            raise bad(name, f"must have {shortest} to {longest} characters")

    return check


def one_of(*allowed: str) -> Check:
    """Return the check for one of a few words."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, str):
            raise wrong_type(name, "a string")
        if value not in allowed:
            raise bad(name, f"must be one of {', '.join(allowed)}")

    return check


def mapping(checks: Mapping[str, Check], required: tuple[str, ...] = ()) -> Check:
    """Return the check for an object with these keys and no others; null counts as absent."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise wrong_type(name, "an object")
        for key, item in value.items():
            if key not in checks:
                raise unknown(f"{name}.{clip(key)}", key, checks)
            if item is not None:
                checks[key](f"{name}.{key}", item)
        for key in required:
            if value.get(key) is None:
                raise bad(f"{name}.{key}", "is required", code="missing_required_parameter")

    return check


def _object(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise wrong_type(name, "an object")


def _strings(name: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise wrong_type(name, "a list of strings")


def _documents(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise wrong_type(name, "a list of objects")
    for index, document in enumerate(value):
        if not isinstance(document, dict) or not all(isinstance(t, str) for t in document.values()):
            raise wrong_type(f"{name}[{index}]", "an object of strings")


_json_schema = mapping(
    {
        "name": text(64),
        "description": text(100_000, shortest=0),
        "schema": _object,
        "strict": boolean,
    },
    required=("name",),
)


def _response_format(name: str, value: Any) -> None:
    kinds = one_of("text", "json_object", "json_schema")
    mapping({"type": kinds, "json_schema": _json_schema}, required=("type",))(name, value)
    if value["type"] == "json_schema" and value.get("json_schema") is None:
        raise bad(f"{name}.json_schema", "is required", code="missing_required_parameter")


_MOST_TOOLS = 128
_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


def _function_name(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise wrong_type(name, "a string")
    if not _FUNCTION_NAME.fullmatch(value):
        raise bad(name, "must have 1 to 64 letters, digits and . _ -")


_function = mapping(
    {
        "name": _function_name,
        "description": text(2**31, shortest=0),
        "parameters": _object,
        "strict": boolean,
    },
    required=("name",),
)
_named = mapping({"name": _function_name}, required=("name",))


def _tools(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise wrong_type(name, "a list of tools")
    if len(value) > _MOST_TOOLS:
        raise bad(name, f"must hold at most {_MOST_TOOLS} tools")
    for index, tool in enumerate(value):
        _of_function(f"{name}[{index}]", tool, _function)


def _tool_choice(name: str, value: Any) -> None:
    if isinstance(value, dict):
        _of_function(name, value, _named)
    elif value not in ("none", "auto", "required"):
        problem = "must be 'none', 'auto', 'required' or an object that names one function"
        raise bad(name, problem, code="invalid_value" if isinstance(value, str) else "invalid_type")


def _of_function(name: str, value: Any, function: Check) -> None:
    # Before the keys: those of OpenAI's custom tools and `allowed_tools` would be just unknown.
    if isinstance(value, dict) and value.get("type", "function") != "function":
        raise bad(f"{name}.type", "must be 'function': vLLM knows no other tools and choices")
    mapping({"type": anything, "function": function}, required=("function",))(name, value)


_EFFORT = one_of("none", "minimal", "low", "medium", "high", "xhigh", "max")
_INT64 = (-(2**63), 2**63 - 1)


def _passed(why: str, check: Check) -> Field:
    return Field(Treatment.PASSED, why, check)


def _judged(why: str, check: Check | None = None) -> Field:
    return Field(Treatment.JUDGED, why, check)


def _set(why: str) -> Field:
    return Field(Treatment.SET, why)


def _dropped(why: str) -> Field:
    return Field(Treatment.DROPPED, why)


def _refused(why: str, *except_for: Any, lenient: bool = False) -> Field:
    return Field(Treatment.REFUSED, why, None, except_for, lenient)


_SAMPLING = "sampling"
_SHAPE = "shapes the answer only, which is judged as any"
MOST_CHOICES: Final = 8
_LATER = "not supported yet by this version: "
_TOKENS = "moves the end of thinking, and token ids mean nothing without the model's tokenizer"
_AROUND = "shows text or tokens around the guard"
_OPERATOR = "the operator's affair"
_RENDER = "of vLLM's render endpoints, which are not served"

FIELDS: Final[Mapping[str, Field]] = {
    # OpenAI's
    "messages": _judged("every role, tool results and thinking sent by the client too"),
    "model": _passed("names the model; required", text(256)),
    "stream": _set("upstream always streams, so that the guard can stop early"),
    "stream_options": _set("usage is always asked for, and shown to who asked, as asked"),
    "stop": _set("applied by the gateway, to the answer only: upstream it could cut the thinking"),
    "max_tokens": _passed("lowered by what was kept when a generation is resumed", integer(1)),
    "max_completion_tokens": _passed("as `max_tokens`; not both", integer(1)),
    "temperature": _passed(_SAMPLING, number(0, 10)),
    "top_p": _passed(_SAMPLING, number(0, 1)),
    "seed": _passed(_SAMPLING, integer(*_INT64)),
    "presence_penalty": _passed(_SAMPLING, number(-2, 2)),
    "frequency_penalty": _passed(_SAMPLING, number(-2, 2)),
    "reasoning_effort": _passed("thinking, however long, is judged", _EFFORT),
    "response_format": _judged(
        "some chat templates write the schema into the prompt; `text`, `json_object` and "
        "`json_schema`",
        _response_format,
    ),
    "n": _set(f"1 to {MOST_CHOICES}: one upstream request for each choice"),
    "tools": _judged("functions: chat templates write all of them into the prompt", _tools),
    "tool_choice": _passed(
        "`none`, `auto`, `required` or one function of `tools`; no `allowed_tools`", _tool_choice
    ),
    "parallel_tool_calls": _passed("every call is judged", boolean),
    "functions": _refused("deprecated by OpenAI, unknown to vLLM; use `tools`", []),
    "function_call": _refused("deprecated by OpenAI, unknown to vLLM; use `tool_choice`", "none"),
    "logprobs": _passed("of released tokens only", boolean),
    "top_logprobs": _passed("0 to 20, with `logprobs` only; policies may refuse", integer(0, 20)),
    "logit_bias": _refused(_TOKENS, {}, lenient=True),
    "modalities": _refused("the guard judges text only", ["text"]),
    "audio": _refused("the guard judges text only"),
    "web_search_options": _refused("the guard would not see what was found"),
    "moderation": _refused("another moderation; here the gateway's policy applies to everything"),
    "metadata": _dropped("nothing is stored"),
    "store": _dropped("nothing is stored"),
    "prediction": _dropped("a hint for speed, unknown to vLLM"),
    "prompt_cache_key": _dropped("a hint for OpenAI's cache; vLLM's is automatic"),
    "prompt_cache_options": _dropped("a hint for OpenAI's cache; vLLM's is automatic"),
    "prompt_cache_retention": _dropped("a hint for OpenAI's cache; vLLM's is automatic"),
    "safety_identifier": _dropped("a client cannot say who it is; its key does"),
    "service_tier": _dropped("unknown to vLLM"),
    "user": _dropped("ignored by vLLM; a client cannot say who it is, its key does"),
    "verbosity": _dropped("unknown to vLLM"),
    # vLLM's: sampling
    "top_k": _passed(_SAMPLING, integer(-1)),
    "min_p": _passed(_SAMPLING, number(0, 1)),
    "repetition_penalty": _passed(_SAMPLING, number(0, 10)),
    "min_tokens": _passed("delays the end of the turn; all of it is judged", integer(0)),
    "repetition_detection": _passed(
        "ends a loop early",
        mapping(dict.fromkeys(("max_pattern_size", "min_pattern_size", "min_count"), integer(0))),
    ),
    "watermarking": _passed(_SAMPLING, boolean),
    "structured_outputs": _judged(
        _SHAPE + "; `json`, `choice`, `regex` and `json_object`: a grammar or structural tag may "
        "spell reasoning tags",
        mapping(
            {
                "json": _object,
                "choice": _strings,
                "regex": text(10_000),
                "json_object": boolean,
                "disable_any_whitespace": boolean,
                "disable_additional_properties": boolean,
            }
        ),
    ),
    "allowed_token_ids": _refused(_TOKENS, [], lenient=True),
    "bad_words": _refused("moves the end of thinking when it names a tag", [], lenient=True),
    "stop_token_ids": _refused("can cut the thinking; use `stop`", []),
    "include_stop_str_in_output": _refused(_LATER + "the stop string is left out", False),
    "ignore_eos": _passed("as `min_tokens`", boolean),
    "use_beam_search": _refused("beams cannot be judged while they are generated", False),
    "best_of": _refused("shows one of several generations, unknown to vLLM", 1),
    "length_penalty": _dropped("means nothing without beams"),
    "thinking_token_budget": _refused("cuts the thinking, which then goes on as answer"),
    # vLLM's: the prompt
    "include_reasoning": _set("upstream always shows the thinking; false hides it behind us"),
    "chat_template_kwargs": _passed(
        "`enable_thinking`, `thinking` and `reasoning_effort`; others may rewrite the prompt",
        mapping({"enable_thinking": boolean, "thinking": boolean, "reasoning_effort": _EFFORT}),
    ),
    "documents": _judged("written into the prompt by templates for retrieval", _documents),
    "chat_template": _refused("rewrites the prompt"),
    "add_generation_prompt": _refused("needed to know where the thinking starts", True),
    "continue_final_message": _refused(_LATER + "end with a user or tool message", False),
    "echo": _refused("mixes prompt and answer", False),
    "add_special_tokens": _refused("the chat template's affair", False),
    "truncate_prompt_tokens": _refused("the model would not see the prompt that was judged"),
    "truncation_side": _refused("the model would not see the prompt that was judged"),
    "media_io_kwargs": _refused("the model would not see the images that were judged", {}),
    "mm_processor_kwargs": _refused("the model would not see the images that were judged", {}),
    "cache_salt": _passed("kept the same when a generation is resumed", text(1024)),
    # vLLM's: the reply
    "skip_special_tokens": _refused("writes control tokens into the text", True),
    "spaces_between_special_tokens": _dropped("no special tokens are shown"),
    "prompt_logprobs": _refused(_AROUND),
    "logprob_token_ids": _refused(_AROUND, []),
    "return_tokens_as_token_ids": _refused(_AROUND, False),
    "return_token_ids": _refused(_AROUND, False),
    "return_prompt_text": _refused(_AROUND, False),
    "return_token_offsets": _refused(_RENDER, False),
    "return_weight_versions": _refused(_OPERATOR, False),
    "routed_experts_prompt_start": _refused(_OPERATOR, 0),
    "mm_payload": _dropped(_RENDER),
    "return_mm_kwargs": _dropped(_RENDER),
    "stream_interval": _dropped("the guard releases text in its own pieces"),
    # vLLM's: the server
    "priority": _refused(_OPERATOR, 0),
    "request_id": _dropped("the gateway names the request"),
    "session_id": _dropped("routing is the operator's affair"),
    "kv_transfer_params": _refused("can put another prompt in place of the judged one", {}),
    "ec_transfer_params": _refused("can put other images in place of the judged ones", {}),
    "vllm_xargs": _refused("arguments of extensions that the guard does not know", {}),
}


def refusal(name: str, field: Field) -> RequestError:
    """Return the error for a refused field."""
    allowed = " or ".join(_shown(value) for value in field.except_for)
    remedy = f"leave it out or send {allowed}" if allowed else "leave it out"
    if field.lenient:
        remedy += ", or start the gateway with --permissive"
    return bad(name, f"is not accepted ({field.why}); {remedy}", code="unsupported_parameter")


def unknown(place: str, name: str, known: Mapping[str, Any], remedy: str = "") -> RequestError:
    """Return the error for a name that no table has, with the nearest one that it has."""
    near = difflib.get_close_matches(name[:64], known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return bad(clip(place), f"is unknown{hint}{remedy}", code="unknown_parameter")


def clip(name: str) -> str:
    """Return a client's name for something, fit for an error text."""
    shown = "".join(char if char.isprintable() else "?" for char in name[:100])
    return shown if len(name) <= 100 else shown + "…"


def field_table() -> str:
    """Return the README's table, in Markdown."""
    rows = ["| field | what becomes of it | why |", "|---|---|---|"]
    rows += [f"| `{name}` | {_treatment(field)} | {field.why} |" for name, field in FIELDS.items()]
    return "\n".join(rows) + "\n"


def _treatment(field: Field) -> str:
    asks_nothing = " or ".join(f"`{_shown(value)}`" for value in field.except_for)
    unless = f", unless {asks_nothing}" if asks_nothing else ""
    return field.treatment + unless + (" or `--permissive`" if field.lenient else "")


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()
