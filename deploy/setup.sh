#!/usr/bin/env bash
# Makes what Cloister needs to run from this checkout: a virtual environment from the hashed locks, the
# package itself, bubblewrap, on a CPU libnuma, with a GPU a C compiler and Python's headers, for the tests OpenSSH's
# client and tmux. Run twice, the second time installs nothing.
#
#   deploy/setup.sh [run|test|bench]      what for; each adds to the one before
set -euo pipefail
cd "$(dirname "$0")/.."
purpose=${1:-run}
venv=${VENV:-.venv}
torch_index=https://download.pytorch.org/whl/cpu

say() { printf 'set-up: %s\n' "$*" >&2; }
die() { printf 'set-up: %s\n' "$*" >&2; exit 1; }
. deploy/find_python.sh

# ensure WHAT DEBIAN FEDORA SUSE: a system package, by its name in each family.
ensure() {
  local what=$1 install
  if command -v apt-get >/dev/null; then install="apt-get install -y --no-install-recommends $2"
  elif command -v dnf >/dev/null; then install="dnf install -y $3"
  elif command -v zypper >/dev/null; then install="zypper --non-interactive install $4"
  else die "$what is missing and no known package manager was found: install it and run this again."; fi
  local as_root=''
  if [ "$(id -u)" != 0 ]; then
    if sudo -n true 2>/dev/null; then as_root='sudo -n'
    else die "$what is missing. Ask an administrator to run: $install"; fi
  fi
  say "installing $what: $install"
  if ! $as_root $install >/dev/null 2>&1; then
    if command -v apt-get >/dev/null; then $as_root apt-get update -q >/dev/null 2>&1 || true; fi
    $as_root $install >/dev/null || die "that failed. Run it by hand: $install"
  fi
}

has_library() { PATH="$PATH:/sbin:/usr/sbin" ldconfig -p | grep -F "$1" >/dev/null; }

install_locks() {
  local requirements=() name
  for name in "$@"; do requirements+=(-r "deploy/locks/$name.txt"); done
  "$venv/bin/pip" install -qq --no-input --no-deps --require-hashes "${requirements[@]}" && return
  [ "$backend" = cpu ] || die "the packages of deploy/locks could not be installed. Needed: an index with PyPI's packages."
  say "trying again with PyTorch's own index for the CPU build of torch"
  "$venv/bin/pip" install -qq --no-input --no-deps --require-hashes --extra-index-url "$torch_index" \
    "${requirements[@]}" ||
    die "the packages of deploy/locks could not be installed. Needed: an index with PyPI's packages, and
torch==2.13.0+cpu from it, from PIP_FIND_LINKS or from $torch_index."
}

backend=cpu
if [ -e /proc/driver/nvidia/version ]; then backend=cuda; fi
locks=("$backend")
case "$purpose" in
  run) ;;
  test) locks+=(test) ;;
  bench) locks+=(test bench) ;;
  *) die "unknown purpose '$purpose': run, test or bench" ;;
esac

command -v bwrap >/dev/null || ensure 'bubblewrap (bwrap)' bubblewrap bubblewrap bubblewrap
if [ "$backend" = cpu ]; then  # vLLM's CPU build links it
  has_library libnuma.so.1 || ensure libnuma libnuma1 numactl-libs libnuma1
fi
if [ "$purpose" != run ]; then  # approvals are signed as people do it, the console is tried in a real terminal
  command -v ssh-keygen >/dev/null || ensure ssh-keygen openssh-client openssh-clients openssh-clients
  command -v tmux >/dev/null || (ensure tmux tmux tmux tmux) || say 'going on without: what needs it is skipped'
fi
python=''
if [ ! -x "$venv/bin/python" ]; then
  python=$(find_python)
  say "making $venv with $("$python" --version)"
  "$python" -m venv "$venv"
fi

# What stands is written down by content, so that an unchanged lock installs nothing.
pending=()
for name in "${locks[@]}"; do
  if ! (cd deploy/locks && sha256sum --status -c "../../$venv/.lock-$name" 2>/dev/null); then pending+=("$name"); fi
done
if [ ${#pending[@]} -gt 0 ]; then
  say "installing ${pending[*]} from deploy/locks (a few minutes the first time)"
  install_locks "${pending[@]}"
  for name in "${pending[@]}"; do (cd deploy/locks && sha256sum "$name.txt" > "../../$venv/.lock-$name"); done
fi
if ! sha256sum --status -c "$venv/.package" 2>/dev/null; then
  say 'installing cloister from this checkout'
  "$venv/bin/pip" install -qq --no-input --no-deps --no-build-isolation --no-index --editable .
  sha256sum pyproject.toml > "$venv/.package"
fi
if [ "$backend" = cuda ]; then  # Triton compiles a launcher when an engine starts, with what no wheel brings
  lacking=$("$venv/bin/python" -P -c 'from cloister.compiler import missing; print(missing() or "")')
  version=$("$venv/bin/python" -P -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  [ -z "$lacking" ] || ensure "$lacking" "gcc libc6-dev python$version-dev" "gcc python$version-devel" \
    "gcc python${version/./}-devel"
fi
