"""The registry holds every model of the survey, finds models by any served name, and is listed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from monitors.format_commands import formats
from monitors.formats import AUTO, FAMILIES, FORMATS
from monitors.models import MODELS, PARSERS, find, format_of


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("Fancy-MLLM/R1-Onevision-7B", "Fancy-MLLM/R1-Onevision-7B"),
        ("r1-onevision-7b", "Fancy-MLLM/R1-Onevision-7B"),
        ("R1_Onevision_7B_RL", "Fancy-MLLM/R1-Onevision-7B-RL"),
        ("someone/R1-Onevision-7B-AWQ", "Fancy-MLLM/R1-Onevision-7B"),
        ("R1-Onevision-7B-GPTQ-Int4", "Fancy-MLLM/R1-Onevision-7B"),
        ("mradermacher/R1-Onevision-7B-i1-GGUF", "Fancy-MLLM/R1-Onevision-7B"),
        ("/models/R1-Onevision-7B.Q4_K_M.gguf", "Fancy-MLLM/R1-Onevision-7B"),
        (r"D:\models\Vision-R1-7B\ ", "Osilly/Vision-R1-7B"),
        (
            "/root/.cache/huggingface/hub/models--zai-org--GLM-4.1V-9B-Thinking/snapshots/0abc",
            "zai-org/GLM-4.1V-9B-Thinking",
        ),
        ("GLM-4.5V-FP8", "zai-org/GLM-4.5V"),
        ("cpatonn/Qwen3-VL-30B-A3B-Thinking-AWQ-4bit", "Qwen/Qwen3-VL-8B-Thinking"),
        ("Qwen3-VL-8B-Thinking-FP8-dynamic", "Qwen/Qwen3-VL-8B-Thinking"),
        ("OpenGVLab/InternVL3_5-241B-A28B", "OpenGVLab/InternVL3_5-8B"),
        ("LLaVA-CoT", "Xkev/Llama-3.2V-11B-cot"),
        ("VL-Rethinker-72B", "TIGER-Lab/VL-Rethinker-7B"),
        ("mulberry_llava_8b:latest", "HuanjinYao/Mulberry_llava_8b"),
    ],
)
def test_a_model_is_found_by_any_name_under_which_it_is_served(name: str, model: str) -> None:
    found = find(name)
    assert found is not None
    assert found.id == model
    assert format_of(name) is FORMATS[found.format]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "-",
        "AWQ",
        "default",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "Qwen3-VL-8B-Instruct",
        "R1-Onevision-7B-something",
        "not-R1-Onevision-7B",
        "R1-Onevision-70B",
        "x" * 100_000,
        "a" * 500 + "/R1-Onevision-7B",
        "-4bit" * 10_000,
    ],
)
def test_other_names_are_no_model_of_the_registry(name: str) -> None:
    assert find(name) is None
    assert format_of(name) is None


def test_entries_name_formats_and_parsers_that_exist_and_no_two_are_alike() -> None:
    for model in MODELS:
        assert model.format in FORMATS
        assert model.reasoning_parser is None or model.reasoning_parser in PARSERS
        assert find(model.id) is model
        assert not model.min_vllm or re.fullmatch(r"\d+\.\d+\.\d+", model.min_vllm)
        assert not model.max_vllm or re.fullmatch(r"\d+\.\d+\.\d+", model.max_vllm)
    assert all(parser.format in FORMATS for parser in PARSERS.values())
    assert len({model.id for model in MODELS}) == len(MODELS)


def test_every_family_is_some_models_or_parsers() -> None:
    used = {model.format for model in MODELS} | {parser.format for parser in PARSERS.values()}
    assert {family.name for family in FAMILIES} <= used


def test_models_without_tags_map_to_auto_and_say_so() -> None:
    for name in ("LlamaV-o1", "Insight-V", "QVQ-72B-Preview"):
        found = find(name)
        assert found is not None
        assert "unparsed" in found.note
        assert format_of(name) is AUTO


@pytest.mark.vllm
def test_every_reasoning_parser_of_vllm_is_known() -> None:
    root = Path(__file__).parents[2] / ".venv-vllm"
    (registered,) = root.glob("lib/python3*/site-packages/vllm/reasoning/__init__.py")
    names = set(re.findall(r'^    "([^"]+)": \(', registered.read_text(), re.MULTILINE))
    assert len(names) > 30
    assert names <= set(PARSERS)


def listed(*options: str) -> str:
    app = typer.Typer()
    app.command()(formats)
    done = CliRunner().invoke(app, list(options))
    assert done.exit_code == 0
    return done.stdout


def test_the_list_holds_everything_with_its_source() -> None:
    rows = [line.split("\t") for line in listed().splitlines() if not line.startswith("#")]
    told = {row[0]: row for row in rows}
    assert {"auto", "separated", *(family.name for family in FAMILIES)} <= set(told)
    assert set(PARSERS) <= set(told)
    assert {model.id for model in MODELS} <= set(told)
    assert all({"read", "seen", "unverified"} & set(row) for row in rows)
    assert told["mistral"][1:3] != ["[THINK]", "[/THINK]"]  # the parser of that name came later
    assert any(row[:3] == ["mistral", "[THINK]", "[/THINK]"] for row in rows)


def test_the_list_as_json_holds_all_tags() -> None:
    document = json.loads(listed("--json"))
    by_name = {row["name"]: row for row in document["formats"]}
    assert by_name["llava-cot"]["openers"] == ["<REASONING>", "<SUMMARY>", "<CAPTION>"]
    assert by_name["think"]["answers"] == [["<answer>", "</answer>"]]
    assert by_name["virgo"]["source"] == "unverified"
    assert len(document["parsers"]) == len(PARSERS)
    assert {row["id"] for row in document["models"]} == {model.id for model in MODELS}
