"""What Triton compiles its launcher with: what is missing is named, before Triton ends a run for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from triton.runtime import build

from cloister import compiler


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    places, headers = tmp_path / "bin", tmp_path / "include"
    for folder in (places, headers):
        folder.mkdir()
    assert compiler.missing(str(places), headers) == "a C compiler"
    program = places / "clang"
    program.touch(0o755)
    assert str(headers / "Python.h") in (compiler.missing(str(places), headers) or "")
    (headers / "Python.h").touch()
    assert compiler.missing(str(places), headers) is None


def test_triton_asks_for_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="C compiler"):
        build._build("launcher", "launcher.c", str(tmp_path), [], [], [], [])
    arguments = tmp_path / "arguments"
    program = tmp_path / "gcc"
    program.write_text(f'#!/bin/sh\necho "$@" > {arguments}\n')
    program.chmod(0o755)
    build._build("launcher", "launcher.c", str(tmp_path), [], [], [], [])
    assert f"-I{compiler.headers()}" in arguments.read_text().split()
