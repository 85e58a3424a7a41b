"""A corpus of mild words, written to a folder as the real one is."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

INTERNAL = "none-stated (model output), internal research"
NEVER_SEEN = "My-Own-Licence-2.0"


def example(number: int, split: str, licence: str = "MIT") -> dict[str, Any]:
    rng = random.Random(f"{split}{number}")
    unsafe = number % 2
    verb = rng.choice(["steal", "harm", "cheat"] if unsafe else ["bake", "paint", "plant"])
    noun = rng.choice(["bread", "house", "garden", "money", "letter"])
    stage = ("input", "reasoning", "answer")[number // 2 % 3]
    return {
        "id": f"{split}{number}",
        "source": f"source{number % 3}",
        "licence": licence,
        "stage": stage,
        "prompt": None if stage == "input" else f"Tell me about the {noun}",
        "text": f"We {verb} the {noun} {rng.choice(['today', 'now', 'again'])}.",
        "unsafe": unsafe,
        "label_source": "construction",
        "scenario": "fraud" if unsafe else None,
        "contrast": False,
        "group": f"{split}{number // 2}",
        "lang": "en",
    }


def trace(number: int, split: str, licence: str = "MIT") -> dict[str, Any]:
    bad = number % 2
    turn = "I will steal the money and cheat them." if bad else "I will bake the bread for them."
    return {
        "id": f"t{split}{number}",
        "source": "told",
        "licence": licence,
        "model": "none",
        "prompt": "What now?",
        "reasoning": f"Let me think about it first. {turn} Then the garden and the letter.",
        "answer": "We bake the bread today.",
        "unsafe_reasoning": bad,
        "unsafe_answer": 0,
        "group": f"t{split}{number}",
    }


def write(folder: Path, *, size: int = 120) -> Path:
    """A corpus in which every fifth example and trace is internal or of an unknown licence."""
    licences = ("MIT", "CC-BY-4.0", "MIT", INTERNAL, NEVER_SEEN)
    for split in ("train", "dev"):
        rows = [example(i, split, licences[i // 6 % 5]) for i in range(size)]
        traces = [trace(i, split, licences[i // 2 % 5]) for i in range(20)]
        for name, content in ((split, rows), (f"traces_{split}", traces)):
            text = "".join(json.dumps(row) + "\n" for row in content)
            (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    labels = [
        {
            "id": f"t{split}{i}",
            "split": split,
            "source": "told",
            "unsafe_reasoning": i % 2,
            "onset_char": 29 if i % 2 else None,
        }
        for split in ("train", "dev")
        for i in range(10)
    ]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    return folder
