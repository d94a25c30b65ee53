"""Commands of the command line that the console has done for it, as a child process.

What they need (the sandbox's checks, the ledger's copies) is so never loaded beside the screen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from cloister.errors import CloisterError, by_code

LONGEST_S = 600


def cloister(home: str, *arguments: str, longest_s: float = LONGEST_S) -> Any:
    """The JSON that a command on that home answers. Errors: as the command says them; CloisterError for no answer."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cloister.cli.main", *arguments, "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "CLOISTER_HOME": home},
        timeout=longest_s,
        check=False,
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise CloisterError(
            f"`cloister {arguments[0]}` gave no answer", remedy="Try it in a shell."
        ) from None
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        error = answer["error"]
        raise by_code(str(error.get("code")))(
            str(error.get("detail")), where=error.get("where"), remedy=error.get("remedy")
        )
    return answer
