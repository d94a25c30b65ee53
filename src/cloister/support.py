"""What a helper outside may see of an appliance, in one archive: states, figures, errors and logs.

No row, prompt, key or file of the vault is read for it. Names that people gave are replaced by numbers, the same in all
of it; settings are told, their words are not. What looks like a secret all the same keeps it from being written.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import socket
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloister.errors import CloisterError, InvalidInput

if TYPE_CHECKING:
    from cloister.client import Client

LOG_BYTES = 256 << 10
"""So much of the end of each log."""
JOBS = 200
PACKAGES = ("torch", "vllm", "transformers", "peft", "bitsandbytes", "cryptography", "pydantic", "textual")
_SECRETS = re.compile(r"clo-[\w-]{24}|-----BEGIN |AGE-SECRET-KEY-|PRIVATE KEY|\b[0-9a-f]{128}\b")
_READ_ME = """A Cloister appliance, for whoever helps with it. Made {now}.

In it: {files}.
Not in it: rows, prompts, answers, weights, keys, passphrases, the ledgers' entries, and what settings say in words.
Names of people, datasets, models, deployments, clients and of the machine are replaced by numbers.
Left out: {left_out}.
"""


class Names:
    """Names that are not to be told, each with the word that stands for it."""

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        """`names` are pairs of a name and its kind: the third account becomes `account-3`."""
        self._words: dict[str, str] = {}
        counts: dict[str, int] = {}
        for name, kind in names:
            if name and name not in self._words:
                counts[kind] = counts.get(kind, 0) + 1
                self._words[name] = f"{kind}-{counts[kind]}"
        longest = sorted(self._words, key=len, reverse=True)
        self._found = (
            re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, longest))})(?![\w-])") if longest else None
        )

    def replaced(self, value: Any) -> Any:
        """A document with every name in its texts replaced, keys too."""
        if isinstance(value, str):
            return self._found.sub(lambda one: self._words[one[0]], value) if self._found else value
        if isinstance(value, Mapping):
            return {self.replaced(str(key)): self.replaced(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.replaced(one) for one in value]
        return value


def bundle(
    client: Client,
    *,
    settings: Mapping[str, Any] | None,
    logs: Mapping[str, Path],
    findings: list[dict[str, Any]],
) -> bytes:
    """The archive, a tar with gzip.

    Args:
        client: what it answers is taken with the caller's own roles; what is refused is left out, and said.
        settings: as `cloister.policy` reads them; none where this account cannot.
        logs: by name; those that this account cannot read are left out.
        findings: of `cloister doctor`.

    Errors: InvalidInput where something in it looks like a secret.
    """
    left_out: list[str] = []
    told = dict(_asked(client, left_out))
    names = Names(_names(told))
    files: dict[str, str] = {
        "machine.json": _text(names.replaced({"findings": findings, **_machine()})),
    }
    if settings is None:
        left_out.append("the settings")
    else:
        files["settings.json"] = _text(wordless(settings))
    for name in ("status", "alerts", "jobs", "backups", "slots"):
        if name in told:
            files[f"{name}.json"] = _text(names.replaced(told[name]))
    for name, path in logs.items():
        try:
            lines, dropped = log_lines(path)
        except OSError as error:
            left_out.append(f"the log of the {name} ({error.strerror})")
            continue
        if dropped:
            left_out.append(f"{dropped} lines of the {name}'s log that are no JSON")
        files[f"logs/{name}.jsonl"] = "".join(json.dumps(names.replaced(line)) + "\n" for line in lines)
    for name, text in files.items():
        for number, line in enumerate(text.splitlines(), 1):
            if _SECRETS.search(line):
                raise InvalidInput(
                    "looks like a secret; nothing was written",
                    where=f"{name}:{number}",
                    remedy="Tell its makers.",
                )
    now = datetime.now(UTC)
    read_me = _READ_ME.format(
        now=f"{now:%Y-%m-%d %H:%M} UTC", files=", ".join(files), left_out="; ".join(left_out) or "nothing"
    )
    return _packed({"README": read_me, **files}, now)


def wordless(settings: Any) -> Any:
    """Settings with figures and switches as they are, and words only by whether there are any."""
    if isinstance(settings, Mapping):
        return {str(key): wordless(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [wordless(value) for value in settings]
    return settings if settings is None or isinstance(settings, bool | int | float) else "set"


def log_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The end of a log, and how many of its lines are none of ours. Errors: OSError."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LOG_BYTES))
        raw = file.read(LOG_BYTES).split(b"\n")
    whole = raw[1:] if size > LOG_BYTES else raw
    lines: list[dict[str, Any]] = []
    dropped = 0
    for line in filter(None, whole):
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if isinstance(said, dict):
            lines.append(said)
        else:
            dropped += 1
    return lines, dropped


def _asked(client: Client, left_out: list[str]) -> Iterator[tuple[str, Any]]:
    """What the authority tells this caller, as plain documents."""
    shelves = {
        "status": client.status, "whoami": client.whoami, "alerts": client.alerts, "jobs": client.jobs,
        "datasets": client.datasets, "bases": client.bases, "models": client.models, "runs": client.runs,
        "deployments": client.deployments, "clients": client.clients, "backups": client.backups,
        "slots": client.slots,
    }  # fmt: skip
    for name, ask in shelves.items():
        try:
            found: Any = ask()
        except CloisterError as error:
            left_out.append(f"{name} ({error.code})")
            continue
        listed = [one.model_dump(mode="json") for one in found] if isinstance(found, list) else None
        yield name, found.model_dump(mode="json") if listed is None else _last(name, listed)


def _last(name: str, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if name != "jobs":
        return listed
    kept = [
        {key: value for key, value in job.items() if key != "result"} for job in listed[-JOBS:]
    ]  # results hold figures of the data
    for job in kept:
        if job["error"]:
            job["error"] = {key: job["error"][key] for key in ("code", "detail", "remedy")}
    return kept


def _names(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every name that people gave, with its kind."""
    status, who = told.get("status") or {}, told.get("whoami") or {}
    yield status.get("home", ""), "home"
    for host in {socket.gethostname(), socket.getfqdn(), platform.node()}:
        yield host, "machine"
    yield (status.get("environment") or {}).get("name") or "", "appliance"
    yield who.get("account", ""), "account"
    for group in who.get("groups", ()):
        yield group, "group"
    for name, kind in (
        ("datasets", "dataset"),
        ("bases", "base"),
        ("models", "model"),
        ("runs", "run"),
        ("deployments", "deployment"),
        ("clients", "client"),
    ):
        for one in told.get(name, ()):
            yield one["name"], kind
            yield one["created_by"], "account"
    for job in told.get("jobs", ()):
        yield job["requested_by"], "account"
    for alert in told.get("alerts", ()):
        yield alert["acknowledged_by"] or "", "account"
    for sink in status.get("sinks", ()):
        yield sink["name"], "sink"
        yield sink["to"], "place"
    for backup in told.get("backups", ()):
        yield backup["where"] or "", "place"


def _machine() -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "packages": versions,
    }


def _text(document: Any) -> str:
    return json.dumps(document, indent=1, ensure_ascii=True) + "\n"


def _packed(files: Mapping[str, str], now: datetime) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            raw = text.encode()
            entry = tarfile.TarInfo(f"cloister-support/{name}")
            entry.size, entry.mode, entry.mtime = len(raw), 0o600, int(now.timestamp())
            archive.addfile(entry, io.BytesIO(raw))
    return packed.getvalue()
