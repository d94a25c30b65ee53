"""Opening what a caller names, with the caller's own rights: a file of rows, a model folder as descriptors by name.

Runs on the client's side, before anything is handed over. Knows which names may belong to a base model
and which never; it reads no content. Standard library only.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from cloister.descriptors import close_all
from cloister.errors import Denied, InvalidInput, NotFound

WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors\Z")
SHARD_INDEX = "model.safetensors.index.json"

BASE_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "chat_template.jinja",
        SHARD_INDEX,
        "LICENSE",
        "LICENSE.txt",
        "LICENSE.md",
        "NOTICE",
        "README.md",
    }
)
"""Every name that a base model may have besides its weights."""

MAX_BASE_FILES = 1024

_COPY = "Copy the files themselves into one folder (cp -rL SOURCE TARGET) and import that."
_REASONS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5", ".joblib", ".npy", ".npz"),
        "this weight format can run code when it is loaded",
        "Only safetensors are imported; convert the model or leave the file out.",
    ),
    ((".py", ".so", ".sh", ".dll", ".whl"), "program code is never imported", "Leave the file out."),
    (
        (".gguf", ".onnx", ".tflite"),
        "this is a format for inference only",
        "Import the safetensors of the same model.",
    ),
    (
        (".safetensors",),
        "weights are imported as model.safetensors or model-00001-of-0000N.safetensors",
        "Leave the file out.",
    ),
)


def refusal_of(name: str) -> tuple[str, str] | None:
    """Why a file of this name is not imported and what to do, or None where it may be."""
    if name in BASE_FILES or WEIGHTS.fullmatch(name):
        return None
    lowered = name.lower()
    for endings, reason, remedy in _REASONS:
        if lowered.endswith(endings):
            return reason, remedy
    return "no base model needs a file of this name", "Leave the file out."


def open_source(path: Path, remedy: str) -> int:
    """A descriptor of what rows are read from: a file, or a pipe. The caller closes it.

    Args:
        remedy: what to name instead of a folder.

    Raises:
        InvalidInput: it cannot be opened, or is a folder, or a device, which may never end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput(f"cannot be opened: {error.strerror}", where=str(path)) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise InvalidInput("is a folder, not a file", where=str(path), remedy=remedy)
        if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not os.isatty(descriptor)):
            raise InvalidInput(
                "is a device, not a file", where=str(path), remedy="Name a file, or pipe its rows in."
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_base_folder(path: str | Path) -> dict[str, int]:
    """Open every file of a model folder for reading.

    Names that start with a dot are passed over; everything else must be a regular file with a name
    that a base model may have. No symbolic link in the folder is followed.

    Returns:
        descriptors by file name, in order of name; the caller closes them.

    Raises:
        InvalidInput: an entry is refused; all refused entries are told at once in `values["refused"]`.
        NotFound, Denied: the folder, or a file in it, cannot be opened.
    """
    folder = _open_folder(Path(path))
    opened: dict[str, int] = {}
    refused: list[tuple[str, str, str]] = []
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208
        if len(names) > MAX_BASE_FILES:
            raise InvalidInput(f"the folder has more than {MAX_BASE_FILES} files", where=str(path))
        for name in names:
            entry = _open_entry(folder, name, path)
            if isinstance(entry, int):
                opened[name] = entry
            else:
                refused.append((name, *entry))
        if refused:
            raise _refusal(path, refused)
        if not opened:
            raise InvalidInput("the folder holds no model", where=str(path))
    except BaseException:
        close_all(opened.values())
        raise
    finally:
        os.close(folder)
    return opened


def _open_folder(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound("no such folder", where=str(path)) from None
    except NotADirectoryError:
        raise InvalidInput("not a folder", where=str(path), remedy="Name the model's folder.") from None
    except PermissionError:
        raise Denied("the system refuses access", where=str(path)) from None


def _open_entry(folder: int, name: str, path: str | Path) -> int | tuple[str, str]:
    """A descriptor, or reason and remedy. The kind is checked on the descriptor, not before."""
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        cached = "as in a hub's cache folder, " if "blobs" in os.readlink(name, dir_fd=folder) else ""
        return f"a symbolic link, {cached}is not followed", _COPY
    if stat.S_ISDIR(status.st_mode):
        return "folders inside a model folder are not imported", "Move it elsewhere."
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file", "Move it elsewhere."
    if refusal := refusal_of(name):
        return refusal
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder)
    except PermissionError:
        raise Denied("the system refuses access", where=str(Path(path) / name)) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a symbolic link, is not followed", _COPY
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return "not a regular file", "Move it elsewhere."
    return descriptor


def _refusal(path: str | Path, refused: list[tuple[str, str, str]]) -> InvalidInput:
    name, reason, remedy = refused[0]
    more = f" ({len(refused) - 1} more files are refused)" if len(refused) > 1 else ""
    return InvalidInput(
        f"{reason}{more}",
        where=str(Path(path) / name),
        remedy=remedy,
        values={"refused": {name: reason for name, reason, _ in refused}},
    )
