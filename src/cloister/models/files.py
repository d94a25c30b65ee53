"""The files of a model: by name, out of an object or a folder. No torch.

Knows which files are a model's configuration, tokenizer and weights, and how to read small ones; not
what is in them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cloister.errors import InvalidInput, NotFound
from cloister.vault import PlainReader, Reader

TOKENIZER_FILES = frozenset(
    {
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
    }
)
CONFIG_FILES = frozenset({"config.json", "generation_config.json"})


class Files(Protocol):
    """A set of named files: a `vault.ObjectReader`, or a `Folder`."""

    @property
    def files(self) -> Iterable[str]: ...

    def open(self, relpath: str, /) -> Reader: ...


class Folder:
    """A plain folder as `Files`: the top level only, regular files only."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(sorted(p.name for p in self.root.iterdir() if p.is_file() and not p.is_symlink()))

    def open(self, relpath: str, /) -> Reader:
        return PlainReader(self.root / relpath)


def weight_files(files: Files) -> tuple[str, ...]:
    """The safetensors files that make up the model: those of the index where there is one."""
    names = set(files.files)
    index = "model.safetensors.index.json"
    found = {name for name in names if name.endswith(".safetensors") and "/" not in name}
    if index in names:
        listed = set(read_json(files, index).get("weight_map", {}).values())
        if missing := sorted(listed - found):
            raise NotFound(f"{len(missing)} weight files of the index are missing", where=missing[0])
        found = listed
    if not found:
        raise NotFound("the object holds no safetensors weights")
    return tuple(sorted(found))


def read_json(files: Files, name: str, *, limit: int = 64 << 20) -> dict[str, Any]:
    """A JSON object out of `files`. Raises `NotFound`, `InvalidInput`."""
    if name not in set(files.files):
        raise NotFound("the file is missing", where=name)
    try:
        document = json.loads(read_bytes(files, name, limit=limit))
    except ValueError:
        raise InvalidInput("not valid JSON", where=name) from None
    if not isinstance(document, dict):
        raise InvalidInput("not a JSON object", where=name)
    return document


def read_bytes(files: Files, name: str, *, limit: int = 256 << 20) -> bytes:
    """A small file as a whole. Raises `InvalidInput` where it is larger than `limit` bytes."""
    reader = files.open(name)
    try:
        if reader.size > limit:
            raise InvalidInput(f"larger than {limit} bytes", where=name)
        return bytes(reader.read(0, reader.size))
    finally:
        reader.close()


@contextmanager
def unpacked(files: Files, names: Iterable[str]) -> Iterator[Path]:
    """A temporary folder, readable to this account alone, with those of `names` that `files` has."""
    folder = Path(tempfile.mkdtemp(prefix="cloister-"))
    try:
        unpack_to(files, names, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack_to(files: Files, names: Iterable[str], folder: Path) -> None:
    """Writes those of `names` that `files` has, in the clear, into `folder`. Never for weights."""
    for name in sorted(set(names) & set(files.files)):
        target = folder / name
        target.touch(mode=0o600)
        target.write_bytes(read_bytes(files, name))
