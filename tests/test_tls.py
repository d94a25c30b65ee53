"""Connections of ours tell nobody their keys, and verify whom they speak with."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from cloister.tls import verifying_context


def test_no_key_of_a_session_is_written_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(told))
    assert ssl.create_default_context().keylog_filename == str(told), "Python's own writes them"
    told.unlink()
    context = verifying_context()
    assert context.keylog_filename is None and not told.exists()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_a_file_without_authorities_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("none\n")
    for name in ("ca", "missing"):
        with pytest.raises(OSError):
            verifying_context(tmp_path / name)
