"""The guard without the gateway: around the official client, in your own process.

    python deploy/examples/guarded_client.py http://VLLM:8000/v1 MODEL "How is bread made?"

vLLM must be able to continue a message inside its thinking (`mlrm-guard probe` tells).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from monitors.continuation import next_body
from monitors.events import Outcome, Refuse, Release, Restart, Resume
from monitors.guard import open_guard

POLICY = Path(__file__).parents[1] / "policies" / "default.yaml"


async def ask(
    base_url: str, model: str, question: str, policy: Path = POLICY
) -> tuple[str, Outcome]:
    """Print a guarded reply as it comes; return what was printed, and what was decided."""
    client = AsyncOpenAI(base_url=base_url, api_key="none")
    body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": True}

    async def chunks(body: dict[str, Any]) -> AsyncIterator[Any]:
        ours = ("continue_final_message", "add_generation_prompt")  # vLLM's, not the client's
        extra = {name: body.pop(name) for name in ours if name in body}
        async with await client.chat.completions.create(**body, extra_body=extra) as stream:
            async for chunk in stream:
                yield chunk

    def again(leg: Resume | Restart) -> AsyncIterator[Any]:
        return chunks(next_body(body, leg))

    shown, outcome = "", Outcome()
    async with (
        client,
        open_guard(policy) as guard,
        aclosing(guard.stream(chunks(dict(body)), prompt=question, again=again)) as events,
    ):
        async for event in events:
            if isinstance(event, Release | Refuse):
                print(event.text, end="", flush=True)
                shown += event.text
            elif isinstance(event, Outcome):
                outcome = event
    print(f"\n[{outcome.action}]")
    return shown, outcome


if __name__ == "__main__":
    asyncio.run(ask(*sys.argv[1:4]))
