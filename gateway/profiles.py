"""How to start vLLM for a model that is to be guarded: one command, and why each option is there.

Theory. A guard needs three things of its upstream: that thinking is told apart from the answer (a
reasoning parser, where vLLM has one for the model), that a cut thought can be continued cheaply
(prefix caching), and that nothing reaches the model around it (loopback, a key, no URLs fetched, no
template or media options from requests). The rest are limits, no wider than the gateway's own.

Option names are those of vLLM 0.32; a test holds them against an installed vLLM. No chat template
is shipped: every model's own is used, and the probe measures at start whether a thought can be
continued with it; where not, it restarts. What is known of a model stands in `monitors.models`;
what only its start needs, here.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from gateway.request import RequestLimits
from gateway.settings import UPSTREAM_KEY
from monitors.errors import UserError
from monitors.models import MODELS, Model, find

NO_DOMAIN = "none.invalid"
"""No URL has this host (RFC 2606), so vLLM fetches none; `data:` URLs are not asked for it."""

NO_PARSER = "none"
"""For `--reasoning-parser`: start vLLM without one."""

ENVIRONMENT: Mapping[str, str] = {"VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}
"""For vLLM, beside the key."""

RESERVED = frozenset(
    {"--host", "--port", "--uds", "--api-key", "--root-path", "--middleware"}
    | {"--allowed-media-domains", "--allowed-local-media-path"}
    | {"--trust-request-chat-template", "--trust-request-mm-kwargs"}
    | {"--enable-log-requests", "--enable-log-outputs"}
    | {"--enable-mm-embeds", "--enable-prompt-embeds", "--enable-scale-out"}
)
"""Options that `up` decides: others would open a way around the guard, or log texts."""

_CONTEXT = 32_768
_CONTEXTS = {"HuanjinYao/Mulberry_llava_8b": 8192}
"""Of models with less (unverified)."""

_BILLIONS = {
    "zai-org/GLM-4.5V": 106.0,
    "moonshotai/Kimi-VL-A3B-Thinking": 16.0,
    "omkarthawakar/LlamaV-o1": 11.0,
    "Insight-V": 8.0,
}
"""Parameters where the name does not say (unverified)."""

_CAUTIONS = {
    "moonshotai/Kimi-VL-A3B-Thinking": (
        "its code needs transformers <= 4.53.3 (vLLM's own model tests, read)"
    ),
}

_REMOTE_CODE = frozenset(
    {
        "Skywork/Skywork-R1V3-38B",
        "moonshotai/Kimi-VL-A3B-Thinking",
        "OpenGVLab/InternVL3_5-8B",
    }
)
"""By the architecture, as vLLM's own model tests start it (read)."""

_GPU_GB, _SHARE, _ROOM = 80, 0.9, 1.25
"""Of one GPU; what of it vLLM may use; weights with room for a cache."""


class UnknownModelError(UserError):
    """Neither listed nor a path, and no reasoning parser was named for it."""


@dataclass(slots=True, frozen=True)
class Option:
    """An option with its values, and why."""

    words: tuple[str, ...]
    why: str


@dataclass(slots=True, frozen=True)
class Profile:
    """One way to start vLLM."""

    model: str
    options: tuple[Option, ...]
    remarks: tuple[str, ...]
    """What is known of the model."""
    cautions: tuple[str, ...]
    """Why it may not start, or not do what is expected."""

    @property
    def arguments(self) -> list[str]:
        """What follows `vllm`."""
        return ["serve", self.model, *(word for option in self.options for word in option.words)]

    @property
    def line(self) -> str:
        """One line for a shell, which stops where the key is not set."""
        key = f'VLLM_API_KEY="${{{UPSTREAM_KEY}:?set it to a long random text}}"'
        fixed = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        return " ".join([key, *fixed, shlex.join(["vllm", *self.arguments])])

    @property
    def text(self) -> str:
        """The line, below comments that explain it."""
        rows = [f"{self.model}: {remark}" for remark in self.remarks]
        rows += [f"CAUTION: {caution}" for caution in self.cautions]
        rows += [f"{shlex.join(option.words)}: {option.why}" for option in self.options]
        rows += [f"{name}={value}: {_WHY[name]}" for name, value in ENVIRONMENT.items()]
        rows.append(f"VLLM_API_KEY: the gateway sends it too, from {UPSTREAM_KEY}")
        rows.append(
            "chat template: the model's own; `mlrm-guard probe` shows how a thought goes on"
        )
        rows.append(f"left off on purpose: {' '.join(_LEFT_OFF)}")
        return "\n".join([*(f"# {row}" for row in rows), self.line])

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "model": self.model,
            "command": ["vllm", *self.arguments],
            "environment": dict(ENVIRONMENT),
            "key_from": UPSTREAM_KEY,
            "why": {option.words[0]: option.why for option in self.options},
            "remarks": list(self.remarks),
            "cautions": list(self.cautions),
        }


def profile(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    gpus: int | None = None,
    max_model_len: int | None = None,
    max_num_seqs: int = 256,
    reasoning_parser: str | None = None,
    chat_template: Path | None = None,
) -> Profile:
    """How to start `model`: a listed id or alias, or a path or other id with a reasoning parser.

    `gpus`: of 80 GB; None: as many as the weights take. Raises UnknownModelError.
    """
    known = find(model)
    local = Path(model).is_dir()
    if known is None and reasoning_parser is None:
        raise UnknownModelError(_unknown(model))
    name = model if local else _repository(model, known)
    options = (
        Option(("--host", host), "reached through the gateway only"),
        Option(("--port", str(port)), "the gateway's --upstream names it"),
        _served_name(Path(model)) if local else None,
        _parser(known, reasoning_parser),
        _tools(known),
        _template(chat_template),
        _context(max_model_len, known),
        Option(("--max-num-seqs", str(max_num_seqs)), "as many as the gateway lets in"),
        _gpus(gpus, name, known),
        _media(known),
        _domains(known),
        Option(("--enable-prefix-caching",), "a corrected thought costs no second prompt"),
        Option(("--enable-prompt-tokens-details",), "usage shows what the cache saved"),
        _remote_code(known),
    )
    return Profile(
        model=name,
        options=tuple(option for option in options if option is not None),
        remarks=_remarks(known),
        cautions=_cautions(name, known, local=local),
    )


def listed() -> list[tuple[str, str]]:
    """All models with a profile, and how each is told apart."""
    return [(model.id, model.reasoning_parser or f"gateway: {model.format}") for model in MODELS]


def check_extra(words: Sequence[str]) -> None:
    """Options that the operator adds to vLLM's. Raises UserError for one that `up` decides."""
    for word in words:
        name = word.split("=", 1)[0].replace("_", "-")
        # A file may hold any option, and what begins like one may be read as it.
        short = (
            len(name) > 3 and name.startswith("--") and any(r.startswith(name) for r in RESERVED)
        )
        if short or name == "--config":
            raise UserError(f"{name}: not for vLLM, behind --: `up` decides it")


_WHY = {"VLLM_MEDIA_URL_ALLOW_REDIRECTS": "nor by way of a redirect"}

_LEFT_OFF = (
    "--trust-request-chat-template",
    "--trust-request-mm-kwargs",
    "--allowed-local-media-path",
    "--enable-log-requests",
)


def _repository(model: str, known: Model | None) -> str:
    """The name as vLLM needs it, where only the last part of an id was given."""
    if known is None or "/" in model:
        return model
    organisation, _, name = known.id.rpartition("/")
    is_size_of_it = any("{size}" in alias for alias in known.aliases) and _size(model)
    return f"{organisation}/{model if is_size_of_it else name}".removeprefix("/")


def _served_name(path: Path) -> Option:
    return Option(("--served-model-name", path.resolve().name), "clients need not see the path")


def _parser(known: Model | None, asked: str | None) -> Option | None:
    name = asked or (known.reasoning_parser if known else None)
    if name is None or name == NO_PARSER:
        return None
    source = f" ({known.parser_source})" if known and asked is None else ""
    return Option(("--reasoning-parser", name), f"separates thinking from the answer{source}")


def _tools(known: Model | None) -> Option | None:
    if known is None or known.tool_call_parser is None:
        return None
    words = ("--enable-auto-tool-choice", "--tool-call-parser", known.tool_call_parser)
    return Option(words, f"for `tool_choice: auto` ({known.parser_source})")


def _template(file: Path | None) -> Option | None:
    return Option(("--chat-template", str(file)), "in place of the model's own") if file else None


def _context(asked: int | None, known: Model | None) -> Option:
    tokens = asked or (_CONTEXTS.get(known.id, _CONTEXT) if known else _CONTEXT)
    why = "prompt, thinking and answer; vLLM does not start where the model has less"
    return Option(("--max-model-len", str(tokens)), why)


def _gpus(asked: int | None, name: str, known: Model | None) -> Option | None:
    if asked is None:
        billions = _size(name) or (_BILLIONS.get(known.id, 0.0) if known else 0.0)
        needed = billions * 2 * _ROOM
        count = next((n for n in (1, 2, 4) if n * _GPU_GB * _SHARE >= needed), 8)
        why = f"GPUs of {_GPU_GB} GB for {billions:g} billion parameters at two bytes"
    else:
        count, why = asked, "GPUs, as asked for"
    return Option(("--tensor-parallel-size", str(count)), why) if count > 1 else None


_NAMED_SIZE = re.compile(r"(?<![a-z0-9])e?(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)


def _size(name: str) -> float:
    """Billions of parameters, as a name tells them (`..-38B`, `..-30B-A3B`, `..-E4B`); else 0."""
    found = _NAMED_SIZE.search(name.rpartition("/")[2].replace("_", "-"))
    return float(found[1]) if found else 0.0


def _media(known: Model | None) -> Option:
    images = RequestLimits().images
    if known and known.max_images is not None:
        images = min(images, known.max_images)
    limits = json.dumps({"image": images, "video": 0, "audio": 0})
    why = "as many images as the gateway passes; no video, no sound: it judges neither"
    return Option(("--limit-mm-per-prompt", limits), why)


def _domains(known: Model | None) -> Option | None:
    if known and known.max_vllm:
        return None
    return Option(("--allowed-media-domains", NO_DOMAIN), "vLLM fetches nothing from any URL")


def _remote_code(known: Model | None) -> Option | None:
    if known is None or not (known.trust_remote_code or known.id in _REMOTE_CODE):
        return None
    return Option(("--trust-remote-code",), "runs Python of the model's repository: read it first")


_NO_TOOLS = (
    "no tool-call parser is known for it: `tool_choice: auto` needs --enable-auto-tool-choice"
    " --tool-call-parser NAME"
)


def _remarks(known: Model | None) -> tuple[str, ...]:
    if known is None:
        return ("not listed: its format is not known", _NO_TOOLS)
    base = f"built on {known.base}; " if known.base else ""
    told = f"{base}writes `{known.format}` ({known.source})"
    if known.reasoning_parser is None:
        told += "; no reasoning parser: the gateway reads it"
    tools = "" if known.tool_call_parser else _NO_TOOLS
    return tuple(remark for remark in (told, known.note, tools) if remark)


def _cautions(name: str, known: Model | None, *, local: bool) -> tuple[str, ...]:
    cautions = []
    if not local and "/" not in name:
        cautions.append("no repository of this name is known: pass a path or an id")
    if not local and known and known.id == name and _stands_for_sizes(known):
        sizes = ", ".join(alias.replace("{size}", "SIZE") for alias in known.aliases)
        cautions.append(f"no repository of this name is known: pass one with a size ({sizes})")
    if known and known.max_vllm:
        cautions.append(
            f"needs vLLM {known.max_vllm} or older; these options were checked with 0.32 only, and"
            " --allowed-media-domains is left off as newer"
        )
    if known and known.min_vllm:
        cautions.append(f"needs vLLM {known.min_vllm} or newer")
    if known and known.id in _CAUTIONS:
        cautions.append(_CAUTIONS[known.id])
    return tuple(cautions)


def _stands_for_sizes(model: Model) -> bool:
    """Whether its id names no size, and its aliases do."""
    return not _size(model.id) and any("{size}" in alias for alias in model.aliases)


def _unknown(model: str) -> str:
    ids = {name.lower(): one.id for one in MODELS for name in (one.id, one.id.rpartition("/")[2])}
    near = get_close_matches(model.lower(), ids, n=1)
    hint = f"did you mean {ids[near[0]]}?" if near else "`mlrm-guard profile` lists all."
    return (
        f"{model}: not listed, {hint} For another model, or a path, pass --reasoning-parser NAME"
        f" ({NO_PARSER}: without one)"
    )
