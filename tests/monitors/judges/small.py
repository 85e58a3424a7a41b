"""A judge file small enough to work out by hand: each word of the text adds its row of logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from monitors.judges.judge_file import EncoderParts, JudgeFile
from monitors.judges.layout import LOGITS, SCENARIOS, STAGES, STANCES
from monitors.judges.linear import BUCKETS, HEADS, SCENARIO_WORDS, LinearModel, word_ids
from monitors.taxonomy import Scenario

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "calm", "dark", "grim", "agree", "decline")
SCENARIO_AT, STANCE_AT = len(STAGES), len(STAGES) + len(SCENARIOS)
UNSAFE = {"calm": -1.0, "dark": 2.0, "grim": 3.0}
STANCE = {"agree": 1.5, "decline": -2.0}
LINEAR = {"calm": -3.0, "dark": 1.0, "grim": 2.0}

Floats = NDArray[np.float32]


def table() -> Floats:
    """What each word adds: unsafe by UNSAFE, `grim` weapons, `dark` fraud, stance by STANCE."""
    rows = np.zeros((len(WORDS), LOGITS), np.float32)
    for word, value in UNSAFE.items():
        rows[WORDS.index(word), : len(STAGES)] = value
    for word, value in STANCE.items():
        rows[WORDS.index(word), STANCE_AT + STANCES.index("fulfilling")] = max(value, 0)
        rows[WORDS.index(word), STANCE_AT + STANCES.index("refusing")] = max(-value, 0)
    for word, scenario in (("grim", Scenario.WEAPONS), ("dark", Scenario.FRAUD)):
        rows[WORDS.index(word), SCENARIO_AT + SCENARIOS.index(scenario)] = 5.0
    return rows


def onnx_bytes(
    *, rows: Floats | None = None, types: str = "token_type_ids", output: str = "logits"
) -> bytes:
    """The sum over the tokens of segment 1 of their rows; the context counts for nothing."""
    rows = table() if rows is None else rows
    nodes = [
        helper.make_node("Gather", ["rows", "input_ids"], ["each"], axis=0),
        helper.make_node("Cast", [types], ["flags"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["flags", "last"], ["mask"]),
        helper.make_node("Mul", ["each", "mask"], ["text"]),
        helper.make_node("ReduceSum", ["text", "middle"], [output], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, [1, "n"])
            for name in ("input_ids", types)
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, rows.shape[1]])],
        [
            numpy_helper.from_array(rows, "rows"),
            numpy_helper.from_array(np.array([2], np.int64), "last"),
            numpy_helper.from_array(np.array([1], np.int64), "middle"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tokenizer_bytes(words: tuple[str, ...] = WORDS) -> bytes:
    """A WordPiece tokenizer that knows these words."""
    vocabulary = {word: at for at, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer.to_str().encode()


def linear_model() -> LinearModel:
    """Words weigh by LINEAR in each head; the request's weigh a tenth of that."""
    unsafe = np.zeros((BUCKETS, len(HEADS)), np.float32)
    for word, weight in LINEAR.items():
        for (_, what), head in HEADS.items():
            unsafe[word_ids(word)[0], head] = weight if what == "text" else weight / 10
    return LinearModel(
        unsafe=unsafe,
        bias=np.zeros(len(STAGES), np.float32),
        scenario=np.zeros((SCENARIO_WORDS, len(SCENARIOS)), np.float32),
        scenario_bias=np.eye(len(SCENARIOS), dtype=np.float32)[-1] * 5,
    )


def linear_file() -> JudgeFile:
    """The linear tier alone."""
    return JudgeFile.of_linear(linear_model(), "äöü")


def small_file() -> JudgeFile:
    """Both tiers; the mix differs by stage, and nothing is cleared."""
    return replace(
        linear_file(),
        encoder=EncoderParts(onnx_bytes(), tokenizer_bytes()),
        mix=np.array([[1, 0, 0, 0], [0.5, 0.25, 2, -1], [0, 0, 1, 0]], np.float32),
        threshold=np.array([0, 1, 0], np.float32),
        slope=np.array([1, 0.5, 1], np.float32),
        rise=np.array([1, 2, 1], np.float32),
        languages=("de", "en"),
        about={"build": "small"},
    )
