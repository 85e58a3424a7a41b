"""How the simulated model behaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ReasoningField = Literal["reasoning", "reasoning_content", "inline"]
Chunking = Literal["token", "random", "whole"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """How the simulated model behaves.

    `tokens_per_second` 0 is as fast as possible. `template_kwarg` names the chat-template argument
    that holds a thought to continue (None: the template has none, and vLLM ignores it).
    `wrap_empty_think` renders a continued thought behind an empty one, as Qwen3's template does.
    """

    model: str = "simulated-mlrm"
    tokens_per_second: float = 0.0
    reasoning_field: ReasoningField = "reasoning"
    chunking: Chunking = "token"
    seed: int = 0
    ignore_correction: float = 0.0
    strict_model: bool = False
    max_model_len: int = 32_768
    template_kwarg: str | None = None
    wrap_empty_think: bool = False

    @property
    def inline(self) -> bool:
        """Whether the server runs without a reasoning parser."""
        return self.reasoning_field == "inline"
