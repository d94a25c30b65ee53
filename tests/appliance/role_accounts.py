"""Accounts of the system made for a test, one a role, and an appliance that they share."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Appliance

from cloister import embedded
from cloister.client import Client
from cloister.home import Home
from cloister.policy.cedar import ROLES
from cloister.policy.table import COLUMNS

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="making accounts takes root")
GROUP = f"clt{os.getpid()}-{{}}"


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def made_accounts(more: Mapping[str, Sequence[str]] | None = None) -> Iterator[dict[str, str]]:
    """An account for each role, one for none, and `more` in the groups of those roles; gone afterwards."""
    made: dict[str, str] = {}
    try:
        for role in ROLES:
            run("groupadd", "--force", GROUP.format(role))
        for name, groups in {**{role: [role] for role in COLUMNS}, **(more or {})}.items():
            account = GROUP.format(name)[:31] + "-u"
            joined = ",".join(GROUP.format(group) for group in groups if group != "none")
            run(
                "useradd",
                "--no-create-home",
                "--no-user-group",
                *(["--groups", joined] if joined else []),
                account,
            )
            made[name] = account
        yield made
    finally:
        for account in made.values():
            run("userdel", account)
        for role in ROLES:
            run("groupdel", GROUP.format(role))


@contextmanager
def shared_appliance(**settings: Any) -> Iterator[Appliance]:
    """An appliance with roles, whose sockets other accounts can reach."""
    root = Path(tempfile.mkdtemp(prefix="rl"))
    root.chmod(0o711)
    home = Home(root / "home")
    home.root.mkdir()
    roles = {role: GROUP.format(role) for role in ROLES}
    home.settings_file.write_text(json.dumps({"access": {"roles": roles}, **settings}))
    embedded.start(home, gateway=False)
    try:
        yield Appliance(home, Client(home.authority_socket))
    finally:
        embedded.stop(home)
        shutil.rmtree(root)


def as_account(account: str, work: Callable[[], Any]) -> Any:
    """What `work` gives in a process of that account, with its groups, and nothing of ours."""
    return as_accounts([(account, work)])[0]


def as_accounts(works: Sequence[tuple[str, Callable[[], Any]]]) -> list[Any]:
    """What each gives in a process of its account, all at once."""
    begun = [_begun(account, work) for account, work in works]
    told = []
    for pid, reading in begun:
        with os.fdopen(reading, "rb") as answers:
            told.append((answers.read(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    assert not any(status for _, status in told)
    return [json.loads(answer) for answer, _ in told]


def _begun(account: str, work: Callable[[], Any]) -> tuple[int, int]:
    """The process, and where it writes its answer."""
    entry = pwd.getpwnam(account)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.initgroups(account, entry.pw_gid)
            os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
            os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
            answer = json.dumps(work()).encode()
            while answer:
                answer = answer[os.write(writing, answer) :]
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    return pid, reading
