"""A metric of one's own is looked at before anything is queued: it is not run outside the sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.cli.evaluate import _require_function
from cloister.errors import InvalidInput


@pytest.mark.parametrize(
    "text",
    [
        "def f(p, e, r): return 1",
        "f = lambda p, e, r: 1",
        "from math import gcd as f",
        "from statistics import *",
        "if True:\n    def f(p, e, r): return 1",
        "def make():\n    return 1\nf = make()",
    ],
)
def test_what_may_have_it_passes(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.py").write_text(text)
    _require_function(tmp_path / "m.py", "f")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"root:x:0:0:root:/root:/bin/bash\n", "m.py:1: is not Python"),
        (b"def g(p, e, r):\n    return 1\n", "m.py: has no function f. It has g."),
        (b"class A:\n    def f(self): return 1\n", "m.py: has no function f. It has no function."),
        (b"", "m.py: has no function f"),
        (b"\x00\xff", "is not Python"),
        (b"(" * 100_000, "is not Python"),
    ],
)
def test_what_cannot_have_it_is_refused_at_once(tmp_path: Path, text: bytes, told: str) -> None:
    (tmp_path / "m.py").write_bytes(text)
    with pytest.raises(InvalidInput) as caught:
        _require_function(tmp_path / "m.py", "f")
    assert told in str(caught.value)


def test_it_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "m.py").write_text(f"open({str(ran)!r}, 'w')\ndef f(p, e, r): return 1\n")
    _require_function(tmp_path / "m.py", "f")
    assert not ran.exists()
