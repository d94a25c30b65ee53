from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from shaking import shaken

import tiny
from cloister.api import LoraConfig
from cloister.models.adapter import add_adapter, save_adapter
from cloister.models.files import Folder
from cloister.models.load import load_base
from cloister.vault import ObjectReader, ObjectWriter

MakeObject = Callable[..., ObjectReader]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bf16 model as someone brings it: one file, tied embeddings."""
    return tiny.save_base(
        tmp_path_factory.mktemp("base"), tiny.model(dtype=torch.bfloat16, initializer_range=0.1)
    )


@pytest.fixture(scope="session")
def base(base_folder: Path) -> Folder:
    return Folder(base_folder)


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Folder:
    """The same model in several files."""
    folder = tmp_path_factory.mktemp("sharded")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base_folder / name, folder / name)
    model = tiny.model(dtype=torch.bfloat16, initializer_range=0.1)
    model.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return Folder(folder)


@pytest.fixture
def make_object(tmp_path: Path) -> MakeObject:
    """Seals the files of a folder, or what `fill` writes, as an object."""
    count = 0

    def make(
        source: Path | None = None,
        fill: Callable[[ObjectWriter], object] | None = None,
        *,
        kind: str = "model",
        sealed: bool = True,
    ) -> ObjectReader:
        nonlocal count
        count += 1
        key = os.urandom(32) if sealed else None
        folder = tmp_path / f"object-{count}"
        writer = ObjectWriter(folder, object_id=f"mm-{count:012d}", kind=kind, key=key)
        if source is not None:
            for path in sorted(source.iterdir()):
                with writer.create(path.name) as file:
                    file.write(path.read_bytes())
        if fill is not None:
            fill(writer)
        writer.finish(created_at="2026-01-01T00:00:00Z")
        return ObjectReader(folder, key=key)

    return make


@pytest.fixture
def trained_adapter(base: Folder, make_object: MakeObject) -> ObjectReader:
    """A sealed adapter on `base`'s NF4 form that changes every layer visibly."""
    model, _ = load_base(base, method="qlora")
    adapted = shaken(add_adapter(model, LoraConfig(rank=4, alpha=12.0)))
    return make_object(fill=lambda writer: save_adapter(adapted, writer, "best"), kind="adapter")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every attempt to open an internet socket or to look up a name fails and is written down."""
    import socket

    tried: list[str] = []
    real = socket.socket

    class Guarded(real):  # type: ignore[misc, valid-type]
        def __init__(self, family: int = socket.AF_INET, *args: object, **kwargs: object) -> None:
            if family in (socket.AF_INET, socket.AF_INET6):
                tried.append("socket")
                raise OSError("no network in this test")
            super().__init__(family, *args, **kwargs)

    def refuse(*_: object, **__: object) -> None:
        tried.append("lookup")
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "socket", Guarded)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried
