# The README's two commands are `make demo` and `make test`; the others are for those who work on Cloister.
# Each makes what it needs first (deploy/setup.sh); a second call installs nothing.

VENV ?= .venv
BIN := $(VENV)/bin
export VENV
export HF_HUB_OFFLINE := 1
# Tests run beside engines and workers: waiting threads must not take their cores.
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 20000
PYTEST := $(BIN)/python -m pytest

.PHONY: help demo console test check bench soak locks setup clean

help:
	@echo 'make demo    the whole path on made-up data: sealed, fine-tuned, measured, merged, served, audited'
	@echo 'make console the console over the home that a demo left; without one the demo runs first'
	@echo 'make test    every test, the quick ones first'
	@echo 'make check   ruff, mypy --strict, import-linter'
	@echo 'make bench   the benchmarks, each with its ratio'
	@echo 'make soak    the long forms of the tests: kills, fuzzing, big data (resumable)'
	@echo 'make locks   compile deploy/locks from pyproject.toml (needs uv)'

setup:
	@deploy/setup.sh run

demo: setup
	@$(BIN)/cloister demo $(ARGS)

# The newest home of this account that `cloister demo --keep` left, and its passphrase, said at the end of the demo.
DEMO_HOME = find $${TMPDIR:-/tmp} -maxdepth 2 -path '*/cloister-demo-*/home' -user $$(id -un) -printf '%T@ %p\n' \
	2>/dev/null | sort -rn | head -n 1 | cut -d ' ' -f 2
DEMO_PASSPHRASE := claims desk demo

console: setup
	@test -d "$$($(DEMO_HOME))" || $(BIN)/cloister demo --keep
	@echo '$(DEMO_PASSPHRASE)' | CLOISTER_HOME="$$($(DEMO_HOME))" $(BIN)/cloister unlock --passphrase-fd 0 || true
	@CLOISTER_HOME="$$($(DEMO_HOME))" $(BIN)/cloister console
	@echo 'The passphrase of this home, should it be locked: $(DEMO_PASSPHRASE)'

test:
	@deploy/setup.sh test
	$(PYTEST) -q -n 3 --dist loadfile -m 'not slow and not soak' $(ARGS)
	$(PYTEST) -q -n 2 --dist loadfile -m 'slow and not soak' $(ARGS)

check:
	@deploy/setup.sh test
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench:
	@deploy/setup.sh bench
	$(BIN)/python tests/benchmarks/run.py $(ARGS)

soak:
	@deploy/setup.sh test
	$(BIN)/python tests/soak.py $(ARGS)

locks:
	deploy/locks/compile.sh

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
