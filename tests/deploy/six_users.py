"""The whole path on an installed appliance by six people with a role each: run as root inside a fresh root.

    six_users.py CHECKOUT [--environment DIR | --wheelhouse DIR] [--rows N]

Prints one JSON object: what each step took, and what was seen. Ends with an error where anything
is not as it should be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from services import Unit

HOME = Path("/var/lib/cloister")
SETTINGS = Path("/etc/cloister/appliance.yaml")
PEOPLE = {
    "alice": "admin",
    "steve": "steward",
    "tina": "trainer",
    "abe": "approver",
    "olga": "operator",
    "audra": "auditor",
}
PASSPHRASE = "correct horse battery staple"
APPROVAL = re.compile(r"ap-[0-9a-z]{12}")


def root(*command: str, status: int = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def person(name: str, *command: str, status: int = 0, given: str = "", **env: str) -> str:
    """A command as somebody, in a session of their own with the groups that they have now."""
    account = pwd.getpwnam(name)
    done = subprocess.run(
        command,
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=os.getgrouplist(name, account.pw_gid),
        cwd=account.pw_dir,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": account.pw_dir, "LANG": "C.UTF-8", **env},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    shown = f"{name}: {' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
    assert done.returncode == status, shown
    return done.stdout + done.stderr


def cloister(name: str, *command: str, status: int = 0, given: str = "", **env: str) -> str:
    return person(name, "cloister", *command, status=status, given=given, **env)


class Story:
    """Steps, each with its time in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.seen: dict[str, Any] = {}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        print(f"· {name}", file=sys.stderr, flush=True)
        begin = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begin, 1)


def make_people() -> None:
    for name, role in PEOPLE.items():
        root("useradd", "--create-home", "--groups", f"cloister-{role}", name)
        Path(f"/home/{name}").chmod(0o700)
    person("abe", "mkdir", "-m", "700", ".ssh")
    person("abe", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ".ssh/id_ed25519")
    public = Path("/home/abe/.ssh/id_ed25519.pub").read_text()
    Path("/etc/cloister/allowed_signers").write_text(f'abe namespaces="cloister-approval" {public}')


def approved(story: Story, who: str, *command: str) -> None:
    """A command that needs an approval: asked for, refused to whoever asked, signed by the approver, given again."""
    said = cloister(who, *command, status=13)
    found = APPROVAL.search(said)
    assert found, said
    digest = json.loads(cloister("abe", "approval", "show", found[0], "--json"))["digest"]
    give = ("approval", "give", found[0], "--digest", digest, "--reason", "measured")
    cloister(who, *give, status=6)
    cloister("abe", *give, "--key", ".ssh/id_ed25519")
    cloister(who, *command)
    story.seen.setdefault("approvals", []).append(found[0])


def processes() -> dict[str, set[str]]:
    """Which accounts run which of our programs."""
    found: dict[str, set[str]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            for word in ("cloisterd", "cloister-launcher", "cloister-gateway", "bwrap"):
                if any(part.rpartition(b"/")[2] == word.encode() for part in words[:2]):
                    found.setdefault(word, set()).add(folder.owner())
    return found


def check_modes(story: Story) -> None:
    """Nothing of the home is open to others but the two sockets and what is public."""
    public = {"", "run", "ledger", "appliance.json", "appliance.yaml", "run/authority.sock", "run/side.sock"}
    loose, owners = [], {}
    for path in [HOME, *HOME.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):
            state = path.lstat()
            name = str(path.relative_to(HOME)) if path != HOME else ""
            owners[path.owner()] = owners.get(path.owner(), 0) + 1
            if state.st_mode & 0o007 and name not in public:
                loose.append(f"{name} {state.st_mode:o}")
    assert not loose, loose
    story.seen["files"] = owners
    for account in ("cloister-launcher", "cloister-gateway", *PEOPLE):
        for place in ("keys", "state", "ledger/control"):
            done = subprocess.run(
                ["ls", HOME / place],
                user=account,
                group=pwd.getpwnam(account).pw_gid,
                extra_groups=os.getgrouplist(account, pwd.getpwnam(account).pw_gid),
                capture_output=True,
                check=False,
            )
            assert done.returncode, f"{account} reads {place}"


def ask(url: str, key: str) -> str:
    code = (
        "import json, sys, httpx\n"
        "url, key = sys.stdin.read().split()\n"
        "answer = httpx.post(url + '/v1/chat/completions', headers={'Authorization': 'Bearer ' + key}, timeout=60,\n"
        "  json={'model': 'claims', 'max_tokens': 8, 'messages': [{'role': 'user', 'content': 'hello'}]})\n"
        "print(answer.status_code, len(answer.json().get('choices', [])))\n"
    )
    return person("olga", "/opt/cloister/venv/bin/python", "-c", code, given=f"{url} {key}").strip()


def rows(checkout: Path, count: int) -> bytes:
    """The demo's messages; or, with 0, ones that a handful of steps is enough for."""
    if count:
        sys.path.insert(0, str(checkout / "src"))
        from cloister.demo.claims import json_lines

        return b"".join(json_lines(count, 7))
    kinds = {"car": "motor", "roof": "home", "dog": "animal"}
    lines = []
    for number in range(120):
        word, kind = list(kinds.items())[number % 3]
        asked = {"role": "user", "content": f"Case {number}: my {word} was hurt. What kind is it?"}
        lines.append(json.dumps({"messages": [asked, {"role": "assistant", "content": kind}]}))
    return "\n".join(lines).encode()


def recipe(count: int) -> list[str]:
    """The demo's, or one that learns the simple rows in a few seconds."""
    if count:
        settings = {
            "rank": 32,
            "alpha": 64,
            "epochs": 5,
            "learning-rate": 0.003,
            "batch-size": 16,
            "max-length": 320,
        }
    else:
        settings = {"rank": 16, "epochs": 3, "learning-rate": 0.002, "batch-size": 8}
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


class Systemd:
    """A unit that systemd itself started, with the few things that are asked of a process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.returncode: int | None = None
        root("systemctl", "start", f"{name}.service")

    def terminate(self) -> None:
        root("systemctl", "stop", f"{self.name}.service")

    def wait(self, _timeout: float) -> None:
        shown = root("systemctl", "show", "-P", "ExecMainStatus", f"{self.name}.service")
        self.returncode = int(shown)


def start(name: str) -> Systemd | subprocess.Popen[bytes]:
    """By systemd where it runs, else as its unit says, with what can be had of it."""
    if Path("/run/systemd/system").is_dir():
        return Systemd(name)
    number = len(list(Path("/tmp").glob(f"{name}*.log")))
    return Unit.read(f"{name}.service").start(Path(f"/tmp/{name}{number}.log"))


def until(what: str, holds: Callable[[], bool]) -> None:
    """Wait until it holds; a command that fails meanwhile is asked again."""
    deadline = time.monotonic() + 180
    while True:
        with contextlib.suppress(AssertionError):
            if holds():
                return
        assert time.monotonic() < deadline, f"not within three minutes: {what}"
        time.sleep(0.3)


def all_run() -> bool:
    state = json.loads(cloister("alice", "status", "--json"))
    return all(one["state"] == "running" for one in state["processes"])


def walk(story: Story, checkout: Path, chosen: argparse.Namespace) -> None:
    environment = ["--environment", chosen.environment] if chosen.environment else []
    install = [str(checkout / "deploy" / "install.sh"), *environment]
    with story.step("install"):
        if chosen.wheelhouse:
            install += ["--wheelhouse", chosen.wheelhouse]
        first = root(*install)
        assert "done," in first
        assert "nothing to do" in root(*install)
    settings = SETTINGS.read_text()
    assert "  listen: 127.0.0.1:8421\n" in settings
    SETTINGS.write_text(settings.replace(":8421\n", ":0\n"))  # another appliance of this machine may have it
    make_people()
    running = {}
    try:
        with story.step("start"):
            for name in ("cloister-launcher", "cloisterd", "cloister-gateway"):
                running[name] = start(name)
            until("all three answer", all_run)
        with story.step("init"):
            assert "may not" in cloister("steve", "init", "--passphrase-fd", "0", given=PASSPHRASE, status=6)
            cloister("alice", "init", "--passphrase-fd", "0", given=PASSPHRASE)
        with story.step("data"):
            source = Path("/home/steve/claims.jsonl")
            source.write_bytes(rows(checkout, chosen.rows))
            source.chmod(0o600)
            os.chown(source, pwd.getpwnam("steve").pw_uid, -1)
            cloister("tina", "dataset", "import", "/etc/hostname", "--name", "mine", status=6)
            cloister(
                "steve", "dataset", "import", "claims.jsonl", "--name", "claims", "--class", "confidential"
            )
            source.unlink()
        with story.step("train"):
            base = checkout / "src" / "cloister" / "demo" / "base"
            cloister("tina", "base", "import", str(base), "--name", "small")
            cloister("steve", "run", "start", "-d", "claims", "-b", "small", "-n", "c1", status=6)
            cloister(
                "tina",
                *["run", "start", "-d", "claims", "-b", "small", "-n", "c1", "--watch"],
                *recipe(chosen.rows),
            )
            measured = json.loads(cloister("tina", "run", "show", "c1", "--json"))["evaluation"]
            story.seen["exact_match"] = [
                round(measured[which]["exact_match"], 3) for which in ("base", "tuned")
            ]
        with story.step("merge"):
            cloister("tina", "model", "merge", "c1", "--name", "c1")
        with story.step("serve"):
            approved(story, "olga", "serve", "start", "c1", "--name", "claims", "--max-model-len", "512")
            issued = json.loads(cloister("olga", "client", "issue", "desk", "--json"))
        with story.step("ask"):
            status = json.loads(cloister("olga", "status", "--json"))
            assert all(one["state"] == "running" for one in status["processes"]), status["processes"]
            until("an answer", lambda: ask(status["gateway_url"], issued["api_key"]) == "200 1")
            story.seen["sandbox"] = status["sandbox"]
        story.seen["accounts"] = {name: sorted(found) for name, found in processes().items()}
        check_modes(story)
        with story.step("restart of the authority"):
            running["cloisterd"].terminate()
            running["cloisterd"].wait(60)
            running["cloisterd"] = start("cloisterd")
            # What was deployed goes on answering while the authority is away, and while its vault is locked.
            assert ask(status["gateway_url"], issued["api_key"]) == "200 1"
            until("a locked vault", lambda: "LOCKED" in cloister("alice", "status"))
            assert ask(status["gateway_url"], issued["api_key"]) == "200 1"
            cloister("alice", "unlock", "--passphrase-fd", "0", given=PASSPHRASE)
        with story.step("verify"):
            cloister("audra", "audit", "export", "copy")
            found = json.loads(cloister("audra", "audit", "verify", "copy", "--json"))["ledgers"]
            story.seen["verified"] = {Path(one["folder"]).name: one["ok"] for one in found}
            cloister("abe", "audit", "verify")  # of a fresh copy: nobody may read the home's own files
            cloister("audra", "client", "revoke", "desk", status=6)
            cloister("olga", "client", "revoke", "desk")
            cloister("olga", "serve", "stop", "claims")
        with story.step("backup"):
            root("install", "-d", "-o", "cloister", "-g", "cloister-admin", "-m", "750", "/srv/backup")
            cloister(
                "alice", "backup", "/srv/backup", "--passphrase-fd", "0", given="a passphrase of its own"
            )
            assert list(Path("/srv/backup").rglob("*.age"))
            cloister("steve", "backup", "/srv", "--passphrase-fd", "0", given="another passphrase", status=6)
        with story.step("shred"):
            approved(story, "steve", "dataset", "shred", "claims", "--yes", "claims")
            assert not list((HOME / "objects" / "dataset").glob("*/*"))
    finally:
        for process in reversed(running.values()):
            process.terminate()
        for name, process in running.items():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            story.seen.setdefault("ended", {})[name] = process.returncode
    if chosen.keep:
        return
    with story.step("uninstall"):
        said = root(install[0], "--uninstall")
        assert "kept: /var/lib/cloister" in said and HOME.is_dir()
        assert "nothing of it is here" not in said
        root(install[0], "--uninstall", "--purge", status=1)  # nobody can be asked
        assert HOME.is_dir()
        root(install[0], "--uninstall", "--purge", "--yes")
        assert not HOME.exists() and not Path("/etc/cloister").exists()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("checkout", type=Path)
    options.add_argument("--environment")
    options.add_argument("--wheelhouse")
    options.add_argument("--keep", action="store_true", help="leave it installed")
    options.add_argument("--rows", type=int, default=0)
    chosen = options.parse_args()
    story = Story()
    try:
        walk(story, chosen.checkout, chosen)
    except BaseException:
        for log in sorted(Path("/tmp").glob("*.log")):
            print(f"--- {log}\n{log.read_text()[-3000:]}", file=sys.stderr)
        raise
    print(json.dumps({"seconds": story.seconds, **story.seen}))


if __name__ == "__main__":
    main()
