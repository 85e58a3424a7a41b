"""What a safety corpus is made of, for who has none: public sources, their licences, the layout.

Homes are where sets of these names are published: the corpus itself records names and licences
only, so check each before use. The licence in a row is what counts (`monitors.training.corpus`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from monitors.training.corpus import FILES, LICENCES, allowed

_HUB = "huggingface.co/datasets/"
_GIT = "github.com/"
_NOT_RECORDED = "origin not recorded"
_MIT, _APACHE, _BY = "MIT", "Apache-2.0", "CC-BY-4.0"
_META = "MIT (CyberSecEval)"
_ODC = "ODC-BY-1.0 (repository: MIT)"
_SHARE_ALIKE = "CC-BY-SA-3.0 (share alike: keep the notice, keep derivatives under it)"
_INTERNAL = "none-stated (model output), internal research"


def _known(beginning: str) -> str:
    """A licence as rows spell it, from how it begins."""
    return next(licence for licence in LICENCES if licence.startswith(beginning))


@dataclass(slots=True, frozen=True)
class Source:
    """Rows of one origin. `names`: what `source` says in them."""

    names: tuple[str, ...]
    home: str
    licence: str


PUBLIC = (
    Source(("aart",), _GIT + "google-research-datasets/aart-ai-safety-dataset", _BY),
    Source(("adv_training",), _NOT_RECORDED, _MIT),
    Source(("advbench",), _GIT + "llm-attacks/llm-attacks", _MIT),
    Source(("aegis_train",), _HUB + "nvidia/Aegis-AI-Content-Safety-Dataset-1.0", _BY),
    Source(("ailuminate", "ailuminate_fr"), _GIT + "mlcommons/ailuminate", _BY),
    Source(("barrel",), _GIT + "thu-coai/BARREL", _known("MIT (questions")),
    Source(("caia",), _NOT_RECORDED, _BY),
    Source(("catqa",), _HUB + "declare-lab/CategoricalHarmfulQA", _APACHE),
    Source(("certified_safe",), _GIT + "aounon/certified-llm-safety", _MIT),
    Source(("coconot", "coconot_contrast", "coconot_pref"), _HUB + "allenai/coconot", _ODC),
    Source(("cvalues",), _GIT + "X-PLUG/CValues", _APACHE),
    Source(
        ("cyberseceval_interpreter", "frr_multilingual", "mitre_frr"),
        _GIT + "meta-llama/PurpleLlama",
        _META,
    ),
    Source(("dangerousqa",), _GIT + "declare-lab/red-instruct", _APACHE),
    Source(("davidson",), _GIT + "t-davidson/hate-speech-and-offensive-language", _MIT),
    Source(("diasafety",), _GIT + "thu-coai/DiaSafety", _APACHE),
    Source(
        ("dna", "dna_fn", "dna_fp"),
        _GIT + "Libr-AI/do-not-answer",
        _known("Apache-2.0 (hub card of L"),
    ),
    Source(("dolly",), _HUB + "databricks/databricks-dolly-15k", _SHARE_ALIKE),
    Source(("edos",), _GIT + "rewire-online/edos", "CC0-1.0"),
    Source(("forbidden_questions", "inthewild_jailbreaks"), _GIT + "verazuo/jailbreak_llms", _MIT),
    Source(("gptfuzz",), _GIT + "sherdencooper/GPTFuzz", _MIT),
    Source(("gsm8k",), _GIT + "openai/grade-school-math", _MIT),
    Source(("harmbench",), _GIT + "centerforaisafety/HarmBench", _MIT),
    Source(("harmfulqa",), _HUB + "declare-lab/HarmfulQA", _APACHE),
    Source(("hatecheck",), _GIT + "paul-rottger/hatecheck-data", _BY),
    Source(
        ("huatuo_o1",),
        _HUB + "FreedomIntelligence/medical-o1-reasoning-SFT",
        _known("Apache-2.0 (hub card of medical"),
    ),
    Source(
        ("jackhhao_benign",), _HUB + "jackhhao/jailbreak-classification", "Apache-2.0 (hub card)"
    ),
    Source(("jailjudge_mini",), _GIT + "ThuCCSLab/JailbreakEval", "MIT (JailbreakEval copy)"),
    Source(("jbb", "jbb_judge_comparison"), _HUB + "JailbreakBench/JBB-Behaviors", _MIT),
    Source(("jbb_artifacts",), _GIT + "JailbreakBench/artifacts", _MIT),
    Source(("lrm_study",), _GIT + "thu-coai/LRM-Safety-Study", _MIT),
    Source(("medsafety", "medsafety_llama3"), _GIT + "AI4LIFE-GROUP/med-safety-bench", _MIT),
    Source(("mmlu",), _GIT + "hendrycks/test", _MIT),
    Source(("mt_bench", "vicuna_bench"), _GIT + "lm-sys/FastChat", _APACHE),
    Source(
        ("multijail", "multijail_it", "multijail_th", "multijail_zh"),
        _GIT + "DAMO-NLP-SG/multilingual-safety-for-LLMs",
        _MIT,
    ),
    Source(("nq_open",), _HUB + "google-research-datasets/nq_open", _SHARE_ALIKE),
    Source(("redteam2k",), _HUB + "JailbreakV-28K/JailBreakV-28k", _MIT),
    Source(("refusal_direction",), _GIT + "andyrdt/refusal_direction", _APACHE),
    Source(("self_instruct",), _GIT + "yizhongw/self-instruct", _APACHE),
    Source(("simpleqa",), _GIT + "openai/simple-evals", _MIT),
    Source(("sql_create_context",), _HUB + "b-mc2/sql-create-context", _BY),
    Source(("star1",), _HUB + "UCSC-VLAA/STAR-1", _APACHE),
    Source(("strongreject",), _GIT + "alexandrasouly/strongreject", _MIT),
    Source(("tdc2023",), _GIT + "centerforaisafety/tdc2023-starter-kit", _MIT),
    Source(("triviaqa",), _GIT + "mandarjoshi90/triviaqa", _APACHE),
    Source(("trustllm_misuse",), _GIT + "HowieHwong/TrustLLM", _MIT),
    Source(("truthfulqa",), _GIT + "sylinrl/TruthfulQA", _APACHE),
    Source(
        ("wildguard_train",),
        _HUB + "allenai/wildguardmix (its training part; terms to accept)",
        _known("ODC-BY-1.0 (WildGuardMix"),
    ),
)
"""Each public source."""

INTERNAL = Source(
    (
        "khalaf_r1",
        "matsuo_judge",
        "matsuo_pairs",
        "matsuo_safecot",
        "p07_math",
        "phybench",
        "safekey",
    ),
    "not to be had: outputs of models, never published",
    _INTERNAL,
)

_EXAMPLE = "id source licence stage prompt text unsafe scenario contrast group lang"
_TRACE = "id source licence prompt reasoning answer unsafe_reasoning unsafe_answer scenario group"
_LABEL = "id split unsafe_reasoning onset_char"
_KEYS = {
    "train.jsonl.gz": _EXAMPLE,
    "dev.jsonl.gz": _EXAMPLE,
    "traces_train.jsonl.gz": _TRACE,
    "traces_dev.jsonl.gz": _TRACE,
    "labels.jsonl": _LABEL,
}


def to_bring() -> Iterator[str]:
    """What a corpus folder must hold and what it is made of, line by line."""
    yield "A corpus is put together from public sources, which come under their own licences. It is"
    yield "not part of the package, and nothing here downloads any. The folder of --data holds:"
    yield ""
    for name, what in FILES.items():
        yield f"  {name:<22} {what}; JSON lines of"
        yield f"  {'':<22}   {_KEYS[name]}"
    yield ""
    yield "`stage`: input, reasoning, answer. `unsafe`: 0 or 1. `group`: the goal behind a row; no"
    yield "group in both train and dev. `licence`: as below, to the letter; another is left out of"
    yield "release. labels.jsonl may be empty. What we wrote ourselves comes with the package."
    yield ""
    yield "`source` of the rows, where a set of that name is published (check: the corpus records"
    yield "names and licences only), licence, and whether the release build learns from it:"
    yield ""
    for source in (*PUBLIC, INTERNAL):
        build = "release" if allowed(source.licence, "release") else "research only"
        yield f"  {', '.join(source.names)}"
        yield f"      {source.home}"
        yield f"      {source.licence}: {build}"
    yield ""
