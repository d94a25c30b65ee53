"""Files and values that options name: what does not fit is told in a line, and nothing half is left behind."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.cli import audit_query, evaluate
from cloister.cli.dataset_view import _ranges
from cloister.cli.evaluate import _opened
from cloister.cli.receiving import write_new
from cloister.cli.run_files import settings_given, write_file
from cloister.errors import Conflict, InvalidInput, OutOfSpace


@pytest.mark.parametrize(
    "items",
    [
        ["lora=5"],
        ["lora="],
        ["lora=5", "lora.rank=8"],
        ["lora.rank=" + "[" * 3000],
        ["seed=" + "9" * 5000],
        ["epochs"],
        ["=1"],
    ],
)
def test_a_setting_that_is_none_is_refused(items: list[str]) -> None:
    with pytest.raises(InvalidInput):
        settings_given(items)


def test_settings_are_read_one_by_one_or_as_a_mapping() -> None:
    assert settings_given(["lora={rank: 4}", "lora.alpha=8", "epochs=2"]) == {
        "lora": {"rank": 4, "alpha": 8},
        "epochs": 2,
    }


@pytest.mark.parametrize("text", ["", " ", ",", "1,", "5-", "-5", "1-2-3", "9" * 5000, "a", "١"])
def test_rows_that_are_no_numbers_choose_nothing_unseen(text: str) -> None:
    with pytest.raises(InvalidInput, match="0-99,200"):
        _ranges(text, "--rows")


def test_rows_are_named_alone_and_in_ranges() -> None:
    assert _ranges("0-99, 200", "--rows") == ((0, 99), (200, 200))
    assert _ranges(None, "--rows") == ()


def test_a_folder_and_a_pipe_are_no_metric(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # nobody writes into it: opening it may not wait
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InvalidInput) as caught, _opened(path):
            pass
        assert caught.value.where == str(path) and caught.value.remedy


@pytest.mark.parametrize(
    "write", [write_new, lambda path, data: write_file(path, data, force=False)], ids=["rows", "file"]
)
def test_a_file_that_finds_no_room_is_not_left_in_part(
    tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    path = tmp_path / "answers.json"
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OutOfSpace) as caught:
            write(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handled)
    assert caught.value.where == str(path) and not path.exists()
    write(path, b"whole")
    assert path.read_bytes() == b"whole"
    with pytest.raises(Conflict):
        write(path, b"again")
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize("module", [evaluate, audit_query], ids=["errors", "reveal"])
def test_content_is_not_read_for_a_file_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    there = tmp_path / "answers.json"
    there.symlink_to("nowhere")
    monkeypatch.setattr(module, "connect", lambda: pytest.fail("it was entered that content was read"))
    with pytest.raises(Conflict):
        if module is evaluate:
            evaluate.errors("claims-1", to=there)
        else:
            audit_query.reveal(2, to=there)


def test_a_page_is_not_written_where_the_numbers_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "connect", lambda: pytest.fail("something was asked for"))
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    numbers.touch()
    with pytest.raises(Conflict):
        evaluate.export("claims-1", html=page, numbers=numbers)
    with pytest.raises(InvalidInput, match="two files"):
        evaluate.export("claims-1", html=page, numbers=page)
