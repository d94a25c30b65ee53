"""Base models brought in, adapters merged, merged models taken out of the house.

Serving them is in `serving`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from cloister.api.words import Document, Name


class BaseImportConfig(Document):
    """How a folder of model files becomes a base model. `files[i]` names the i-th descriptor."""

    files: tuple[str, ...]


class MergeConfig(Document):
    """Merge into 16 bits; both candidates are measured on up to `max_rows` hold-out rows.

    Refused where the better candidate's greedy agreement with the adapter is under `min_agreement`, but for a single
    answer where that is below 1, or its loss differs by more than `max_loss_gap` (nats a supervised token).
    """

    max_rows: int = Field(default=128, ge=1)
    max_new_tokens: int = Field(default=96, ge=1, le=4096)
    min_agreement: float = Field(default=0.98, ge=0, le=1)
    max_loss_gap: float = Field(default=0.02, ge=0)
    seed: int = 0


ExportForm = Literal["encrypted", "plain"]


class ExportConfig(Document):
    """How a worker writes a merged model out.

    `record` accompanies the files: ids, digests of what is sealed, who allowed it; no content. `secret` is what
    the signing key is made from, 32 bytes in base64; it is in the job document only.
    """

    name: Name
    form: ExportForm
    recipients: tuple[str, ...] = ()
    record: dict[str, Any]
    secret: str = Field(repr=False)


class BaseImport(Document):
    name: Name
    config: BaseImportConfig


class MergeRequest(Document):
    name: Name
    run: str
    config: MergeConfig = MergeConfig()


class ExportRequest(Document):
    """Take a merged model out: `plain`, as a folder that others load, or `encrypted` to age recipients."""

    form: ExportForm
    recipients: tuple[Annotated[str, StringConstraints(max_length=4096)], ...] = Field(
        default=(), max_length=16
    )

    @model_validator(mode="after")
    def _somebody_opens_it(self) -> ExportRequest:
        if (self.form == "encrypted") != bool(self.recipients):
            raise ValueError("an encrypted export names recipients, a plain one names none")
        return self


class ModelSigningKey(BaseModel):
    """The public half of the key that signs exports, in PEM, and the SHA-256 of that, in hex."""

    public_key: str
    sha256: str
