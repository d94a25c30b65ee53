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
    """With every screen loaded, whatever those load only when it is needed, and the verifier that checks proofs."""
    code = (
        "import ast, sys, importlib, pkgutil, inspect, cloister.console as console\n"
        "wanted = {'cloister.client', 'cloister.verifier', 'cloister.cli.opening', 'cloister.cli.session'}\n"
        "for found in pkgutil.walk_packages(console.__path__, 'cloister.console.'):\n"
        "    wanted.add(found.name)\n"
        "    tree = ast.parse(inspect.getsource(importlib.import_module(found.name)))\n"
        "    only_typed = [n for n in ast.walk(tree) if isinstance(n, ast.If) and 'CHECKING' in ast.unparse(n.test)]\n"
        "    known = {id(one) for node in only_typed for one in ast.walk(node)}\n"
        "    for node in ast.walk(tree):\n"
        "        if isinstance(node, ast.ImportFrom) and id(node) not in known and node.module.startswith('clo'):\n"
        "            wanted |= {node.module, *(f'{node.module}.{one.name}' for one in node.names)}\n"
        "for name in sorted(wanted):\n"
        "    try: importlib.import_module(name)\n"
        "    except ModuleNotFoundError: pass  # a word of the module\n"
        "rooms = ('vault', 'ledger', 'appliance', 'launcher', 'worker', 'policy', 'datasets', 'models', 'training')\n"
        "assert 'cloister.evaluation.table' in sys.modules and 'cloister.recipes' in sys.modules\n"
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
