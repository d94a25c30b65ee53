"""The command line over one home, as an operator types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cloister.home import Home

CLOISTER = str(Path(sys.executable).parent / "cloister")


class Shell:
    """Runs `cloister` over one home."""

    def __init__(self, home: Path) -> None:
        self.home = Home(home)

    def __call__(self, *arguments: str, stdin: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CLOISTER_HOME": str(self.home.root), "COLUMNS": "80"}
        done = subprocess.run(
            [CLOISTER, *arguments], input=stdin, capture_output=True, text=True, env=environment, timeout=1200
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str, stdin: str = "", code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", stdin=stdin, code=code).stdout.splitlines()[-1])

    def settings(self, *lines: str) -> None:
        text = "\n".join(("gateway:", "  listen: 127.0.0.1:0", *lines))
        self.home.settings_file.write_text(f"{text}\n")
