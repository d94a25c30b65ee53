"""The settings of one audit sink: where the ledgers are exported to, and what follows when it is down."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

_PORTS = {"tcp": 601, "tls": 6514, "udp": 514}


class SinkSettings(BaseModel):
    """Where the ledgers are exported to, as OCSF events: one receiver."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
        default=False,
        description="nothing new starts, and no request is answered, while it is down for longer than grace_s",
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
