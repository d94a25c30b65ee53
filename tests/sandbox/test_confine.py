"""A user's function in a process of its own: what it computes comes back, and what it tries besides fails."""

from __future__ import annotations

import math
import os
import secrets

import pytest

from cloister.errors import JobFailed
from cloister.sandbox.confine import Confined


def tried(body: str) -> str:
    """What a metric's attempt at something ends in."""
    source = "import os, sys\ndef metric(prediction, expected, row):\n" + body
    with Confined(source.encode(), "metric") as function, pytest.raises(JobFailed) as caught:
        function.call("a", "b", {})
    return caught.value.message


def test_numbers_come_back() -> None:
    source = b"""
import re, json, difflib
def metric(prediction, expected, row):
    return {"same": prediction == expected, "words": len(re.findall("[a-z]+", prediction)) + row["more"]}
"""
    with Confined(source, "metric") as function:
        assert function.call("a b", "a b", {"more": 2}) == {"same": 1.0, "words": 4.0}
        assert function.call("a b", "c", {"more": 0}) == {"same": 0.0, "words": 2.0}
    with Confined(b"def m(p, e, r): return float('nan')", "m") as function:
        assert math.isnan(function.call("", "", {}))


@pytest.mark.parametrize(
    "body",
    [
        "    open('/etc/passwd')",
        "    open('/tmp/left', 'w')",
        "    os.listdir('/')",
        "    os.fork()",
        "    os.kill(os.getppid(), 9)",
        "    os.execv('/bin/true', ['true'])",
        "    os.unlink('/tmp/x')",
        "    os.open('/proc/self/environ', 0)",
        "    os.memfd_create('x')",
    ],
)
def test_there_is_no_file_no_process_no_signal(body: str) -> None:
    assert tried(body) == "The metric fails: PermissionError in line 3."


def test_there_is_no_network_and_no_other_module() -> None:
    assert "line 3" in tried("    import socket; socket.socket()")
    assert "line 3" in tried("    import cloister")
    assert "line 3" in tried("    import ctypes; ctypes.CDLL(None).socket(2, 1, 0); import numpy")


def test_it_sees_no_environment_and_no_descriptor_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "x")
    held = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(held, True)
    source = f"""
import os
def metric(prediction, expected, row):
    try:
        os.fstat({held}); found = 1
    except OSError:
        found = 0
    return {{"environment": "SECRET_OF_OURS" in os.environ, "descriptor": found}}
"""
    with Confined(source.encode(), "metric") as function:
        assert function.call("", "", {}) == {"environment": 0.0, "descriptor": 0.0}
    os.close(held)


def test_an_exception_is_told_without_its_words() -> None:
    secret = secrets.token_hex(8)
    message = tried(f"    raise ValueError('{secret}')")
    assert message == "The metric fails: ValueError in line 3."
    assert (
        tried(f"    raise type('x{secret} y', (Exception,), {{}})")
        == "The metric fails: an exception in line 3."
    )
    with pytest.raises(JobFailed, match="SyntaxError in line 2"):
        Confined(b"\ndef metric(:\n", "metric")
    with pytest.raises(JobFailed, match="KeyError"):
        Confined(b"def other(p, e, r): return 1", "metric")


def test_a_name_or_a_number_that_the_file_makes_up_tells_nothing() -> None:
    made_up = b"def m(p, e, r): raise type(p.split()[0], (Exception,), {})()"
    assert failure(made_up) == "The metric fails: an exception in line 1."
    far = b"def m(p, e, r): exec(compile('\\n' * len(p) + '1 / 0', 'metric', 'exec'))"
    assert failure(far) == "The metric fails: ZeroDivisionError, outside its lines."


@pytest.mark.parametrize(
    "frame", [b"[" * 100_000, b'{"error": "KeyError", "line": "words"}', b'{"error": 7, "line": []}']
)
def test_an_answer_that_is_not_ours_is_refused_like_any_other(frame: bytes) -> None:
    source = (
        f"import os\ndef m(p, e, r):\n  os.write(1, {(len(frame).to_bytes(4, 'big') + frame)!r})\n  return 1"
    )
    found = failure(source.encode())
    assert found.startswith("The metric fails: ") and "words" not in found


def failure(source: bytes, **limits: float) -> str:
    with Confined(source, "m", **limits) as function, pytest.raises(JobFailed) as caught:
        function.call("words of a row", "", {})
    return caught.value.message


def test_time_and_memory_end() -> None:
    assert "longer than 0.5 s" in failure(b"def m(p, e, r):\n  while True: pass", row_seconds=0.5)
    assert "MemoryError in line 2" in failure(b"def m(p, e, r):\n  return len(bytearray(1 << 30))")


def test_what_is_no_number_is_refused() -> None:
    assert failure(b"def m(p, e, r): return p") == "The metric fails: ValueError, outside its lines."
    assert "TypeError" in failure(b"def m(p, e, r): return [p]")
