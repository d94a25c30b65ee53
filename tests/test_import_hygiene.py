"""Who loads what, in fresh interpreters: no torch outside the sandbox nor where rows are only moved; quick help."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "vllm")


@pytest.mark.parametrize(
    "module",
    [
        "cloister.cli.main",
        "cloister.cli.dataset",
        "cloister.cli.run",
        "cloister.cli.serve",
        "cloister.cli.audit",
        "cloister.client",
        "cloister.console.app",
        "cloister.console.plain",
        "cloister.embedded",
        "cloister.gateway.main",
        "cloister.launcher.main",
        "cloister.appliance.main",
        "cloister.vault",
        "cloister.ledger",
        "cloister.verifier",
        "cloister.sandbox",
        "cloister.demo.story",
        "cloister.worker.verbs.import_",
        "cloister.worker.verbs.base",
        "cloister.worker.verbs.forget",
        "cloister.worker.verbs.rotate",
        "cloister.worker.verbs.reveal",
        "cloister.worker.verbs.export",
        "cloister.targets",
    ],
)
def test_no_torch_where_no_model_is(module: str) -> None:
    code = f"import {module}, sys; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_verifier_stands_alone() -> None:
    code = (
        "import cloister.verifier, sys; "
        "print([m for m in sys.modules if m.startswith('cloister.') and m != 'cloister.verifier'])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_console_holds_neither_vault_nor_ledger_writer() -> None:
    """With every screen loaded, and the verifier that checks proofs there."""
    code = (
        "import sys, importlib, pkgutil, cloister.console as console\n"
        "for found in pkgutil.walk_packages(console.__path__, 'cloister.console.'):\n"
        "    importlib.import_module(found.name)\n"
        "import cloister.client, cloister.verifier\n"
        "rooms = ('vault', 'ledger', 'appliance', 'launcher', 'worker', 'policy', 'datasets', 'models', 'training')\n"
        f"print([m for m in sys.modules if m.startswith(tuple('cloister.' + r for r in rooms)) or m in {HEAVY!r}])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_help_loads_neither_the_client_nor_the_rooms() -> None:
    code = (
        "import sys; sys.argv = ['cloister', '--help']\n"
        "from cloister.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('httpx', 'pydantic', 'fastapi', 'sqlalchemy', 'cloister.client') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip().splitlines()[-1] == "[]"
