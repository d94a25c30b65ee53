"""The long forms of the tests: every test marked `soak`, one process each, resumable, results recorded.

What passed for this commit is not run again: a soak that was cut off goes on where it stopped. Figures that a
test prints as `soak: name=value` are kept with it. Results are in tests/SOAK.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
STATE = ROOT / ".soak" / "state.json"
REPORT = ROOT / "tests" / "SOAK.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-k", default="", help="only tests whose name contains this")
    parser.add_argument("-j", type=int, default=1, help="how many at a time (default: 1)")
    parser.add_argument("--again", action="store_true", help="run also what has passed for this commit")
    arguments = parser.parse_args()
    book = _Book(_run(["git", "rev-parse", "--short", "HEAD"]).stdout.strip())
    tests = [name for name in _collect() if arguments.k in name]
    with ThreadPoolExecutor(max(1, arguments.j)) as pool:
        ended = list(pool.map(lambda name: book.passed(name, again=arguments.again), tests))
    print(f"{sum(ended)} passed, {len(ended) - sum(ended)} failed")
    return 0 if all(ended) else 1


class _Book:
    """What each test said last, kept after every one of them."""

    def __init__(self, commit: str) -> None:
        self._commit = commit
        self._lock = threading.Lock()
        STATE.parent.mkdir(exist_ok=True)
        self._state: dict[str, dict[str, object]] = json.loads(STATE.read_text()) if STATE.exists() else {}

    def passed(self, name: str, *, again: bool) -> bool:
        """Run the test, unless it has passed for this commit, and write down what came of it."""
        before = self._state.get(name, {})
        if before.get("commit") == self._commit and before.get("outcome") == "passed" and not again:
            print(f"done before: {name}")
            return True
        print(f"soaking: {name}", flush=True)
        begin = time.monotonic()
        ended = _run([sys.executable, "-m", "pytest", "-q", "-s", "-m", "soak", "--timeout", "7200", name])
        seconds = round(time.monotonic() - begin)
        outcome = "passed" if ended.returncode == 0 else "FAILED"
        print(f"  {outcome} in {seconds} s: {name}", flush=True)
        if outcome == "FAILED":
            print(ended.stdout[-4000:], ended.stderr[-2000:])
        with self._lock:
            self._state[name] = {
                "commit": self._commit,
                "outcome": outcome,
                "seconds": seconds,
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "figures": re.findall(r"^soak: (.+)$", ended.stdout, re.MULTILINE),
            }
            STATE.write_text(json.dumps(self._state, indent=1))
            _report(name, self._state[name])
        return outcome == "passed"


def _collect() -> list[str]:
    listed = _run([sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "soak", "tests"])
    return [line for line in listed.stdout.splitlines() if "::" in line]


def _report(name: str, entry: dict[str, object]) -> None:
    """Put one test's line into the report; what others said stays, whoever ran them."""
    kept = REPORT.read_text().splitlines() if REPORT.exists() else []
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in kept if line.startswith("| tests/")}
    figures = "; ".join(map(str, entry["figures"])) if isinstance(entry["figures"], list) else ""
    lines[name] = f"| {name} | {entry['outcome']} | {entry['seconds']} | {entry['date']} | {figures} |"
    head = ["# What the long tests said", "", "Written by `make soak`.", ""]
    head += ["| test | outcome | seconds | date | figures |", "|---|---|---|---|---|"]
    REPORT.write_text("\n".join([*head, *(lines[one] for one in sorted(lines))]) + "\n")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
