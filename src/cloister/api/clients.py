"""Client applications and their keys, and what the gateway is told so that it can serve them.

An API key is shown once; afterwards there is a keyed hash of it.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from cloister.api.serving import Deployment
from cloister.api.words import Document, Name


class ClientRequest(Document):
    """A client application. `deployments` empty means all of them."""

    name: Name
    deployments: tuple[Name, ...] = ()
    expires_at: datetime | None = None


class ApiClient(BaseModel):
    """`key_hash` is HMAC-SHA-256 of the key under the gateway's pepper, in hex, for the gateway only."""

    client_id: str
    name: str
    deployments: list[str] = []
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    key_hash: str | None = None


class IssuedClient(BaseModel):
    """The one time that the key is shown."""

    client: ApiClient
    api_key: str = Field(repr=False)


class GatewaySecrets(BaseModel):
    """What the gateway alone may ask for, and keeps in memory: its own keys, each 32 bytes in base64."""

    ledger_seed: str = Field(repr=False)
    pepper: str = Field(repr=False)
    cache_key: str = Field(repr=False)


class GatewayHello(Document):
    """A gateway tells that it listens."""

    pid: int
    url: str = Field(max_length=255)


class BodiesPolicy(Document):
    """Which bodies a gateway keeps. `public_key` is what they are sealed to, in base64; None while it cannot
    be had: what would have to be kept is then refused."""

    prompts: bool = False
    answers: bool = False
    public_key: str | None = None


class GatewayView(BaseModel):
    """What the gateway needs to know, as of event number `seq`. `policy` is the digest of the policy set in force.

    While there are `dead_sinks`, required audit sinks that have been down for too long, no model is asked.
    """

    seq: int
    clients: list[ApiClient]
    deployments: list[Deployment]
    bodies: BodiesPolicy = BodiesPolicy()
    policy: str | None = None
    dead_sinks: list[str] = []
