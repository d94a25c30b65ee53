"""When the keys of an allowed-signers file end: read as ssh-keygen itself takes the file."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloister.appliance.ssh_signatures import signers_ends, verify
from cloister.errors import Unauthenticated

AT = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LOCAL = "20310506070809"


@pytest.fixture(autouse=True)
def zone_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """ssh-keygen is started without TZ."""
    monkeypatch.delenv("TZ", raising=False)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A public key, and its signature on "text"."""
    folder = tmp_path_factory.mktemp("key")
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
    done = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-n", "cloister-approval", "-f", str(key)],
        input=b"text",
        capture_output=True,
        check=True,
    )
    return (folder / "key.pub").read_text().strip(), done.stdout.decode()


@pytest.mark.parametrize(
    ("lines", "ends"),
    [
        ("abe KEY", None),
        ('abe valid-before="20310506070809Z" KEY', AT),
        (f'abe valid-before="{LOCAL}" KEY', "local"),
        ('abe valid-before="203105060708Z" KEY', AT.replace(second=0)),
        ('abe valid-before="20310506Z" KEY', datetime(2031, 5, 6, tzinfo=UTC)),
        ('abe namespaces="cloister-approval",VALID-BEFORE="20310506070809Z" KEY a comment', AT),
        ('"abe" namespaces="file,cloister-*",valid-before="20310506070809Z" KEY', AT),
        ('other,abe\tvalid-after="20200101",valid-before="20310506070809Z"\tKEY', AT),
        ('abe namespaces="file" KEY\nabe valid-before="20310506070809Z" KEY', AT),
        ('# abe KEY\n\nabe valid-before="20300101" KEY\nabe valid-before="20310506070809Z" KEY', AT),
        ('abe valid-before="20300101" KEY\na* valid-before="20310506070809Z" KEY', AT),
        ('abe valid-before="20300101" KEY\n* KEY', None),
    ],
)
def test_a_key_ends_when_ssh_keygen_takes_it_no_more(
    signed: tuple[str, str], tmp_path: Path, lines: str, ends: Any
) -> None:
    key, signature = signed
    if ends == "local":
        ends = datetime.strptime(LOCAL, "%Y%m%d%H%M%S").astimezone(UTC)
    path = tmp_path / "allowed"
    path.write_text(lines.replace("KEY", key) + "\n")
    assert signers_ends(path.read_text())["abe"] == ends
    assert verify("text", signature, "abe", path, at=(ends or AT) - SECOND)
    if ends is not None:
        with pytest.raises(Unauthenticated):
            verify("text", signature, "abe", path, at=ends + SECOND)


@pytest.mark.parametrize(
    "line", ["", "abe", "# abe x y", 'abe valid-before="soon" x', '"' * 9999, 'a="' * 9999]
)
def test_what_is_no_line_counts_for_nobody(line: str) -> None:
    assert signers_ends(line) == {}
