"""The trained encoder as ONNX with eight-bit weights. Needs the `encoder` extra."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer

from monitors.training.network import Encoder, pretrained_folder


def onnx_of(encoder: Encoder) -> bytes:
    """The encoder for `monitors.judges.encoder`: one piece at a time, dynamic length."""
    encoder = encoder.cpu().float().eval()
    sample = torch.ones((1, 12), dtype=torch.int64)
    with TemporaryDirectory() as folder:
        whole, fused, small = (Path(folder) / f"{name}.onnx" for name in ("whole", "fused", "int8"))
        torch.onnx.export(
            encoder,
            (sample, sample),
            whole,
            input_names=["input_ids", "token_type_ids"],
            output_names=["logits"],
            dynamic_axes={"input_ids": {1: "n"}, "token_type_ids": {1: "n"}},
            opset_version=17,
            dynamo=False,
        )
        config = encoder.bert.config
        model = optimizer.optimize_model(
            str(whole), "bert", config.num_attention_heads, config.hidden_size
        )
        model.save_model_to_file(str(fused))
        logging.getLogger().setLevel(logging.WARNING)
        quantize_dynamic(
            fused,
            small,
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": TensorProto.FLOAT},  # fused nodes tell no type
        )
        return small.read_bytes()


def tokenizer_bytes() -> bytes:
    """The tokenizer, as the judge file carries it."""
    return (pretrained_folder() / "tokenizer.json").read_bytes()
