"""An account without any privilege builds the same sandbox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cloister

CODE = """
import json, os, sys
from pathlib import Path
from cloister.api import Mount, SandboxSpec
from cloister.sandbox import PythonPaths, spawn_sandbox
site, package, out = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
python = PythonPaths(Path("/usr/bin/python3"), (site, package), (site, package.parent))
spec = SandboxSpec(sandbox_id="jb-000000000001", program="worker", tmp_mib=16, shm_mib=8,
                   mounts=(Mount(source=out, inside="/out", writable=True),))
inside = '''
import json, os
from cloister.sandbox import harden_process, self_check
from cloister.api import SelfCheckConfig
harden_process()
open("/out/made", "w").write("x")
told = self_check(SelfCheckConfig())
print(json.dumps([os.getuid(), told["failed"]]))
'''
spawned = spawn_sandbox(spec, stdin=0, stdout=1, stderr=2, python=python,
                        program=["/usr/bin/python3", "-P", "-c", inside])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(spawned.pid, 0)[1]))
"""


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root to change account"
)
def test_every_check_holds_for_an_ordinary_user() -> None:
    site = next(path for path in sys.path if path.endswith("site-packages"))
    package = Path(cloister.__file__).parent
    system = subprocess.run(["/usr/bin/python3", "--version"], capture_output=True, text=True).stdout
    if system.split()[1:2] == [] or not system.split()[1].startswith(
        f"{sys.version_info[0]}.{sys.version_info[1]}."
    ):
        pytest.skip("the system's Python is another version")
    home = Path("/tmp", f"cloister-user-{os.urandom(4).hex()}")
    home.mkdir()
    os.chown(home, 12345, 12345)
    try:
        ran = subprocess.run(
            [
                *("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", "--inh-caps=-all"),
                *("/usr/bin/python3", "-c", CODE, site, str(package), str(home)),
            ],
            env={
                "PYTHONPATH": f"{site}:{package.parent}",
                "PATH": "/usr/bin:/bin",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        if "Permission denied" in ran.stderr and "cloister" not in ran.stdout and ran.returncode == 1:
            pytest.skip("this checkout cannot be read by other accounts")
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout) == [1000, []]
        assert (home / "made").stat().st_uid == 12345
    finally:
        shutil.rmtree(home)
