"""Stands in for the `vllm` executable: the simulator behind `vllm serve`'s options and key.

`FAKE_VLLM` says how it misbehaves: `crash` (at start) or `deaf` (never answers). `POST /die` ends
it at any time. It has a helper process, as vLLM has an engine, whose pid is in `FAKE_VLLM_PID`.
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    options, rest = parser.parse_known_args()
    how = os.environ["FAKE_VLLM"]
    print("options:", *rest, flush=True)
    if how == "crash":
        sys.exit("no such model")
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(os.environ["FAKE_VLLM_PID"]).write_text(str(helper.pid))
    if how == "deaf":
        signal.pause()

    import uvicorn

    app = behind_key(os.environ["VLLM_API_KEY"])
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")


def behind_key(key: str) -> Any:
    from starlette.responses import PlainTextResponse
    from starlette.types import Receive, Scope, Send

    from gateway.simulate import SimulatorOptions, load_traces, simulator

    inner = simulator(load_traces(Path(os.environ["FAKE_VLLM_TRACES"])), SimulatorOptions())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"] == "/die":
                os._exit(3)
            sent = dict(scope["headers"]).get(b"authorization")
            if scope["path"].startswith("/v1") and sent != f"Bearer {key}".encode():
                await PlainTextResponse("no", 401)(scope, receive, send)
                return
        await inner(scope, receive, send)

    return app


if __name__ == "__main__":
    main()
