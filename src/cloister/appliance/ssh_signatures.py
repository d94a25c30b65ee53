"""SSH signatures on approvals, checked by OpenSSH's own `ssh-keygen -Y verify`. Keys stay with their owners.

Knows documents, signatures and the allowed-signers file; not what is approved.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from cloister.api import APPROVAL_NAMESPACE
from cloister.errors import Unauthenticated, Unavailable
from cloister.sandbox import memory_file

LIMIT_S = 10.0
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
