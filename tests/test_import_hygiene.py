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


def test_help_loads_neither_the_client_nor_the_rooms() -> None:
    code = (
        "import sys; sys.argv = ['cloister', '--help']\n"
        "from cloister.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('httpx', 'pydantic', 'fastapi', 'sqlalchemy', 'cloister.client') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip().splitlines()[-1] == "[]"
