# For install.sh and setup.sh, which read it: find_python prints the Python to use, or ends with `die`.

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
    if command -v "$candidate" >/dev/null &&
       "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
    then echo "$candidate"; return; fi
  done
  die 'Python 3.11 or 3.12 with venv is needed. On Debian or Ubuntu: apt-get install python3 python3-venv'
}
