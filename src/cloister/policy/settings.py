"""The appliance's settings: one validated YAML file, every key with its default and its meaning.

It knows nothing of who asks; it only says how this machine is set up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cloister.errors import InvalidInput

MAX_SETTINGS_BYTES = 1 << 20


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SandboxSettings(_Section):
    """How the sandboxes of workers and engines are built."""

    tmp_mib: int = Field(default=4096, ge=64, description="RAM-backed /tmp of one sandbox, MiB at most")
    shm_mib: int = Field(default=1024, ge=16, description="RAM-backed /dev/shm of one sandbox, MiB at most")


class QueueSettings(_Section):
    """How many jobs run at once."""

    heavy_slots: int = Field(default=1, ge=1, le=64, description="training, evaluation and merging at once")
    light_slots: int = Field(default=2, ge=1, le=64, description="imports at once")
    threads: int = Field(default=0, ge=0, description="CPU threads of one job; 0: as many as there are cores")
    stop_grace_s: float = Field(
        default=30.0, ge=1, le=3600, description="time to write a checkpoint when stopped"
    )
    answer_limit_s: float = Field(
        default=60.0, ge=1, le=3600, description="how long the launcher may take for an answer beyond that"
    )


class ServingSettings(_Section):
    """How long an engine may take."""

    start_limit_s: float = Field(
        default=1800.0,
        ge=1,
        le=86_400,
        description="an engine that does not answer after so long is given up",
    )


class GatewaySettings(_Section):
    """The one network listener."""

    listen: str = Field(default="127.0.0.1:8421", description="host:port; port 0 picks a free one")
    tls_cert: str | None = Field(default=None, description="PEM file; needed for anything but loopback")
    tls_key: str | None = Field(default=None, description="PEM file of the certificate's key")
    client_ca: str | None = Field(default=None, description="PEM file; client certificates are then required")


class BackupSettings(_Section):
    """What happens to backups."""

    keep_keys_days: int = Field(
        default=90,
        ge=1,
        le=3650,
        description="days after which a key archive is destroyed: a shred is final when the last has gone",
    )
    recipients: tuple[str, ...] = Field(
        default=(), description="age recipients of the key archive where the command names none"
    )


class Settings(_Section):
    """Everything in `appliance.yaml`."""

    sandbox: Literal["required", "none"] = Field(
        default="required",
        description="'none' lets work run without a sandbox; recorded, and shown on every status",
    )
    unencrypted_swap: Literal["refuse", "allow"] = Field(
        default="refuse", description="what to do where memory could reach a disk through swap"
    )
    sandboxes: SandboxSettings = SandboxSettings()
    queue: QueueSettings = QueueSettings()
    serving: ServingSettings = ServingSettings()
    gateway: GatewaySettings = GatewaySettings()
    backups: BackupSettings = BackupSettings()


def load_settings(path: Path) -> Settings:
    """Read the file, or the defaults where there is none. Errors: InvalidInput, one line a key."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SETTINGS_BYTES + 1)
    except FileNotFoundError:
        return Settings()
    if len(raw) > MAX_SETTINGS_BYTES:
        raise InvalidInput(f"settings are larger than {MAX_SETTINGS_BYTES} bytes", where=str(path))
    try:
        document = yaml.safe_load(raw) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InvalidInput(
            "not valid YAML", where=f"{path}{line}", remedy="Correct it and start again."
        ) from None
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'document'}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        )
        raise InvalidInput(problems, where=str(path), remedy="Correct it and start again.") from None
