"""Runs every benchmark beside it, one at a time, and prints each claim's ratio once more at the end.

Each `bench_<what>.py` runs both sides in one go and ends with one JSON object on its last line. Names on
the command line choose: `make bench ARGS='vault ledger'`. `--record` writes the figures to RESULTS.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="such as vault or gateway; all unless given")
    parser.add_argument("--record", action="store_true", help="write the figures to RESULTS.md")
    arguments = parser.parse_args()
    scripts = sorted(FOLDER.glob("bench_*.py"))
    wanted = [
        path for path in scripts if not arguments.names or path.stem.removeprefix("bench_") in arguments.names
    ]
    results: dict[str, dict[str, Any]] = {}
    failed = []
    for path in wanted:
        name = path.stem.removeprefix("bench_")
        print(f"== {name}", flush=True)
        process = subprocess.Popen(
            [sys.executable, str(path)], stdout=subprocess.PIPE, text=True, cwd=FOLDER.parents[1]
        )
        last = ""
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line if line.strip() else last
        try:
            results[name] = json.loads(last)
        except ValueError:
            results[name] = {}
        if process.wait() != 0 or not results[name]:
            failed.append(name)
    if arguments.record:
        _record(results)
    print("\n== all", flush=True)
    for name, figures in results.items():
        for figure, value in _flat(figures):
            print(f"{name:10} {figure:58} {value}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _flat(figures: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(figures, dict):
        return [
            row
            for key, value in figures.items()
            for row in _flat(value, f"{prefix}.{key}" if prefix else key)
        ]
    if isinstance(figures, list):
        return [row for index, value in enumerate(figures) for row in _flat(value, f"{prefix}[{index}]")]
    return [(prefix, f"{figures:.4g}" if isinstance(figures, float) else str(figures))]


def _record(results: dict[str, dict[str, Any]]) -> None:
    """Put each benchmark's section into RESULTS.md; those that did not run this time stay as they are."""
    path = FOLDER / "RESULTS.md"
    _, *kept = path.read_text().split("\n## ") if path.exists() else [""]
    sections = {section.split("\n", 1)[0]: section.split("\n", 1)[1].strip() for section in kept}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    for name, figures in results.items():
        if figures:
            lines = [f"{today}, {_machine()}.", "", "| figure | value |", "|---|---|"]
            sections[name] = "\n".join(
                lines + [f"| {figure} | {value} |" for figure, value in _flat(figures)]
            )
    told = "Each was printed by `make bench`, both sides in one run. `make bench ARGS=--record` writes them."
    written = ["# Figures", told, *(f"## {name}\n\n{section}" for name, section in sorted(sections.items()))]
    path.write_text("\n\n".join(written) + "\n")


def _machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {platform.release()}"


if __name__ == "__main__":
    sys.exit(main())
