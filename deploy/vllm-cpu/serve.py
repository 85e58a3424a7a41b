"""Serve a built model with the real vLLM on the CPU.

The process becomes vLLM's (os.execve): its pid is the API server's, and ending it ends all of it.
Any Python from 3.11 on runs this file; vLLM itself runs in `.venv-vllm`.
"""

import argparse
import ctypes.util
import os
import sys
from pathlib import Path

from model_cache import HERE, NAMES, VENV, fail, model_dir

TEMPLATES = ("open", "prefill", "prefix", "empty-think-wrap")
PARSERS = ("qwen3", "deepseek_r1", "none")
BUILDERS = {"text": "build_model.py", "vlm": "build_vlm.py"}


def preloads(venv: Path) -> list[str]:
    """Libraries that make vLLM faster on a CPU, as far as this machine has them."""
    found = []
    for name in ("tcmalloc_minimal", "tcmalloc"):  # optional; Debian: libtcmalloc-minimal4
        library = ctypes.util.find_library(name)
        if library:
            found.append(library)
            break
    openmp = venv / "lib" / "libiomp5.so"
    if openmp.is_file():
        found.append(str(openmp))
    return found


def environment(venv: Path) -> dict[str, str]:
    """Environment of the server: no network, no statistics, a small KV cache."""
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),  # GiB
        "PATH": f"{venv / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(venv),
    }
    for name in ("PYTHONPATH", "PYTHONHOME"):  # another Python's packages
        env.pop(name, None)
    libraries = [*preloads(venv), *filter(None, [os.environ.get("LD_PRELOAD")])]
    if libraries:
        env["LD_PRELOAD"] = ":".join(libraries)
    return env


def main() -> None:
    """Read the options and become `vllm serve`."""
    argv = sys.argv[1:]
    extra: list[str] = []
    if "--" in argv:
        split = argv.index("--")
        argv, extra = argv[:split], argv[split + 1 :]
    parser = argparse.ArgumentParser(
        description="Serve think-smol with vLLM on the CPU.",
        epilog="Options after -- go to `vllm serve` as they are.",
        allow_abbrev=False,
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--model", choices=sorted(NAMES), default="text")
    parser.add_argument("--template", choices=TEMPLATES, default="open")
    parser.add_argument("--reasoning-parser", choices=PARSERS, default="qwen3")
    parser.add_argument("--served-model-name", help="default: think-smol, or think-smol-vl")
    parser.add_argument("--venv", type=Path, default=VENV, help="environment made by install.py")
    options = parser.parse_args(argv)

    venv: Path = options.venv.absolute()
    program, model = venv / "bin" / "vllm", model_dir(options.model)
    if not program.is_file():
        fail(f"vLLM is not installed in {venv}", f"run: python3.11 {HERE / 'install.py'}")
    if not model.is_dir():
        builder = HERE / BUILDERS[options.model]
        fail(f"the model is not built: {model}", f"run: {venv / 'bin' / 'python'} {builder}")
    # Without --enforce-eager this build writes wrong text (seen with torch.compile on a CPU).
    command = [str(program), "serve", str(model), "--enforce-eager", "--max-model-len", "2048"]
    command += ["--max-num-seqs", "16", "--host", options.host, "--port", str(options.port)]
    command += ["--served-model-name", options.served_model_name or NAMES[options.model]]
    command += ["--chat-template", str(HERE / f"{options.template}.jinja")]
    if options.reasoning_parser != "none":
        command += ["--reasoning-parser", options.reasoning_parser]
    os.execve(program, [*command, *extra], environment(venv))  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    main()
