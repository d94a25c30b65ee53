"""Starts what a systemd unit would, from its own lines: command, account, groups, umask, and what can be had without
systemd of its hardening (no new privileges, no capabilities, no memory that is writable and executable)."""

from __future__ import annotations

import ctypes
import grp
import pwd
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path

UNITS = Path("/etc/systemd/system")
_LIBC = ctypes.CDLL(None, use_errno=True)
_NO_NEW_PRIVS, _SET_MDWE = 38, 65


@dataclass(frozen=True)
class Unit:
    """The lines of a unit that say what is started, and how."""

    command: list[str]
    user: str
    group: str
    supplementary: list[str]
    umask: int
    hardened: dict[str, str]

    @classmethod
    def read(cls, name: str) -> Unit:
        lines = [line.partition("=") for line in (UNITS / name).read_text().splitlines() if "=" in line]
        known = {key: value for key, _, value in lines if not key.startswith("#")}
        return cls(
            command=known["ExecStart"].split(),
            user=known["User"],
            group=known["Group"],
            supplementary=known.get("SupplementaryGroups", "").split(),
            umask=int(known["UMask"], 8),
            hardened=known,
        )

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        """As its account. What it says goes to `log`."""
        deny_exec = self.hardened.get("MemoryDenyWriteExecute") == "yes"

        def harden() -> None:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if _LIBC.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "no new privileges")
            if deny_exec and _LIBC.prctl(_SET_MDWE, 1, 0, 0, 0) and ctypes.get_errno() != 22:
                raise OSError(ctypes.get_errno(), "memory: deny write and execute")

        groups = [grp.getgrnam(name).gr_gid for name in self.supplementary]
        account = pwd.getpwnam(self.user)
        with log.open("wb") as output:
            return subprocess.Popen(
                self.command,
                user=account.pw_uid,
                group=grp.getgrnam(self.group).gr_gid,
                extra_groups=groups,
                umask=self.umask,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG": "C.UTF-8"},
                preexec_fn=harden,
                start_new_session=True,
            )
