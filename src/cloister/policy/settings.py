"""The appliance's settings: one validated YAML file, every key with its default and its meaning.

It knows nothing of who asks; it only says how this machine is set up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

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


_PORTS = {"tcp": 601, "tls": 6514, "udp": 514}


class SinkSettings(_Section):
    """Where the ledgers are exported to, as OCSF events: one receiver."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")] = Field(
        description="what `cloister status` calls it; its cursor hangs on it"
    )
    to: str = Field(
        description="tls://HOST:PORT, tcp://HOST:PORT, udp://HOST:PORT, unix:///dev/log or file:///PATH"
    )
    logs: tuple[Literal["control", "gateway"], ...] = Field(
        default=("control", "gateway"), min_length=1, description="which ledgers"
    )
    required: bool = Field(
        default=False, description="nothing new starts while it is down for longer than grace_s"
    )
    grace_s: float = Field(default=300.0, ge=0, description="how long a required sink may be down")
    leaves_machine: bool | None = Field(
        default=None, description="a tree head sent there counts as having left; null: tls, tcp and udp do"
    )
    resend_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="after a lost connection, what was sent so recently is sent again",
    )
    head_every_s: float = Field(default=60.0, ge=1, description="a new signed tree head is sent this often")
    facility: int = Field(default=13, ge=0, le=23, description="syslog facility; 13 is log audit")
    hostname: str | None = Field(default=None, description="syslog HOSTNAME; null: this machine's name")
    ca: str | None = Field(
        default=None, description="PEM file that the TLS receiver's certificate must lead to"
    )
    cert: str | None = Field(default=None, description="PEM file of our certificate, where the receiver asks")
    key: str | None = Field(default=None, description="PEM file of that certificate's key")
    server_name: str | None = Field(
        default=None, description="name in the receiver's certificate; null: HOST"
    )
    rotate_mib: int = Field(default=64, ge=1, description="size at which a file is rotated")
    keep: int = Field(default=16, ge=1, le=10_000, description="how many rotated files are kept")

    @property
    def scheme(self) -> str:
        return urlsplit(self.to).scheme

    @property
    def path(self) -> str:
        return urlsplit(self.to).path

    @property
    def host_port(self) -> tuple[str, int]:
        parts = urlsplit(self.to)
        return parts.hostname or "", parts.port or _PORTS[parts.scheme]

    @property
    def counts_as_leaving(self) -> bool:
        return self.scheme in _PORTS if self.leaves_machine is None else self.leaves_machine

    @model_validator(mode="after")
    def _check(self) -> SinkSettings:
        try:
            parts = urlsplit(self.to)
            known = parts.scheme in (*_PORTS, "unix", "file")
            network = parts.scheme in _PORTS
            fits = (
                bool(parts.hostname) and parts.path in ("", "/") and (parts.port or 1) > 0
                if network
                else (parts.path.startswith("/") and not parts.netloc)
            )
        except ValueError:
            known = fits = False
        if not known or not fits or parts.query or parts.fragment or parts.username is not None:
            raise ValueError("'to' is tls://HOST:PORT, tcp://, udp://, unix:///PATH or file:///PATH")
        if bool(self.cert) != bool(self.key):
            raise ValueError("'cert' and 'key' belong together")
        if parts.scheme != "tls" and (self.ca or self.cert or self.server_name):
            raise ValueError("'ca', 'cert' and 'server_name' are for tls://")
        return self


class LedgerSettings(_Section):
    """What happens to the ledgers beside being kept."""

    sinks: tuple[SinkSettings, ...] = Field(default=(), description="where they are exported to")

    @model_validator(mode="after")
    def _distinct(self) -> LedgerSettings:
        names = [sink.name for sink in self.sinks]
        if len(set(names)) != len(names):
            raise ValueError("two sinks have the same name")
        return self


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
    ledger: LedgerSettings = LedgerSettings()


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
