"""Deployments: how vLLM serves one merged model, and how that stands.

Who may ask it is in `clients`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, Field

from cloister.api.words import Document, Name, Problem


class ServeConfig(Document):
    """How vLLM serves one merged model."""

    max_model_len: int = Field(default=1024, ge=16)
    max_num_seqs: int = Field(default=16, ge=1)
    kv_cache_gib: float = Field(default=0.25, gt=0)
    gpu_memory_utilization: float = Field(default=0.85, gt=0, le=0.98)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


class ServeRequest(Document):
    """`name` is what clients ask for as `model`."""

    name: Name
    model: str
    config: ServeConfig = ServeConfig()


class DeploymentState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class Deployment(BaseModel):
    """One served model. `socket` is the engine's Unix socket, for the gateway; `device` is None while it
    waits for one."""

    deployment_id: str
    name: str
    model: str
    state: DeploymentState
    config: ServeConfig
    socket: str | None = None
    created_at: datetime
    created_by: str
    restarts: int = 0
    error: Problem | None = None
    device: str | None = None


class EngineLoad(BaseModel):
    """What one deployment's engine says of itself at this moment; None is what it does not say.

    `running` and `waiting` count requests, `cache_used` is the share (0 to 1) of its KV cache that they hold;
    `cache_asked` counts tokens of prompts since it started, `cache_found` those of them that its cache had.
    """

    deployment_id: str
    running: int | None = None
    waiting: int | None = None
    cache_used: float | None = None
    cache_asked: int | None = None
    cache_found: int | None = None
