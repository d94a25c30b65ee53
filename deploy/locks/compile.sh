#!/usr/bin/env bash
# Compiles the hashed lock files from pyproject.toml. Needs uv (https://docs.astral.sh/uv/) and an index.
#
#   cpu.txt    the appliance on a machine without an NVIDIA driver
#   cuda.txt   the appliance on a machine with one
#   test.txt   what `make test` and `make check` add
#   bench.txt  what `make bench` adds: the software that Cloister is measured against
#
# What exclude.txt names is left out; installs therefore run with --no-deps.
set -euo pipefail
cd "$(dirname "$0")/../.."
locks=deploy/locks
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The CPU build of torch is not on every index: PyTorch publishes it on one of its own.
torch_source=(--extra-index-url https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match)
if [ -n "${PIP_FIND_LINKS:-}" ]; then torch_source=(--find-links "$PIP_FIND_LINKS"); fi

common=(--python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet)

compile() { uv pip compile pyproject.toml "${common[@]}" "$@"; }
pins() { grep -oE '^[A-Za-z0-9_.-]+==[^ ;\\]+' "$1"; }

{ cat "$locks/exclude.txt"; echo 'torch==2.13.0+cpu'; } > "$work/overrides-cpu.txt"
cpu=(--override "$work/overrides-cpu.txt" "${torch_source[@]}" --extra build --extra cpu)

compile "${cpu[@]}" -o "$work/cpu.txt"
pins "$work/cpu.txt" > "$work/cpu.pins"
compile "${cpu[@]}" -c "$work/cpu.pins" --extra test -o "$work/test.txt"
pins "$work/test.txt" > "$work/test.pins"
compile "${cpu[@]}" -c "$work/test.pins" --extra test --extra bench -o "$work/bench.txt"
compile --override "$locks/exclude.txt" --extra build --extra cuda -o "$work/cuda.txt"

# A lock adds to the one before it: keep what that one lacks.
python3 - "$work" <<'PY'
import pathlib, re, sys

work = pathlib.Path(sys.argv[1])

def blocks(name):
    text = (work / name).read_text()
    return {re.match(r"[A-Za-z0-9_.-]+", block).group().lower(): block
            for block in re.split(r"\n(?=[A-Za-z0-9])", text.strip()) if block.strip()}

cpu, test, bench = blocks("cpu.txt"), blocks("test.txt"), blocks("bench.txt")
for name, block in {**cpu, **blocks("cuda.txt"), **bench}.items():
    if "--hash=sha256:" not in block:
        sys.exit(f"{name} has no hash: the lock would not install")
(work / "bench.txt").write_text("\n".join(b for n, b in bench.items() if n not in test) + "\n")
(work / "test.txt").write_text("\n".join(b for n, b in test.items() if n not in cpu) + "\n")
PY

for name in cpu cuda test bench; do install -m 644 "$work/$name.txt" "$locks/$name.txt"; done
wc -l "$locks"/{cpu,cuda,test,bench}.txt
