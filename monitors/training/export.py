"""The trained encoder as ONNX with eight-bit weights. Needs the `train` extra."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from onnx import TensorProto
from torch import Tensor, nn

from monitors.training.network import Encoder, pretrained_folder


def onnx_of(encoder: Encoder) -> bytes:
    """The encoder for `monitors.judges.encoder`: one piece at a time, of any length."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when it is imported
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415
    from onnxruntime.transformers import fusion_options, optimizer  # noqa: PLC0415

    sample = torch.ones((1, 12), dtype=torch.int64)
    with TemporaryDirectory() as folder, _quiet():
        whole, fused, small = (Path(folder) / f"{name}.onnx" for name in ("whole", "fused", "int8"))
        torch.onnx.export(
            _OnePiece(encoder).eval(),
            (sample, sample),
            whole,
            input_names=["input_ids", "token_type_ids"],
            output_names=["logits"],
            dynamic_axes={"input_ids": {1: "n"}, "token_type_ids": {1: "n"}},
            opset_version=17,
            dynamo=False,
        )
        options = fusion_options.FusionOptions("bert")
        options.enable_skip_layer_norm = False  # slower than the two by themselves on CPUs
        options.enable_attention = False  # it is written as few large products already
        heads, width = encoder.bert.config.num_attention_heads, encoder.bert.config.hidden_size
        optimizer.optimize_model(
            str(whole), "bert", heads, width, optimization_options=options
        ).save_model_to_file(str(fused))
        quantize_dynamic(
            fused,
            small,
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": TensorProto.FLOAT},  # fused nodes tell no type
        )
        return small.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of exporter and optimiser, which tell a user nothing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # torch's older exporter writes the graph that onnxruntime's optimiser knows.
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def tokenizer_bytes() -> bytes:
    """The tokenizer, as the judge file carries it."""
    return (pretrained_folder() / "tokenizer.json").read_bytes()


class _OnePiece(nn.Module):
    """The encoder's arithmetic for one piece without padding: a third less work on a CPU.

    No batch, no mask, and query, key and value from one product.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        encoder = encoder.cpu().float().eval()
        self.encoder = encoder
        self.heads = encoder.bert.config.num_attention_heads
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer in encoder.bert.encoder.layer:
            own = layer.attention.self
            scale = (encoder.bert.config.hidden_size / self.heads) ** 0.5
            parts = [own.query.weight / scale, own.key.weight, own.value.weight]
            self.weights.append(nn.Parameter(torch.cat(parts).T.contiguous()))
            self.biases.append(
                nn.Parameter(torch.cat([own.query.bias / scale, own.key.bias, own.value.bias]))
            )

    def forward(self, ids: Tensor, types: Tensor) -> Tensor:
        """(1, tokens) each; (1, LOGITS)."""
        bert, heads = self.encoder.bert, self.heads
        words = bert.embeddings.word_embeddings(ids)[0]
        places = bert.embeddings.position_embeddings.weight[: ids.shape[1]]
        state = words + bert.embeddings.token_type_embeddings(types)[0] + places
        state = bert.embeddings.LayerNorm(state)
        width = state.shape[-1]
        for layer, weight, bias in zip(bert.encoder.layer, self.weights, self.biases, strict=True):
            packed = (state @ weight + bias).view(-1, 3 * heads, width // heads)
            query, key, value = packed.transpose(0, 1).split(heads)
            shares = torch.softmax(query @ key.transpose(1, 2), -1)
            seen = (shares @ value).transpose(0, 1).reshape(-1, width)
            own = layer.attention.output
            state = own.LayerNorm(own.dense(seen) + state)
            state = layer.output.LayerNorm(layer.output.dense(layer.intermediate(state)) + state)
        text = types[0].unsqueeze(-1).to(state.dtype)
        mean = (state * text).sum(0) / text.sum(0)
        logits: Tensor = self.encoder.head(torch.cat([mean, state[0]])[None])
        return logits
