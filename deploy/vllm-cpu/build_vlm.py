"""Build `think-smol-vl`: think-smol with a tiny vision tower, for tests with images on a CPU.

Run it with the Python of `.venv-vllm`, after build_model.py. The result is a Qwen2.5-VL model, so
vLLM handles images as it does for the real family: a Llama text model is a Qwen2 one whose query,
key and value biases are zero. The vision tower is random and so the model does not understand
images: it is for the plumbing (data: URLs, image tokens, streams, resumed thoughts).
"""

import argparse
import shutil
import time
from typing import Any

from model_cache import building, fail, model_dir


def vision_and_text(text: Any, tokenizer: Any) -> Any:
    """Put the text model into a Qwen2.5-VL model."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    source = text.config
    same = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
        "max_position_embeddings",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    )
    rope = {
        "rope_type": "default",
        "rope_theta": source.rope_parameters["rope_theta"],
        "mrope_section": [8, 12, 12],  # half of a head's 64 numbers: time, height, width
    }
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image_token_id", "image_pad"),
            ("video_token_id", "video_pad"),
            ("vision_start_token_id", "vision_start"),
            ("vision_end_token_id", "vision_end"),
        )
    }
    config = Qwen2_5_VLConfig(
        text_config={
            **{key: getattr(source, key) for key in same},
            "rope_parameters": rope,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "num_heads": 4,
            "intermediate_size": 128,
            "out_hidden_size": source.hidden_size,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "in_channels": 3,
            "temporal_patch_size": 2,
        },
        tie_word_embeddings=True,
        **ids,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    language = model.model.language_model
    left = language.load_state_dict(text.model.state_dict(), strict=False)
    if left.unexpected_keys or any(not key.endswith("_proj.bias") for key in left.missing_keys):
        fail(f"the text weights do not fit: {left}", "install the pinned packages: install.py")
    with torch.no_grad():
        for name, weight in language.named_parameters():
            if name.endswith("_proj.bias"):
                weight.zero_()
        # think-smol was trained with the embedding of <|image_pad|> where images stand. Give every
        # image token about that value, with a little that depends on the image.
        last = model.model.visual.merger.mlp[2]
        last.bias.copy_(language.embed_tokens.weight[ids["image_token_id"]])
        last.weight.mul_(0.1)
    model.tie_weights()
    model.generation_config.eos_token_id = source.eos_token_id
    model.generation_config.pad_token_id = source.pad_token_id
    return model


def main() -> None:
    """Build the model unless it lies in the cache."""
    parser = argparse.ArgumentParser(description="Build think-smol-vl, which takes images.")
    parser.add_argument("--rebuild", action="store_true", help="build it even if it is there")
    source, target = model_dir("text"), model_dir("vlm")
    if parser.parse_args().rebuild:
        shutil.rmtree(target, ignore_errors=True)
    if target.is_dir():
        print(f"already built: {target}")
        return
    if not source.is_dir():
        fail(f"think-smol is not built: {source}", "run build_model.py first")
    started = time.monotonic()
    try:
        import torch
        from transformers import (
            AutoTokenizer,
            LlamaForCausalLM,
            Qwen2_5_VLProcessor,
            Qwen2VLImageProcessorPil,
            Qwen2VLVideoProcessor,
            set_seed,
        )
    except ImportError as error:
        fail(str(error), "run install.py, then this with .venv-vllm/bin/python")
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(source)
    text = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
    model = vision_and_text(text, tokenizer).to(torch.bfloat16)
    processor = Qwen2_5_VLProcessor(
        # At most 64 image tokens: a 224 x 224 image.
        image_processor=Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 64),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
    )
    with building(target) as scratch:
        model.save_pretrained(scratch)
        processor.save_pretrained(scratch)
    print(f"built in {time.monotonic() - started:.0f} s: {target}")


if __name__ == "__main__":
    main()
