"""LiteLLM's streaming guard hook with the least that a guard can do: look, and pass it on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from litellm.integrations.custom_guardrail import CustomGuardrail


class TrivialGuardrail(CustomGuardrail):  # type: ignore[misc]
    """Blocks a phrase that the bench never says."""

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Per chunk."""
        async for chunk in response:
            for choice in chunk.choices:
                if "purple teapot" in (choice.delta.content or ""):
                    raise ValueError("blocked")
            yield chunk
