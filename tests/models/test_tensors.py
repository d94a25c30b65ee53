"""Safetensors as a stream: what is written is what others read, and damage is found."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as reference_load
from safetensors.torch import save as reference_save

from cloister.errors import CloisterError, InvalidInput, NotFound, Tampered
from cloister.models.files import Folder, weight_files
from cloister.models.tensors import SafetensorsReader, SafetensorsWriter, TensorSpec, write_tensors
from cloister.vault import PlainReader, PlainWriter, SealedReader, SealedWriter

KEY = bytes(range(32))
DTYPES = [torch.bfloat16, torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool]


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


tensor_sets = st.dictionaries(
    st.text("abc.xyz_0123456789é", min_size=1, max_size=20),
    st.tuples(
        st.sampled_from(DTYPES), st.lists(st.integers(0, 70), max_size=3).map(tuple), st.integers(0, 9)
    ).map(lambda args: random_tensor(*args)),
    max_size=6,
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(tensor_sets)
def test_sealed_and_read_back_are_the_same_and_so_says_the_reference(
    tensors: dict[str, torch.Tensor],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sealed, plain = Path(folder, "sealed"), Path(folder, "plain")
        with SealedWriter(sealed, KEY, b"context") as file:
            write_tensors(file, tensors)
        with PlainWriter(plain) as file:
            write_tensors(file, tensors)
        with SafetensorsReader({"w": SealedReader(sealed, KEY, b"context")}) as reader:
            read = dict(reader.stream())
            again = {name: reader.tensor(name) for name in reader.names}
        reference = reference_load(plain.read_bytes())
    assert read.keys() == tensors.keys() == reference.keys()
    for name, tensor in tensors.items():
        for other in (read[name], again[name], reference[name]):
            assert other.dtype == tensor.dtype and torch.equal(other, tensor)


def test_reads_what_the_reference_writes(tmp_path: Path) -> None:
    tensors = {f"t{i}": random_tensor(DTYPES[i % 6], (i, 3), i) for i in range(8)}
    (tmp_path / "model.safetensors").write_bytes(reference_save(tensors, metadata={"format": "pt"}))
    with SafetensorsReader.of(Folder(tmp_path)) as reader:
        assert reader.metadata == {"format": "pt"}
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in reader.stream())
        assert reader.info("t3") == TensorSpec("t3", DTYPES[3], (3, 3))
        with pytest.raises(NotFound):
            reader.tensor("t99")


def test_large_tensors_are_read_by_several_threads(tmp_path: Path) -> None:
    tensor = torch.arange(6 << 20, dtype=torch.int64)
    with SealedWriter(tmp_path / "w", KEY, b"") as file:
        write_tensors(file, {"small": tensor[:7], "large": tensor})
    for threads in (1, 2, 3):
        with SafetensorsReader({"w": SealedReader(tmp_path / "w", KEY, b"")}, threads=threads) as reader:
            assert torch.equal(reader.tensor("large"), tensor)
            out = torch.empty_like(tensor)
            reader.read_into("large", out)
            assert torch.equal(out, tensor)
            with pytest.raises(ValueError, match="differs"):
                reader.read_into("small", out)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_one_changed_byte_is_found(tmp_path: Path, place: float) -> None:
    with SealedWriter(tmp_path / "w", KEY, b"") as file:
        write_tensors(file, {"a": torch.ones(50_000)})
    content = bytearray((tmp_path / "w").read_bytes())
    content[int(len(content) * place)] ^= 1
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(Tampered) as caught:
        SafetensorsReader({"w": SealedReader(tmp_path / "w", KEY, b"")}).tensor("a")
    assert "w" in str(caught.value.where)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.binary(max_size=64), st.integers(0, 200))
def test_garbage_is_refused_not_believed(noise: bytes, at: int) -> None:
    content = bytearray(reference_save({"a": torch.ones(4), "b": torch.zeros(2, 2)}))
    content[at : at + len(noise)] = noise
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        path.write_bytes(content)
        try:
            with SafetensorsReader({"w": PlainReader(path)}) as reader:
                assert sum(tensor.nbytes for _, tensor in reader.stream()) <= len(content)
        except CloisterError as error:
            assert isinstance(error, InvalidInput)


def test_a_header_that_lies_about_offsets_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    with pytest.raises(InvalidInput):
        SafetensorsReader({"w": PlainReader(path)})


def test_the_writer_holds_to_what_it_announced(tmp_path: Path) -> None:
    specs = [TensorSpec("a", torch.uint8, (3,)), TensorSpec("b", torch.float32, (2,))]
    with pytest.raises(ValueError, match="out of order"), PlainWriter(tmp_path / "w") as file:
        SafetensorsWriter(file, specs).write("a", torch.zeros(3, dtype=torch.uint8))  # b, wider, comes first
    with pytest.raises(ValueError, match="not what was announced"), PlainWriter(tmp_path / "w") as file:
        SafetensorsWriter(file, specs).write("b", torch.zeros(3))
    with pytest.raises(ValueError, match="never written"), PlainWriter(tmp_path / "w") as file:
        SafetensorsWriter(file, specs).finish()
    assert not os.listdir(tmp_path)


def test_the_index_says_which_files_count(tmp_path: Path) -> None:
    for name in (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "consolidated.safetensors",
    ):
        (tmp_path / name).write_bytes(reference_save({name: torch.ones(1)}))
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_files(Folder(tmp_path)) == tuple(sorted(index["weight_map"].values()))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(NotFound):
        weight_files(Folder(tmp_path))


def test_memory_is_given_again_only_once_nobody_holds_it(tmp_path: Path) -> None:
    tensors = {f"t{i:02d}": torch.full((1000 + i,), i, dtype=torch.int64) for i in range(40)}
    with SealedWriter(tmp_path / "w", KEY, b"") as file:
        write_tensors(file, tensors)
    with SafetensorsReader({"w": SealedReader(tmp_path / "w", KEY, b"")}) as reader:
        kept = {}
        places = set()
        for name, tensor in reader.stream():
            assert torch.equal(tensor, tensors[name])
            if name < "t20":
                places.add(tensor.data_ptr())
            elif int(name[1:]) % 2:
                kept[name] = tensor[5:] if int(name[1:]) % 3 else tensor
        assert len(places) <= 4
    for name, tensor in kept.items():
        assert torch.equal(tensor, tensors[name][-len(tensor) :])
