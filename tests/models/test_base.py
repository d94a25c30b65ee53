"""Importing a base model: what is taken is stored as it was and checked again; the rest is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cloister.api import Grant, JobDocument
from cloister.errors import InvalidInput, NotFound, Tampered
from cloister.models.base import check_base, import_base
from cloister.sources import open_base_folder
from cloister.vault import ObjectReader, ObjectWriter

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 8,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "max_position_embeddings": 32,
}


def weights(**shapes: list[int]) -> bytes:
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * shape[1]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + os.urandom(at)


EMBEDDING = {"model.embed_tokens.weight": [8, 4]}
NORM = {"model.layers.0.mlp.up_proj.weight": [6, 4]}


def model() -> dict[str, bytes]:
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": b'{"model": {"type": "BPE"}}',
        "tokenizer_config.json": b'{"chat_template": "x"}',
        "model.safetensors": weights(**EMBEDDING, **NORM),
    }


def sharded() -> dict[str, bytes]:
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    weight_map = {**dict.fromkeys(EMBEDDING, names[0]), **dict.fromkeys(NORM, names[1])}
    files = model()
    del files["model.safetensors"]
    return files | {
        names[0]: weights(**EMBEDDING),
        names[1]: weights(**NORM),
        "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": weight_map}).encode(),
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def bring_in(files: dict[str, bytes], target: Path) -> dict[str, object]:
    writer = ObjectWriter(target, object_id="bm-000000000001", kind="base", key=None)
    details = import_base({n: io.BytesIO(d) for n, d in files.items()}, writer, lambda done, total: None)
    writer.finish(created_at="2026-01-01T00:00:00Z", details=details)
    return details


@pytest.mark.parametrize("files", [model(), sharded()], ids=["whole", "sharded"])
def test_a_folder_is_stored_as_it_was(tmp_path, files):
    source = write(tmp_path / "model", {**files, ".gitattributes": b"x", "README.md": b"hello"})
    descriptors = open_base_folder(source)
    writer = ObjectWriter(tmp_path / "out", object_id="bm-000000000001", kind="base", key=None)
    told: list[tuple[int, int]] = []
    try:
        details = import_base(descriptors, writer, lambda done, total: told.append((done, total)))
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
    writer.finish(created_at="2026-01-01T00:00:00Z", details=details)
    assert details["architecture"] == "LlamaForCausalLM"
    assert details["parameters"] == 8 * 4 + 6 * 4
    assert details["chat_template"] is True
    assert told[-1][0] == told[-1][1] == sum(map(len, files.values())) + 5
    with ObjectReader(tmp_path / "out", key=None) as reader:
        assert set(reader.files) == {*files, "README.md"}
        assert all(reader.read(name) == data for name, data in files.items())
        assert check_base(reader) == details


def test_the_shipped_base_is_taken(tmp_path):
    import cloister

    folder = Path(cloister.__file__).parent / "demo" / "base"
    if not (folder / "model.safetensors").exists():
        pytest.skip("the demo's base model is not built")
    details = bring_in(
        {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}, tmp_path
    )
    assert details["chat_template"]


def changed(**texts: bytes | None) -> dict[str, bytes]:
    files = model()
    for name, data in texts.items():
        name = name.replace("__", ".")
        if data is None:
            del files[name]
        else:
            files[name] = data
    return files


def configured(**fields: object) -> dict[str, bytes]:
    return changed(config__json=json.dumps({**CONFIG, **fields}).encode())


NEEDED = sharded()
SHARD = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
REFUSED: dict[str, tuple[dict[str, bytes], str, str]] = {
    "pickle as weights": (
        changed(model__safetensors=pickle.dumps({"a": [1] * 99})),
        "model.safetensors",
        "Python pickle",
    ),
    "zip as weights": (changed(model__safetensors=b"PK\3\4" + b"\1" * 99), "model.safetensors", "zip file"),
    "lfs pointer": (
        changed(model__safetensors=b"version https://git-lfs.github.com/spec/v1\n"),
        "model.safetensors",
        "LFS",
    ),
    "cut weights": (
        changed(model__safetensors=model()["model.safetensors"][:-1]),
        "model.safetensors",
        "cut off",
    ),
    "empty weights": (changed(model__safetensors=b""), "model.safetensors", "too short"),
    "no weights": (changed(model__safetensors=None), "model.safetensors", "no weights"),
    "no config": (changed(config__json=None), "config.json", "missing"),
    "no tokenizer": (changed(tokenizer__json=None), "tokenizer.json", "missing"),
    "bad tokenizer": (changed(tokenizer__json=b"{}"), "tokenizer.json", "no tokenizer"),
    "code": ({**model(), "modeling_x.py": b"print()"}, "modeling_x.py", "program code"),
    "pytorch": ({**model(), "pytorch_model.bin": b""}, "pytorch_model.bin", "can run code"),
    "unknown": ({**model(), "extra.dat": b""}, "extra.dat", "no base model needs"),
    "traversal": ({**model(), "../config.json": b""}, "../config.json", "no base model needs"),
    "terminal escape": (
        {**model(), "a\x1b[2J": b""},
        "a file name that cannot be shown",
        "no base model needs",
    ),
    "auto_map": (
        configured(auto_map={"AutoModel": "x.Y"}),
        "config.json",
        "`auto_map` makes a library run code",
    ),
    "deep auto_map": (configured(a=[{"b": {"auto_map": 1}}]), "config.json", "auto_map"),
    "tokenizer auto_map": (
        changed(tokenizer_config__json=b'{"auto_map": {}}'),
        "tokenizer_config.json",
        "auto_map",
    ),
    "pipelines": (configured(custom_pipelines={}), "config.json", "custom_pipelines"),
    "quantised": (configured(quantization_config={}), "config.json", "quantised already"),
    "other architecture": (configured(architectures=["EvilModel"]), "config.json", "not known here"),
    "no architecture": (configured(architectures=None), "config.json", "exactly one architecture"),
    "odd size": (configured(vocab_size=True), "config.json", "`vocab_size` must be"),
    "other vocabulary": (configured(vocab_size=9), "model.embed_tokens.weight", "not of the size"),
    "no json": (changed(config__json=b"{"), "config.json", "not valid JSON"),
    "json bomb": (changed(config__json=b'{"a":' + b"[" * 100_000), "config.json", "not valid JSON"),
    "deep json": (
        changed(config__json=b'{"a":' + b"[" * 200 + b"]" * 200 + b"}"),
        "config.json",
        "nested too deeply",
    ),
    "no utf-8": (changed(config__json=b"\xff"), "config.json", "invalid UTF-8"),
    "integer weights": (
        changed(
            model__safetensors=weights(**EMBEDDING).replace(b"BF16", b"I16 ").replace(b'"I16 "', b'"I16" ')
        ),
        "model.safetensors",
        "is I16",
    ),
    "both whole and shards": ({**sharded(), "model.safetensors": b""}, "model.safetensors", "both"),
    "no index": ({n: d for n, d in sharded().items() if n != INDEX}, INDEX, "index is missing"),
    "a shard missing": (
        {n: d for n, d in sharded().items() if n != SHARD},
        "model-00001-of-00002.safetensors",
        "denies",
    ),
    "unlisted tensor": (
        {**sharded(), SHARD: weights(**NORM, **{"x.weight": [2, 2]})},
        SHARD,
        "does not put here",
    ),
    "listed but not there": ({**sharded(), SHARD: weights(**{"x.weight": [2, 2]})}, SHARD, "has not"),
    "tensor in two shards": ({**sharded(), SHARD: weights(**NORM, **EMBEDDING)}, SHARD, "does not put here"),
    "index elsewhere": (
        {**sharded(), INDEX: json.dumps({"weight_map": {"a": "../../etc/passwd"}}).encode()},
        INDEX,
        "not here",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_safe_model_is_refused_by_name_and_reason(tmp_path, name):
    files, where, told = REFUSED[name]
    with pytest.raises(InvalidInput, match=told) as refused:
        bring_in(files, tmp_path / "out")
    assert refused.value.where == where
    assert refused.value.remedy
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    class Growing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return b"x"

    files = model()
    streams = {n: (Growing if n == "model.safetensors" else io.BytesIO)(d) for n, d in files.items()}
    writer = ObjectWriter(tmp_path, object_id="bm-000000000001", kind="base", key=None)
    with pytest.raises(InvalidInput, match="changed while it was read"):
        import_base(streams, writer, lambda done, total: None)


@pytest.mark.parametrize("name", sorted(model()))
def test_a_stored_file_that_was_changed_is_found_before_use(tmp_path, name):
    bring_in(model(), tmp_path)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with ObjectReader(tmp_path, key=None) as reader, pytest.raises(Tampered) as found:
        check_base(reader)
    assert name in str(found.value.where)


def test_the_verb_in_a_real_worker_process(tmp_path):
    files = model()
    source = write(tmp_path / "model", files)
    descriptors = open_base_folder(source)
    job = JobDocument(
        job_id="jb-000000000002",
        verb="base",
        config={"files": list(descriptors)},
        output=Grant(object_id="bm-000000000001", kind="base", path=str(tmp_path / "out")),
        descriptors={f"file:{number}": fd for number, fd in enumerate(descriptors.values())},
    )
    done = subprocess.run(
        [sys.executable, "-m", "cloister.worker"],
        input=job.model_dump_json().encode(),
        stdout=subprocess.PIPE,
        pass_fds=list(descriptors.values()),
        env={**os.environ, "CLOISTER_SANDBOX": "none"},
        check=False,
    )
    for descriptor in descriptors.values():
        os.close(descriptor)
    last = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, last["event"]) == (0, "result")
    with ObjectReader(tmp_path / "out", key=None) as reader:
        assert check_base(reader) == last["values"]
        assert reader.manifest.counts == {"parameters": 56, "tensors": 2, "shards": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield write(tmp_path / "model", model())


def opened_below(folder: Path) -> list[str]:
    """What descriptors of this process lead to, of that folder."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # another thread's, or the listing's own
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [path for path in found if Path(path).is_relative_to(folder)]


def refusals(folder: Path) -> dict[str, str]:
    with pytest.raises(InvalidInput) as refused:
        open_base_folder(folder)
    return refused.value.values["refused"]


def test_links_are_not_followed_and_all_refusals_are_told_at_once(folder, tmp_path):
    (tmp_path / "secret").write_bytes(b"{}")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tmp_path / "secret")
    (folder / "original").mkdir()
    os.mkfifo(folder / "vocab.json")
    (folder / "pytorch_model.bin").write_bytes(b"")
    told = refusals(folder)
    assert not opened_below(tmp_path)
    assert set(told) == {"config.json", "original", "vocab.json", "pytorch_model.bin"}
    assert "symbolic link" in told["config.json"]
    assert "not a regular file" in told["vocab.json"]


def test_a_hub_cache_gets_its_remedy(folder, tmp_path):
    blob = tmp_path / "blobs" / "abc"
    blob.parent.mkdir()
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to("../blobs/abc")
    with pytest.raises(InvalidInput, match=r"hub's cache folder.*cp -rL"):
        open_base_folder(folder)


def test_no_folder_and_no_model(tmp_path):
    with pytest.raises(NotFound):
        open_base_folder(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInput, match="not a folder"):
        open_base_folder(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="holds no model"):
        open_base_folder(tmp_path / "empty")
