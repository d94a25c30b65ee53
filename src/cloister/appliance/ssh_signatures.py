"""SSH signatures on approvals, checked by OpenSSH's own `ssh-keygen -Y verify`. Keys stay with their owners.

Knows documents, signatures and the allowed-signers file; not what is approved.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from cloister.api import APPROVAL_NAMESPACE
from cloister.errors import Unauthenticated, Unavailable
from cloister.sandbox import memory_file

LIMIT_S = 10.0
_FIELD = r'(?:[^\s"]|"(?:\\.|[^"\\])*+")++'
_LINE = re.compile(rf"[ \t]*(?P<principals>(?!#){_FIELD})[ \t]+(?P<options>{_FIELD})")
_OPTION = re.compile(r'([a-z-]+)(?:="((?:\\.|[^"\\])*+)")?(?:,|$)', re.IGNORECASE)
_TIME = re.compile(r"(\d{8})(\d{4})?(?:(?<=\d{12})(\d{2}))?(Z|UTC)?", re.ASCII | re.IGNORECASE)
_NEVER = datetime.max.replace(tzinfo=UTC)
_GOOD = re.compile(r'Good "[^"]*" signature for .* with (\S+) key (SHA256:\S+)')


def verify(
    document: str, signature: str, account: str, allowed_signers: Path, *, at: datetime | None = None
) -> str:
    """Check that `account` signed `document`; returns the key's type and fingerprint.

    Args:
        signature: armored, as `ssh-keygen -Y sign` writes it.
        at: the moment at which the key must have been allowed; now, unless given.

    Errors: Unauthenticated where the signature is not good, is of another namespace, or its key is not that
    account's in the file; Unavailable where it cannot be checked.
    """
    _require_own(allowed_signers)
    file = memory_file("signature", signature.encode())
    moment = [] if at is None else [f"-Overify-time={at.astimezone(UTC):%Y%m%d%H%M%S}Z"]
    command = ["ssh-keygen", "-Y", "verify", *moment, "-f", str(allowed_signers), "-I", account]
    command += ["-n", APPROVAL_NAMESPACE, "-s", f"/proc/self/fd/{file}"]
    try:
        ended = subprocess.run(
            command,
            input=document.encode(),
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
            pass_fds=(file,),
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise Unavailable(
            "signatures cannot be checked: there is no ssh-keygen",
            remedy="Install OpenSSH's client (Debian: openssh-client).",
        ) from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"ssh-keygen has not checked the signature within {LIMIT_S:g} s") from None
    finally:
        os.close(file)
    good = _GOOD.search(ended.stdout.decode(errors="replace"))
    if ended.returncode or good is None:
        raise Unauthenticated(
            f"this is no signature of {account} on this request",
            where=str(allowed_signers),
            remedy=f"It is made by the approver's own key, which that file names for {account}, over the document "
            f"of `cloister approval export`, with namespace {APPROVAL_NAMESPACE}.",
        )
    return f"{good[1]} {good[2]}"


def signers_ends(text: str) -> dict[str, datetime | None]:
    """When each principal of an allowed-signers file can last sign an approval; None where there is no end.

    Of several lines for a principal the last end counts. Lines for other namespaces, and what is no line of that
    format (ssh-keygen(1), ALLOWED SIGNERS), count for nobody.
    """
    ends: dict[str, datetime] = {}
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        # Where a line has no options, this is the type of its key, and says nothing.
        options = {name.lower(): value for name, value in _OPTION.findall(found["options"])}
        spaces = options.get("namespaces", "")
        if spaces and not any(fnmatchcase(APPROVAL_NAMESPACE, one) for one in spaces.split(",")):
            continue
        try:
            end = _moment(options["valid-before"]) if "valid-before" in options else _NEVER
        except (ValueError, OverflowError):
            continue
        for principal in found["principals"].strip('"').split(","):
            ends[principal] = max(end, ends.get(principal, end))
    wide = [(pattern, end) for pattern, end in ends.items() if {"*", "?"} & set(pattern)]
    last = {
        principal: max([end, *(other for pattern, other in wide if fnmatchcase(principal, pattern))])
        for principal, end in ends.items()
        if not principal.startswith("!")
    }
    return {principal: None if end == _NEVER else end for principal, end in last.items()}


def _moment(text: str) -> datetime:
    """A time as ssh-keygen takes it: YYYYMMDD[HHMM[SS]], of this machine's zone unless it ends in Z.

    Errors: ValueError.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError("not a time of ssh-keygen's")
    moment = datetime.strptime(f"{found[1]}{found[2] or '0000'}{found[3] or '00'}", "%Y%m%d%H%M%S")
    return moment.replace(tzinfo=UTC) if found[4] else moment.astimezone(UTC)


def _require_own(path: Path) -> None:
    """Errors: Unavailable where the file is not there, or others than its owner may write to it."""
    try:
        state = path.stat()
    except OSError as error:
        raise Unavailable(
            f"the allowed-signers file cannot be read: {error.strerror}",
            where=str(path),
            remedy="Put one `ACCOUNT KEYTYPE KEY` a line there; see ssh-keygen(1), ALLOWED SIGNERS.",
        ) from None
    if not stat.S_ISREG(state.st_mode) or state.st_mode & 0o022 or state.st_uid not in (0, os.geteuid()):
        raise Unavailable(
            "the allowed-signers file could be written by others, so it proves nothing",
            where=str(path),
            remedy="It belongs to root or the appliance's account: chmod go-w.",
        )
