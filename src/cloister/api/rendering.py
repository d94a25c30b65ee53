"""A row as a run would learn it: whose template, which tokens are learnt, which row is shown.

Knows neither datasets nor runs; both speak with it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cloister.api.words import Document

TemplateName = Literal["auto", "model", "llama3", "qwen3", "chatml"]
"""Whose chat template: the model's own (`auto`, `model`), or one of ours."""

LossOn = Literal["assistant", "last", "all"]
"""Which tokens are learnt: those of every assistant turn, of the last turn alone, or all."""


class RenderConfig(Document):
    """Which row is rendered, by number from 0, and how a run would: see `TrainConfig`. Nothing is left out where the
    row is longer than `max_length`; that is told."""

    row: int = Field(ge=0, lt=1 << 53)
    template: TemplateName = "auto"
    loss_on: LossOn = "assistant"
    max_length: int | None = Field(default=None, ge=8)


class RenderRequest(Document):
    """Show a row as a run would learn it; `base` names the model whose tokenizer and template render."""

    base: str = Field(max_length=64)
    config: RenderConfig
