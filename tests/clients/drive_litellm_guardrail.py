"""LiteLLM asks its Generic Guardrail API: `python -m .. ROOT [KEY]`, JSON lines in and out.

What its proxy runs before and behind a call: its own reading of chat completions, and its own
guardrail. A line in is `{messages, ..}` (a request) or `{reply: [message, ..]}` (its choices), a
line out `{passed}` or `{error, message}`. The proxy's server itself needs `litellm[proxy]`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from litellm import Choices, Message, ModelResponse
from litellm.llms.openai.chat.guardrail_translation.handler import OpenAIChatCompletionsHandler
from litellm.proxy.guardrails.guardrail_hooks.generic_guardrail_api.generic_guardrail_api import (
    GenericGuardrailAPI,
)


async def judge(handler: Any, guardrail: Any, asked: dict[str, Any]) -> dict[str, Any]:
    try:
        if "messages" in asked:
            await handler.process_input_messages({"model": "m", **asked}, guardrail)
        else:
            choices = [Choices(index=i, message=Message(**m)) for i, m in enumerate(asked["reply"])]
            await handler.process_output_response(ModelResponse(choices=choices), guardrail)
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"passed": True}


async def main() -> None:
    out, sys.stdout = sys.stdout, sys.stderr  # LiteLLM prints, too
    root, key = (*sys.argv[1:], None)[:2]
    guardrail = GenericGuardrailAPI(
        api_base=root, api_key=key, guardrail_name="mlrm-guard", event_hook="pre_call"
    )
    handler = OpenAIChatCompletionsHandler()
    for line in sys.stdin:
        out.write(json.dumps(await judge(handler, guardrail, json.loads(line))) + "\n")
        out.flush()


if __name__ == "__main__":
    asyncio.run(main())
