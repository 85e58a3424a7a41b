"""What the scripts of this folder share: where the built models lie. Standard library only."""

import hashlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE.parents[1] / ".venv-vllm"

# The files that decide what a model holds: a change to one of them is a new model.
TEXT_SOURCES = ("build_model.py", "thoughts.json")
SOURCES = {"text": TEXT_SOURCES, "vlm": ("build_vlm.py", *TEXT_SOURCES)}
NAMES = {"text": "think-smol", "vlm": "think-smol-vl"}


def model_dir(kind: str) -> Path:
    """Folder of a model in the user's cache, named by the hash of its sources."""
    digest = hashlib.sha256()
    for name in SOURCES[kind]:
        digest.update((HERE / name).read_bytes() + b"\0")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "mlrm-guard" / f"{NAMES[kind]}-{digest.hexdigest()[:16]}"


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Give a scratch folder that becomes `target` in one step, and only on success."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder is cleared away
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise  # otherwise another build was first, with the same sources
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def fail(message: str, remedy: str) -> None:
    """Stop with a message and what to do about it."""
    sys.exit(f"error: {message}\n  -> {remedy}")
