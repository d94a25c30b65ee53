"""A test that cannot fail is a defect: each invariant's guard catches the fault that it guards against."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.invariants.faults import FAULTS, HERE, LINES, Fault, failed_at, table

HANDBOOK = HERE.parents[1] / "deploy" / "handbook.md"


def named(long: bool) -> list[object]:
    return [pytest.param(fault, id=fault.name) for fault in FAULTS if fault.long == long]


def caught(fault: Fault, folder: Path, patch: pytest.MonkeyPatch) -> None:
    with patch.context() as planted:
        fault.plant(planted)
        with pytest.raises((AssertionError, pytest.fail.Exception)) as failure:
            fault.run(folder)
    assert failed_at(failure.value) == fault.says


@pytest.mark.parametrize("fault", named(long=False))
def test_the_guard_catches_the_fault(fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caught(fault, tmp_path, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("fault", named(long=True))
def test_the_guard_catches_the_fault_in_an_engine(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught(fault, tmp_path, monkeypatch)


def test_every_line_has_a_guard_and_every_guard_a_fault() -> None:
    assert tuple(dict.fromkeys(fault.line for fault in FAULTS)) == LINES
    guards = {Path(fault.guard.__file__).name for fault in FAULTS}
    assert guards | {"test_faults.py", "test_through_the_cli.py"} == {
        path.name for path in HERE.glob("test_*.py")
    }


def test_the_handbook_has_the_table() -> None:
    assert table() in HANDBOOK.read_text(encoding="utf-8")
