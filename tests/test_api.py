"""The words of the sockets: each is had from `cloister.api`, and a process builds only those that it speaks."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from cloister import api

MODULES = sorted(path for path in Path(api.__file__).parent.glob("*.py") if path.stem != "__init__")


def defined_in(path: Path) -> set[str]:
    """Public names that the file defines at its top; what it imports is not among them."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_word_of_a_module_is_had_from_the_package(path: Path) -> None:
    module = import_module(f"cloister.api.{path.stem}")
    assert {
        name for name in defined_in(path) if getattr(api, name, None) is not getattr(module, name)
    } == set()


def test_the_package_has_the_words_of_its_modules_and_no_others() -> None:
    assert sorted(api.__all__) == sorted(name for path in MODULES for name in defined_in(path))
    with pytest.raises(AttributeError, match="Runn"):
        _ = api.Runn  # type: ignore[attr-defined]


def test_the_launcher_builds_no_document_of_runs_or_datasets() -> None:
    code = "import cloister.launcher.main, sys; print(sorted(m for m in sys.modules if m.startswith('cloister.api.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "cloister.api.launcher" in loaded
    assert not {f"cloister.api.{subject}" for subject in ("runs", "datasets", "policy")} & set(
        ast.literal_eval(loaded)
    )
