"""Which models write their reasoning in which format, and what vLLM must be told to serve them.

A fact has a source: `read` in the model's repository or in vLLM's (0.32), `seen` on the wire, or
`unverified`. What no source says is None, so that nobody serves a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from monitors.formats import FORMATS, Format, Source


@dataclass(frozen=True, slots=True)
class Model:
    """One model; its other sizes are aliases."""

    id: str
    """On Hugging Face."""
    base: str | None
    format: str
    """Name of the format in which it writes without a reasoning parser."""
    reasoning_parser: str | None = None
    """For vLLM; None: none fits, or none is known to, and the gateway reads the tags itself."""
    tool_call_parser: str | None = None
    max_images: int | None = None
    """In one prompt."""
    trust_remote_code: bool | None = None
    min_vllm: str | None = None
    max_vllm: str | None = None
    """The last version that knows its architecture."""
    aliases: tuple[str, ...] = ()
    """Other names, without organisation; `{size}` stands for a size such as 8B or 30B-A3B."""
    source: Source = "read"
    """Of the format."""
    parser_source: Source = "unverified"
    """Of the parsers, where there are any."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Parser:
    """One family of vLLM's `--reasoning-parser`."""

    name: str
    format: str
    """Name of the format of the text that it reads."""
    source: Source = "read"
    note: str = ""


def format_of(model_name: str) -> Format | None:
    """The format of a model by the name under which it is served; None: not in the registry."""
    model = find(model_name)
    return FORMATS[model.format] if model is not None else None


def find(model_name: str) -> Model | None:
    """A model by its id or alias; organisation, path, case and quantisation do not matter."""
    for part in reversed(_PARTS.split(model_name[:_MAX_NAME])):
        name = _plain(part)
        for pattern, model in _patterns():
            if name and pattern.fullmatch(name):
                return model
    return None


_MAX_NAME = 512
_PARTS = re.compile(r"[/\\]|--")  # of paths; a Hugging Face cache writes `/` as `--`
_SIZE = r"\d+(?:-\d+)?b(?:-a\d+(?:-\d+)?b)?"
_SUFFIX = re.compile(
    r"-(?:gguf|awq|gptq|mlx|exl[23]|bnb|nf4|fp8|fp4|nvfp4|mxfp4|bf16|fp16|f16|dynamic|int[48]"
    r"|[2-8]-?bits?|w\d+a\d+|i?q\d(?:-[a-z0-9]{1,2}){0,2}|ud|i1|quantized|hf|latest)$"
)


def _plain(name: str) -> str:
    """Lower case, words joined by hyphens, without what a quantisation adds to a name."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    shorter = _SUFFIX.sub("", plain)
    while shorter != plain:
        plain, shorter = shorter, _SUFFIX.sub("", shorter)
    return plain


@cache
def _patterns() -> list[tuple[re.Pattern[str], Model]]:
    return [
        (re.compile(_plain(name.replace("{size}", "anysize")).replace("anysize", _SIZE)), model)
        for model in MODELS
        for name in (model.id.rpartition("/")[2], *model.aliases)
    ]


# --- the registry -----------------------------------------------------------------------------

_QWEN25 = "Qwen2.5-VL-7B-Instruct"
_NO_TAGS = "vLLM's think parsers need the tags in the vocabulary; Qwen2.5's lacks them (unverified)"
_MLLAMA = "vLLM dropped the architecture (Mllama) after 0.10.2"

MODELS: tuple[Model, ...] = (
    Model(
        "Fancy-MLLM/R1-Onevision-7B",
        _QWEN25,
        "think",
        note=f"no system prompt; a free answer; {_NO_TAGS}",
    ),
    Model("Fancy-MLLM/R1-Onevision-7B-RL", _QWEN25, "think", note=_NO_TAGS),
    Model(
        "FanqingM/MM-Eureka-Qwen-7B",
        _QWEN25,
        "think",
        aliases=("MM-Eureka-Qwen-{size}",),
        note=f"a system prompt must ask for the tags; {_NO_TAGS}",
    ),
    Model("Osilly/Vision-R1-7B", "Qwen2.5-VL", "think", note=_NO_TAGS),
    Model("ydeng9/OpenVLThinker-7B", "Qwen2.5-VL", "think", note=_NO_TAGS),
    Model("jingyiZ00/R1-VL-7B", "Qwen2-VL", "r1-vl", note="of the Mulberry line"),
    Model("HuanjinYao/Mulberry_qwen2vl_7b", "Qwen2-VL-7B", "mulberry"),
    Model(
        "HuanjinYao/Mulberry_llama_11b",
        "Llama-3.2-11B-Vision",
        "mulberry",
        max_vllm="0.10.2",
        note=_MLLAMA,
    ),
    Model("HuanjinYao/Mulberry_llava_8b", "llama3-llava-next-8b", "mulberry"),
    Model(
        "Xkev/Llama-3.2V-11B-cot",
        "Llama-3.2-11B-Vision",
        "llava-cot",
        max_vllm="0.10.2",
        aliases=("LLaVA-CoT", "Llama-3.2V-11B-LLaVA-CoT"),
        note=_MLLAMA,
    ),
    Model(
        "omkarthawakar/LlamaV-o1",
        "Llama-3.2-11B-Vision",
        "auto",
        max_vllm="0.10.2",
        note="no tags: summary, caption, reasoning and conclusion are four turns, each unparsed; "
        + _MLLAMA,
    ),
    Model("Skywork/Skywork-R1V3-38B", "InternVL", "think", note="the answer is in \\boxed{}"),
    Model(
        "zai-org/GLM-4.1V-9B-Thinking",
        "GLM",
        "glm",
        reasoning_parser="glm45",
        note="answers in <answer>; the parser leaves its tags and boxes in `content`",
    ),
    Model(
        "zai-org/GLM-4.5V",
        "GLM",
        "glm",
        reasoning_parser="glm45",
        tool_call_parser="glm45",
        note="no <answer>; the parser leaves boxes in `content`",
    ),
    Model("RUC-AIBOX/Virgo-72B", "Qwen2-VL-72B", "virgo", source="unverified"),
    Model(
        "moonshotai/Kimi-VL-A3B-Thinking",
        "Kimi-VL",
        "kimi-vl",
        aliases=("Kimi-VL-A3B-Thinking-2506",),
        source="unverified",
        note="none of vLLM's parsers knows its tags (read)",
    ),
    Model(
        "TIGER-Lab/VL-Rethinker-7B",
        "Qwen2.5-VL",
        "think",
        aliases=("VL-Rethinker-{size}",),
        note=f"the answer is in \\boxed{{}}; {_NO_TAGS}",
    ),
    Model(
        "UCSC-VLAA/VLAA-Thinker-Qwen2.5VL-7B",
        "Qwen2.5-VL",
        "think",
        aliases=("VLAA-Thinker", "VLAA-Thinker-{size}", "VLAA-Thinker-Qwen2.5VL-{size}"),
        note=f"the answer is in \\boxed{{}}; {_NO_TAGS}",
    ),
    Model(
        "Insight-V",
        None,
        "auto",
        aliases=("Insight-V-Reason", "Insight-V-Summary"),
        note="two agents: a reply of reasoning, then a summarising reply; each is unparsed",
    ),
    Model("Qwen/QVQ-72B-Preview", None, "auto", note="free text without tags: unparsed"),
    Model(
        "Qwen/Qwen3-VL-8B-Thinking",
        None,
        "think",
        reasoning_parser="qwen3",
        aliases=("Qwen3-VL-{size}-Thinking",),
        source="unverified",
        note="deepseek_r1 misreads it (vLLM issue 29408)",
    ),
    Model(
        "OpenGVLab/InternVL3_5-8B",
        None,
        "think",
        aliases=("InternVL3_5-{size}", "InternVL3.5", "InternVL3_5-{size}-Instruct"),
        source="unverified",
        note="thinks where a system prompt asks for the tags (unverified)",
    ),
    Model(
        "XiaomiMiMo/MiMo-VL-7B-RL",
        None,
        "think",
        aliases=("MiMo-VL-{size}-RL", "MiMo-VL-{size}-SFT", "MiMo-VL-{size}-RL-2508"),
        source="unverified",
        note="vLLM's parser `mimo` is read for MiMo, not for MiMo-VL",
    ),
    Model(
        "google/gemma-4-it",
        None,
        "gemma4",
        reasoning_parser="gemma4",
        tool_call_parser="gemma4",
        aliases=("gemma-4-{size}-it", "gemma-4-e{size}-it"),
        parser_source="read",
        note="thinks where the chat template is given enable_thinking",
    ),
)

_TEMPLATE_OPENS = "the chat template may write the opener"

_PARSERS = (
    Parser("cohere_command3", "cohere"),
    Parser("cohere_command4", "cohere"),
    Parser("deepseek_r1", "think", "seen", _TEMPLATE_OPENS),
    Parser("deepseek_v3", "think", note="thinks where the template is given `thinking`"),
    Parser("deepseek_v4", "think", note="thinks where the template is given `thinking`"),
    Parser("deepseek_v41", "think", note="thinks where the template is given `thinking`"),
    Parser("ernie45", "ernie45", note=_TEMPLATE_OPENS),
    Parser("gemma4", "gemma4"),
    Parser("glm45", "glm", note="tags read; boxes as the models write them"),
    Parser("glm47", "glm", note="tags read; boxes as the models write them"),
    Parser("granite", "granite"),
    Parser("granite_thinking_parser", "think"),
    Parser("hf", "auto", note="the model's own response template says which tags"),
    Parser("holo2", "think"),
    Parser("hunyuan_a13b", "think", note="answers in <answer>"),
    Parser("hy_v3", "hy"),
    Parser("hy_v4", "hy", note="the chat template writes the opener"),
    Parser("inkling", "inkling"),
    Parser("k2_horizon", "k2-horizon", note="one pair of tags per reasoning effort"),
    Parser("kimi_k2", "think"),
    Parser("kimi_k3", "kimi-k3", note=_TEMPLATE_OPENS),
    Parser("ling3", "think"),
    Parser("mimo", "think"),
    Parser("minicpmv", "think"),
    Parser("minimax_m2", "think-open", note="the model writes no opener"),
    Parser("minimax_m2_append_think", "think", note="leaves the tags in `content`"),
    Parser("minimax_m3", "minimax-m3"),
    Parser("mistral", "mistral", note="with tokenizers before v13: think"),
    Parser("muse_glimmer", "muse-glimmer"),
    Parser("nemotron_v3", "think"),
    Parser("olmo3", "think", note=_TEMPLATE_OPENS),
    Parser("openai_gptoss", "harmony"),
    Parser("plamo3", "plamo3"),
    Parser("poolside_v1", "think"),
    Parser("qwen3", "think", "seen", _TEMPLATE_OPENS),
    Parser("seed_oss", "seed-oss"),
    Parser("step3", "think-open", note="only the closer counts"),
    Parser("step3p5", "think-open", note="the chat template writes the opener"),
    Parser("beam", "auto", "unverified", "new in 0.33"),
    Parser("muse", "auto", "unverified", "new in 0.33, also musespark1x"),
    Parser("musespark1x", "auto", "unverified", "new in 0.33, also muse"),
    Parser("step5", "auto", "unverified", "new in 0.33"),
)

PARSERS: Mapping[str, Parser] = MappingProxyType({parser.name: parser for parser in _PARSERS})
"""Every `--reasoning-parser` of vLLM 0.32, and what is known of those of 0.33."""
