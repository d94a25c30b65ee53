"""What a caller names to be read: a file or a pipe is opened, anything else refused with what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloister.errors import InvalidInput
from cloister.sources import open_source


def test_files_and_pipes_are_opened(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"{}")
    (tmp_path / "link").symlink_to("rows.jsonl")
    reading, writing = os.pipe()
    os.write(writing, b"{}")
    try:
        for path in (tmp_path / "rows.jsonl", tmp_path / "link", Path(f"/dev/fd/{reading}")):
            descriptor = open_source(path, "Name one.")
            assert os.read(descriptor, 2) == b"{}" and not os.get_inheritable(descriptor)
            os.close(descriptor)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("name", "told"),
    [("", "folder"), ("/dev/zero", "device"), ("/dev/null", "device"), ("x", "No such file")],
)
def test_what_has_no_rows_is_refused_and_closed(tmp_path: Path, name: str, told: str) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(InvalidInput, match=told) as refused:
        open_source(tmp_path / name, "Name its files.")
    assert refused.value.where == str(tmp_path / name)
    assert (refused.value.remedy == "Name its files.") == (told == "folder")
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def test_corrections_in_a_folder_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    from cloister.cli.dataset_view import derive

    with pytest.raises(InvalidInput, match="is a folder"):
        derive("rows", "new", corrections=tmp_path)
