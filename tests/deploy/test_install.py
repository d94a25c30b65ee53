"""The installer and its units: in a fresh root, by their own command lines, under their own accounts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister import __version__

CHECKOUT = Path(__file__).parents[2]
DEPLOY = CHECKOUT / "deploy"
HERE = Path(__file__).parent
UNITS = ("cloisterd", "cloister-gateway", "cloister-launcher")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a fresh root and its accounts take root")


def in_fresh_root(*command: str, lower: str = "/", timeout: int = 900) -> subprocess.CompletedProcess[str]:
    """Run a command in a root of its own, with this checkout and this Python shown in it."""
    folders = {CHECKOUT, Path(sys.base_prefix), Path(sys.prefix)}
    shown = {str(folder) for folder in folders if not folders & set(folder.parents)}
    return subprocess.run(
        [str(HERE / "enter_root.sh"), lower, *command],
        env={**os.environ, "SHOWN": ":".join(sorted(shown))},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
@pytest.mark.parametrize(
    ("unit", "bound"), [("cloisterd", 2.0), ("cloister-gateway", 2.0), ("cloister-launcher", 4.0)]
)
def test_a_unit_is_as_closed_as_the_handbook_says(unit: str, bound: float) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", DEPLOY / "systemd" / f"{unit}.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"exposure level for .*: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= bound


def test_the_handbook_names_every_directive() -> None:
    handbook = (DEPLOY / "handbook.md").read_text()
    missing = set()
    for unit in UNITS:
        for line in (DEPLOY / "systemd" / f"{unit}.service").read_text().splitlines():
            name, equals, _ = line.partition("=")
            if equals and not line.startswith("#") and f"`{name}" not in handbook:
                missing.add(name)
    assert missing <= {
        "Description",
        "Documentation",
        "After",
        "Wants",
        "PartOf",
        "WantedBy",
        "Type",
        "ExecStart",
    }


def test_the_node_that_cuda_would_make_is_made_before_nobody_can() -> None:
    lines = (DEPLOY / "systemd" / "cloister-launcher.service").read_text().splitlines()
    assert "NoNewPrivileges=yes" in lines  # holds for CUDA's setuid program, in sandboxes too
    made = next(line for line in lines if "nvidia-modprobe" in line and not line.startswith("#"))
    # As root, and no fault where there is no such program: `-u -c 0` is /dev/nvidia-uvm alone.
    assert made == "ExecStartPre=-+/usr/bin/nvidia-modprobe -u -c 0"


@needs_root
@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["--wheelhouse"], ["--purge"], ["--wheelhouse", "/nowhere"]]
)
def test_what_it_does_not_understand_it_does_not_do(arguments: list[str]) -> None:
    before = Path("/var/lib/cloister").exists()
    done = subprocess.run(
        [str(DEPLOY / "install.sh"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1 and done.stderr.startswith("install: ")
    assert Path("/var/lib/cloister").exists() == before


@needs_root
@pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemd is not installed here")
def test_twice_changes_nothing_and_taking_it_away_keeps_the_data() -> None:
    script = f"""
set -e
install={DEPLOY}/install.sh
$install --environment {sys.prefix} > first
tail -n 8 first | grep -q 'done,'
$install --environment {sys.prefix} | grep -q 'nothing to do'
systemd-analyze verify /etc/systemd/system/cloister*.service /etc/systemd/system/cloister.target
echo kept > /var/lib/cloister/keys/thing
echo '# mine' >> /etc/cloister/appliance.yaml
chmod 777 /var/lib/cloister/keys
chown root /var/lib/cloister/work
$install --environment {sys.prefix} | grep -c 'install: folder'
stat -c '%a %U' /var/lib/cloister/keys
# A set that is still as an older version shipped it follows; one that was changed here stays.
mine=/etc/cloister/policies
rm $mine/exports.cedar
(cd $mine; find . -type f ! -name .shipped -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) | sha256sum > all
cut -d' ' -f1 all > shipped
cp shipped $mine/.shipped
$install --environment {sys.prefix} | grep 'policies: '
ls $mine/exports.cedar
echo '// mine' >> $mine/exports.cedar
echo old > $mine/.shipped
$install --environment {sys.prefix} | grep -e 'policies: ' -e changed
$install --environment {sys.prefix} | grep -c 'nothing to do'
tail -n 1 $mine/exports.cedar
tail -n 1 /etc/cloister/appliance.yaml
$install --environment {sys.prefix} --repair > repaired
stat -c '%a %U %G' /var/lib/cloister/keys/thing
setpriv --reuid=cloister --regid=cloister --clear-groups sleep 600 &
until grep -q sleep /proc/$!/comm; do sleep 0.05; done
$install --uninstall 2> refused && exit 1
grep -q 'stop the service first' refused
test -e /opt/cloister -a -e /etc/systemd/system/cloisterd.service
kill $!
wait $! || true
$install --uninstall | tail -n 1
test ! -e /opt/cloister -a ! -e /usr/local/bin/cloister -a ! -e /etc/systemd/system/cloisterd.service
cat /var/lib/cloister/keys/thing
$install --uninstall --purge </dev/null && exit 1
$install --uninstall --purge --yes > gone
getent passwd cloister || test ! -e /var/lib/cloister -a ! -e /etc/cloister
$install --uninstall
"""
    done = in_fresh_root("bash", "-c", f"cd /tmp\\n{script}".replace("\\n", "\n"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "2",
        "700 cloister",
        "install: policies: /etc/cloister/policies",
        "/etc/cloister/policies/exports.cedar",
        "install: policies: /etc/cloister/policies.new",
        "install: /etc/cloister/policies was changed here and stays; the set that ships now lies beside it",
        "1",
        "// mine",
        "# mine",
        "600 cloister cloister",
        "install: kept: /var/lib/cloister, /etc/cloister and the accounts (--purge destroys them)",
        "kept",
        "install: nothing of it is here",
    ]
    assert "Unknown" not in done.stderr and "give --yes" in done.stderr


@pytest.fixture
def seen() -> Iterator[Path]:
    """A folder that a fresh root shows too."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


SMALL = (
    *("annotated-doc", "click", "markdown-it-py", "mdurl", "pygments", "rich", "shellingham", "typer"),
    *("typing-extensions", "editables", "hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers"),
)
"""What `cloister --version` and the build of the package take, of the packages that a lock has."""


@needs_root
@pytest.mark.soak
@pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemd is not installed here")
def test_from_a_wheelhouse_without_a_network_and_from_the_index(seen: Path) -> None:
    """Both ways to the program, with a lock that is cut down to what starts: the whole one takes minutes."""
    checkout, wheels = seen / "checkout", seen / "wheels"
    for name in ("src", "policies", "deploy"):
        shutil.copytree(CHECKOUT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, checkout)
    for backend in ("cpu", "cuda"):
        lock = checkout / "deploy" / "locks" / f"{backend}.txt"
        blocks = re.split(r"^(?=[a-z0-9])", lock.read_text(), flags=re.MULTILINE)
        lock.write_text("".join(block for block in blocks if block.partition("==")[0] in SMALL))
    fetch = ["download", "-q", "--no-deps", "--require-hashes", "--only-binary", ":all:", "-d", str(wheels)]
    fetched = subprocess.run(
        [sys.executable, "-m", "pip", *fetch, "-r", str(checkout / "deploy" / "locks" / "cpu.txt")],
        capture_output=True,
        check=False,
    )
    if fetched.returncode:
        pytest.skip("no index of packages is within reach")
    script = f"""
set -e
install={checkout}/deploy/install.sh
off="unshare --net"
$off $install --wheelhouse {wheels} > first
grep 'program:' first
/opt/cloister/venv/bin/cloister --version
$off $install --wheelhouse {wheels}
echo '# newer' >> {checkout}/src/cloister/errors.py
$off $install --wheelhouse {wheels} | grep -e program: -e done
tail -n 1 /opt/cloister/venv/lib/python3.*/site-packages/cloister/errors.py
rm {wheels}/typer-*
echo '# again' >> {checkout}/src/cloister/errors.py
rm -r /opt/cloister/venv
$off $install --wheelhouse {wheels} 2>&1 >/dev/null | grep '^install:'
$install > last
grep 'program:' last
/opt/cloister/venv/bin/cloister --version
$install
"""
    done = in_fresh_root("bash", "-c", f"cd /tmp\n{script}".replace("\\n", "\n"))
    assert done.returncode == 0, done.stdout + done.stderr
    program, nothing = (
        "install: program: /opt/cloister/venv",
        "install: nothing to do: everything is as it should be",
    )
    version = __version__
    said = [line for line in done.stdout.splitlines() if "WARNING" not in line]  # of where this Python lies
    assert said == [
        *(program, version, nothing),
        *(program, "install: done, 1 changes", "# newer"),
        "install: these packages could not be installed. Without a network, prepare a wheelhouse elsewhere:",
        *(program, version, nothing),
    ]
    print(f"soak: packages={len(list(wheels.glob('*.whl'))) + 1}")


def test_the_handbooks_table_of_folders_is_the_installers() -> None:
    handbook = (DEPLOY / "handbook.md").read_text().split("What lies where.")[1].split("Unlocking at boot")[0]
    script = (DEPLOY / "install.sh").read_text()
    listed = script.split("<<'END'\n")[1].split("END\n")[0]
    for line in listed.splitlines():
        mode, owner, group, path = line.split()
        if path in (".", "run", "ledger", "ledger/gateway/cosigned"):
            continue
        row = next(
            row for row in handbook.splitlines() if row.startswith("| `") and f"`{path}`" in row.split("|")[1]
        )
        assert row.split("|")[2].strip() == mode, path
        owners = row.split("|")[3].strip()
        assert (
            owners == (owner if owner == group else f"{owner}, {group}") or owners == f"{owner}, {group}"
        ), path


@needs_root
@pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemd is not installed here")
def test_root_follows_no_link_that_a_broken_in_account_planted() -> None:
    script = f"""
set -e
install={DEPLOY}/install.sh
$install --environment {sys.prefix} > first
echo secret > /root/precious
chmod 600 /root/precious
mkdir -m 700 /root/folder
home=/var/lib/cloister
ln -sf /root/precious $home/appliance.json
ln -s /root/folder $home/state/link
ln -s /root/precious $home/keys/link
$install --environment {sys.prefix} --repair > repaired
stat -c '%a %U' /root/precious /root/folder
rm $home/appliance.yaml
echo 'sandbox: none' > $home/appliance.yaml
ln -s /etc/cloister $home/appliance.yaml.before-service
$install --environment {sys.prefix} | grep -c 'settings of its own'
grep -c '^sandbox: required' /etc/cloister/appliance.yaml
rm -r $home/run/engines
ln -s /root/folder $home/run/engines
$install --environment {sys.prefix} 2>&1 | tail -n 1
stat -c '%a %U' /root/folder
rm $home/run/engines
setpriv --reuid cloister --regid cloister --clear-groups sleep 600 &
until grep -q sleep /proc/$!/comm; do sleep 0.05; done
$install --environment {sys.prefix} 2>&1 | tail -n 1 | cut -c 1-60
"""
    done = in_fresh_root("bash", "-c", f"cd /tmp\n{script}".replace("\\n", "\n"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "600 root",
        "700 root",
        "1",
        "1",
        "install: /var/lib/cloister/run/engines is a symbolic link; a folder belongs there",
        "700 root",
        "install: /var/lib/cloister/run/engines is not as it should b",
    ]


def check(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What six people with a role each have seen."""
    assert done.returncode == 0, done.stderr[-8000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["accounts"] == {
        "bwrap": ["cloister-launcher"],
        "cloister-gateway": ["cloister-gateway"],
        "cloister-launcher": ["cloister-launcher"],
        "cloisterd": ["cloister"],
    }
    assert seen["sandbox"] == "bubblewrap"
    assert len(seen["approvals"]) == 2
    base, tuned = seen["exact_match"]
    assert base < 0.3 and tuned > 0.8
    assert set(seen["ended"].values()) == {0}
    assert seen["verified"] == {"control": True, "gateway": True}
    return seen


@needs_root
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemd is not installed here")
def test_six_people_with_a_role_each_walk_the_whole_path() -> None:
    script = str(HERE / "six_users.py")
    check(in_fresh_root(sys.executable, script, str(CHECKOUT), "--environment", sys.prefix))


@needs_root
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_six_people_walk_the_demos_path_on_a_bare_debian(tmp_path: Path) -> None:
    """On a root that debootstrap made, or the one that CLOISTER_TEST_ROOT names; with the demo's data and recipe."""
    named = os.environ.get("CLOISTER_TEST_ROOT")
    lower = Path(named) if named else tmp_path / "debian"
    if named is None:
        if shutil.which("debootstrap") is None:
            pytest.skip("debootstrap is not installed here, and CLOISTER_TEST_ROOT names no root")
        packages = "python3,python3-venv,bubblewrap,libnuma1,systemd,openssh-client,passwd"
        command = ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(lower)]
        subprocess.run(command, check=True, capture_output=True)
    script = str(HERE / "six_users.py")
    options = ("--environment", sys.prefix, "--rows", "1500")
    seen = check(
        in_fresh_root(sys.executable, script, str(CHECKOUT), *options, lower=str(lower), timeout=3000)
    )
    base, tuned = seen["exact_match"]
    print(f"soak: exact_match={base}/{tuned} seconds={sum(seen['seconds'].values()):.0f}")
