"""The appliance's settings: one validated YAML file, every key with its default and its meaning.

It knows nothing of who asks; it only says how this machine is set up.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cloister.api import BannerColour, Classification, Costs
from cloister.errors import InvalidInput
from cloister.planning.money import Prices
from cloister.policy.sinks import SinkSettings
from cloister.verifier import VerificationError, parse_witness_vkey

MAX_SETTINGS_BYTES = 1 << 20


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SandboxSettings(_Section):
    """How the sandboxes of workers and engines are built."""

    tmp_mib: int = Field(default=4096, ge=64, description="RAM-backed /tmp of one sandbox, MiB at most")
    shm_mib: int = Field(default=1024, ge=16, description="RAM-backed /dev/shm of one sandbox, MiB at most")


class QueueSettings(_Section):
    """How many jobs run at once."""

    devices: Literal["auto", "cpu"] | tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(
        default="auto", description="auto: all GPUs, or the CPU where there are none; cpu; or GPUs by number"
    )
    heavy_slots: int = Field(
        default=1, ge=1, le=64, description="training, evaluation and merging at once on the CPU; one a GPU"
    )
    memory_reserve_gib: float = Field(
        default=1.0, ge=0, le=1e6, description="memory that no start may use up"
    )
    disk_reserve_gib: float = Field(
        default=1.0, ge=0, le=1e6, description="disk of the home that no start may use up"
    )
    light_slots: int = Field(default=2, ge=1, le=64, description="imports at once")
    threads: int = Field(default=0, ge=0, description="CPU threads of one job; 0: as many as there are cores")
    stop_grace_s: float = Field(
        default=30.0, ge=1, le=3600, description="time to write a checkpoint when stopped"
    )
    resume_limit: int = Field(
        default=3, ge=0, le=1000, description="how often a job that was cut off goes on by itself"
    )
    answer_limit_s: float = Field(
        default=60.0, ge=1, le=3600, description="how long the launcher may take for an answer beyond that"
    )


class ServingSettings(_Section):
    """How long an engine may take, and how it comes to a device."""

    claim: Literal["wait", "yield", "share"] = Field(
        default="share",
        description="wait: for a free device, before any job; yield: runs make way; share: beside them",
    )

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


class BodiesSettings(_Section):
    """Which bodies are kept, sealed, beside the ledger."""

    prompts: bool = Field(default=False, description="keep what clients ask the models")
    answers: bool = Field(default=False, description="keep what the models answer")


class LedgerSettings(_Section):
    """Who witnesses the ledgers, how often a tree head has to leave this machine, and who gets the entries."""

    sinks: tuple[SinkSettings, ...] = Field(default=(), description="where the entries are exported to")
    bodies: BodiesSettings = BodiesSettings()
    witnesses: tuple[str, ...] = Field(
        default=(), max_length=64, description="verifier keys of witnesses, as `cloister witness` prints them"
    )
    witness_period: str = Field(
        default="7d", description="UNWITNESSED when no head left for longer: 90m, 36h, 7d"
    )

    @field_validator("sinks")
    @classmethod
    def _have_names(cls, sinks: tuple[SinkSettings, ...]) -> tuple[SinkSettings, ...]:
        if len({sink.name for sink in sinks}) != len(sinks):
            raise ValueError("two sinks have the same name")
        return sinks

    @field_validator("witnesses")
    @classmethod
    def _are_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for number, key in enumerate(keys, 1):
            try:
                parse_witness_vkey(key)
            except VerificationError as error:
                raise ValueError(f"witness {number}: {error}") from None
        return keys

    @field_validator("witness_period")
    @classmethod
    def _is_period(cls, text: str) -> str:
        if not re.fullmatch("[1-9][0-9]{0,3}[mhd]", text, re.ASCII):
            raise ValueError("a number and m, h or d, such as 36h or 7d")
        return text

    @property
    def witness_period_s(self) -> int:
        return int(self.witness_period[:-1]) * {"m": 60, "h": 3600, "d": 86_400}[self.witness_period[-1]]


class VaultSettings(_Section):
    """What may open the vault."""

    pkcs11_modules: tuple[str, ...] = Field(
        default=(), max_length=16, description="drivers of PKCS#11 tokens that may be loaded, absolute paths"
    )


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


Role = Literal["admin", "steward", "trainer", "approver", "operator", "auditor"]
_GROUP = re.compile(r"[a-z_][a-z0-9_.-]{0,31}", re.ASCII)


class AccessSettings(_Section):
    """Who is what."""

    roles: dict[Role, str] = Field(
        default={}, description="role: group of the system; none: the account that runs the appliance has all"
    )
    gateway_account: str | None = Field(
        default=None, description="the account that the gateway runs under; none: that of the authority"
    )
    policies: str | None = Field(
        default=None,
        description="folder of the first policy set, absolute; none: the one that ships with Cloister",
    )

    accept_policies: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="digest of the set in that folder, which comes into force once without an approval",
    )

    @field_validator("roles")
    @classmethod
    def _are_groups(cls, roles: dict[Role, str]) -> dict[Role, str]:
        for role, group in roles.items():
            if not _GROUP.fullmatch(group):
                raise ValueError(f"{role}: not the name of a group")
        if len(set(roles.values())) != len(roles):
            raise ValueError("one group stands for two roles, which no policy could keep apart")
        return roles

    @field_validator("policies")
    @classmethod
    def _is_absolute(cls, folder: str | None) -> str | None:
        if folder is not None and not Path(folder).is_absolute():
            raise ValueError("an absolute path")
        return folder


class ApprovalSettings(_Section):
    """How long requests and approvals hold, and whose signatures count."""

    wait_h: float = Field(
        default=72.0, gt=0, le=8760, description="a request that nobody decided on ends after so long"
    )
    stands_days: float = Field(
        default=30.0, gt=0, le=3650, description="how long what was approved may be done, or done again"
    )
    allowed_signers: str | None = Field(
        default=None,
        description="OpenSSH allowed-signers file, absolute; none: `allowed_signers` in the home",
    )

    @field_validator("allowed_signers")
    @classmethod
    def _is_absolute(cls, path: str | None) -> str | None:
        if path is not None and not Path(path).is_absolute():
            raise ValueError("an absolute path")
        return path


class DataSettings(_Section):
    """What a dataset is unless its import says otherwise."""

    classification: Classification = Field(
        default="confidential", description="of a dataset that is imported without naming one"
    )
    personal: dict[Classification, Literal["look", "refuse", "redact", "replace"]] = Field(
        default={},
        description="what imports do about personal data, by class: count it, refuse it, or exchange it; else nothing",
    )


_ADDRESS = r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}$"


class MailSettings(_Section):
    """A relay that takes alerts as mail."""

    server: str = Field(
        pattern=r"^[A-Za-z0-9.\[\]:-]{1,253}:[0-9]{1,5}$", description="HOST:PORT of the relay"
    )
    sender: str = Field(pattern=_ADDRESS, description="address that the mails come from")
    to: tuple[Annotated[str, Field(pattern=_ADDRESS)], ...] = Field(
        min_length=1, max_length=32, description="addresses that they go to"
    )
    tls: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="how the way is protected"
    )
    ca: str | None = Field(
        default=None, description="PEM file that the relay's certificate must lead to; none: the system's"
    )


class PriceSettings(_Section):
    """What things cost here. Without a price nothing is said about money."""

    currency: str = Field(default="EUR", pattern=r"^[A-Z]{3}$", description="what the prices are in")
    device_hour: float | None = Field(
        default=None, ge=0, le=1e6, description="an hour of the device; none: watts and kwh"
    )
    watts: float | None = Field(
        default=None, ge=0, le=1e6, description="what the machine draws while one device works"
    )
    kwh: float | None = Field(default=None, ge=0, le=1e4, description="a kilowatt-hour")
    staff_hour: float | None = Field(default=None, ge=0, le=1e5, description="an hour of a person's work")
    preparation_hours: float | None = Field(
        default=None, ge=0, le=1e6, description="hours that it took to make the data ready"
    )
    case_minutes: float | None = Field(
        default=None, ge=0, le=1e5, description="minutes that a person takes for one case"
    )

    @property
    def planned(self) -> Prices:
        """What a plan reckons with."""
        return Prices(**self.model_dump(exclude={"case_minutes"}))

    @property
    def costs(self) -> Costs:
        """What an evaluation reckons with."""
        hour = self.device_hour
        if hour is None and self.watts is not None and self.kwh is not None:
            hour = self.watts / 1000 * self.kwh

        def staff(hours: float | None) -> float | None:
            return None if hours is None or self.staff_hour is None else hours * self.staff_hour

        minutes = self.case_minutes
        return Costs(
            currency=self.currency,
            hour=hour,
            case=staff(minutes / 60 if minutes is not None else None),
            preparation=staff(self.preparation_hours),
        )


class AlertSettings(_Section):
    """When somebody has to look, and how they are told."""

    disk_low_gib: float = Field(
        default=5.0, ge=0, le=1e6, description="less free space than that on the home's disk"
    )
    backup_days: int = Field(
        default=7, ge=0, le=3650, description="no backup for so long; 0: never asked for"
    )
    stalled_s: float = Field(
        default=1800.0, ge=1, le=1e7, description="a running job that says nothing for so long"
    )
    certificate_days: int = Field(
        default=30,
        ge=0,
        le=3650,
        description="a certificate, a CA, an API key or a signer's key ends this soon",
    )
    unlock_attempts: int = Field(
        default=3, ge=1, le=1000, description="refused attempts to unlock within an hour"
    )
    gpu_every_s: float = Field(default=5.0, ge=0.1, le=3600, description="GPUs are read so often")
    gpu_silent_s: float = Field(
        default=60.0, ge=1, le=3600, description="a driver of GPUs that does not answer for so long hangs"
    )
    hook: str | None = Field(
        default=None, description="program that gets each alert as JSON on standard input, absolute path"
    )

    mail: MailSettings | None = Field(default=None, description="a relay that gets each alert as a mail")

    @field_validator("hook")
    @classmethod
    def _is_absolute(cls, program: str | None) -> str | None:
        if program is not None and not Path(program).is_absolute():
            raise ValueError("an absolute path")
        return program


class ApiSettings(_Section):
    """How much one account may ask of the authority's socket."""

    requests_per_s: float = Field(default=200.0, ge=1, le=10_000, description="in the long run")
    burst: int = Field(default=1000, ge=10, le=100_000, description="at once")
    connections: int = Field(default=256, ge=8, le=65_536, description="connections at a time")
    streams: int = Field(default=64, ge=1, le=4096, description="streams of events and entries at a time")
    metrics: str | None = Field(
        default=None,
        description="loopback IP:PORT for Prometheus, open to every account; none: the socket only",
    )

    @field_validator("metrics")
    @classmethod
    def _is_loopback(cls, address: str | None) -> str | None:
        if address is None:
            return None
        host, _, port = address.rpartition(":")
        try:
            good = ip_address(host.strip("[]")).is_loopback and 0 < int(port) < 65_536
        except ValueError:
            good = False
        if not good:
            raise ValueError("a loopback address and a port, such as 127.0.0.1:9421")
        return address


class ConsoleSettings(_Section):
    """How the console's screens tell this appliance from others."""

    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=20,
        description="shown on every screen; none: the machine's name",
    )
    colour: BannerColour = Field(default="grey", description="of the banner; red for production, say")


class Settings(_Section):
    """Everything in `appliance.yaml`."""

    sandbox: Literal["required", "none"] = Field(
        default="required",
        description="'none' lets work run without a sandbox; recorded, and shown on every status",
    )
    unencrypted_swap: Literal["refuse", "allow"] = Field(
        default="refuse", description="what to do where memory could reach a disk through swap"
    )
    access: AccessSettings = AccessSettings()
    approvals: ApprovalSettings = ApprovalSettings()
    data: DataSettings = DataSettings()
    prices: PriceSettings = PriceSettings()
    api: ApiSettings = ApiSettings()
    console: ConsoleSettings = ConsoleSettings()
    alerts: AlertSettings = AlertSettings()
    sandboxes: SandboxSettings = SandboxSettings()
    queue: QueueSettings = QueueSettings()
    serving: ServingSettings = ServingSettings()
    gateway: GatewaySettings = GatewaySettings()
    ledger: LedgerSettings = LedgerSettings()
    vault: VaultSettings = VaultSettings()
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
