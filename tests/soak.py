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
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
STATE = ROOT / ".soak" / "state.json"
REPORT = ROOT / "tests" / "SOAK.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-k", default="", help="only tests whose name contains this")
    parser.add_argument("--again", action="store_true", help="run also what has passed for this commit")
    arguments = parser.parse_args()
    commit = _run(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
    STATE.parent.mkdir(exist_ok=True)
    state = json.loads(STATE.read_text()) if STATE.exists() else {}
    tests = [name for name in _collect() if arguments.k in name]
    failed = 0
    for name in tests:
        before = state.get(name, {})
        if before.get("commit") == commit and before.get("outcome") == "passed" and not arguments.again:
            print(f"done before: {name}")
            continue
        print(f"soaking: {name}", flush=True)
        begin = time.monotonic()
        ended = _run([sys.executable, "-m", "pytest", "-q", "-s", "-m", "soak", "--timeout", "7200", name])
        outcome = "passed" if ended.returncode == 0 else "FAILED"
        failed += outcome == "FAILED"
        print(f"  {outcome} in {time.monotonic() - begin:.0f} s", flush=True)
        if outcome == "FAILED":
            print(ended.stdout[-4000:], ended.stderr[-2000:])
        state[name] = {
            "commit": commit,
            "outcome": outcome,
            "seconds": round(time.monotonic() - begin),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "figures": re.findall(r"^soak: (.+)$", ended.stdout, re.MULTILINE),
        }
        STATE.write_text(json.dumps(state, indent=1))
        _report(state)
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _collect() -> list[str]:
    listed = _run([sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "soak", "tests"])
    return [line for line in listed.stdout.splitlines() if "::" in line]


def _report(state: dict[str, dict[str, object]]) -> None:
    lines = [
        "# What the long tests said",
        "",
        "Written by `make soak`.",
        "",
        "| test | outcome | seconds | date | figures |",
    ]
    lines.append("|---|---|---|---|---|")
    for name, entry in sorted(state.items()):
        figures = "; ".join(map(str, entry["figures"])) if isinstance(entry["figures"], list) else ""
        lines.append(f"| {name} | {entry['outcome']} | {entry['seconds']} | {entry['date']} | {figures} |")
    REPORT.write_text("\n".join(lines) + "\n")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
