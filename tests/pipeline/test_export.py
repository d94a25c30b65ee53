"""The trained, merged and served model taken out: others load it, and it is the sealed one to the bit."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyrage
import pytest
import torch
from tests.cli.cli_shell import Shell
from tests.conftest import PASSPHRASE
from tests.openssf_verifier import verify
from tests.pipeline.conftest import CANARY, Pipeline
from transformers import AutoModelForCausalLM, AutoTokenizer

from cloister.api import ClassifyRequest
from cloister.demo.search import find_leaks
from cloister.models.load import load_base
from cloister.models.tensors import SafetensorsReader
from cloister.vault import ObjectReader, Vault

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def internal_data(pipeline: Pipeline) -> Iterator[None]:
    """Its data counts as internal meanwhile: only so does a model of it leave in the clear."""
    client = pipeline.appliance.client
    before = client.dataset("claims").classification
    assert before == "confidential"
    client.declassify("claims", ClassifyRequest(classification="internal"))
    try:
        yield
    finally:
        client.classify("claims", ClassifyRequest(classification=before))


@pytest.fixture(scope="module")
def shell(pipeline: Pipeline) -> Shell:
    return Shell(pipeline.appliance.home.root)


@pytest.fixture(scope="module")
def plain(pipeline: Pipeline, shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, in the clear, in a folder."""
    folder = tmp_path_factory.mktemp("taken") / "first"
    assert "encrypted" in shell("model", "export", "first", str(folder), "--plain", code=6).stderr
    with internal_data(pipeline):
        shell.json("model", "export", "first", str(folder), "--plain")
    return folder


@pytest.fixture(scope="module")
def sealed(pipeline: Pipeline) -> Iterator[ObjectReader]:
    """The same model as it lies in the store, opened with its key."""
    home, model = pipeline.appliance.home, pipeline.appliance.client.model("first")
    vault = Vault.open(home.keys)
    vault.unlock(PASSPHRASE.encode())
    key = vault.data_key(model.object_id, model.version)
    vault.close()
    folder = home.objects / "model" / model.object_id / f"v{model.version}"
    with ObjectReader(folder, key=key, object_id=model.object_id) as reader:
        yield reader


def test_transformers_loads_it_and_it_is_the_sealed_model_to_the_bit(
    plain: Path, sealed: ObjectReader
) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(plain, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(plain)
    found = loaded.state_dict()
    names = [name for name in sealed.files if name.endswith(".safetensors")]
    with SafetensorsReader.of(sealed, names) as stored:
        assert set(stored.names) <= set(found) and len(stored.names) > 10
        for name, tensor in stored.stream():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor), name
    ours, ours_tokenizer = load_base(sealed, method="none", dtype=torch.bfloat16)
    said: list[dict[str, Any]] = [{"role": "user", "content": "My parcel came broken."}]
    ids = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt")
    input_ids = ids if isinstance(ids, torch.Tensor) else ids["input_ids"]
    again = ours_tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt")
    assert torch.equal(input_ids, again if isinstance(again, torch.Tensor) else again["input_ids"])
    with torch.no_grad():
        left = loaded.eval()(input_ids=input_ids, use_cache=False).logits
        right = ours.eval()(input_ids=input_ids, use_cache=False).logits
    assert torch.equal(left, right)


def test_it_is_signed_by_this_appliances_key(plain: Path, shell: Shell) -> None:
    key = shell.json("model", "signing-key")
    statement = verify(plain, key["public_key"].encode())
    assert statement["subject"][0]["name"] == "first"
    tool = shutil.which("model_signing")
    if tool is not None:
        public = plain / "model-signing.pub.pem"
        command = [tool, "verify", "key", str(plain), "--signature", str(plain / "model.sig")]
        subprocess.run([*command, "--public_key", str(public)], check=True)


@pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed")
def test_encrypted_it_is_the_same_for_whoever_has_the_key(
    pipeline: Pipeline, plain: Path, shell: Shell, tmp_path: Path
) -> None:
    identity = pyrage.x25519.Identity.generate()
    shell.json("model", "export", "first", str(tmp_path / "out"), "-r", str(identity.to_public()))
    (tmp_path / "key.txt").write_text(f"{identity}\n")
    archive = tmp_path / "out" / "first.tar.age"
    opening = ["age", "-d", "-i", str(tmp_path / "key.txt"), "-o", str(tmp_path / "first.tar"), str(archive)]
    subprocess.run(opening, check=True)
    subprocess.run(["tar", "-xf", str(tmp_path / "first.tar"), "-C", str(tmp_path)], check=True)
    verify(tmp_path / "first", shell.json("model", "signing-key")["public_key"].encode())
    same = [path.name for path in plain.iterdir() if path.name not in ("export.json", "model.sig")]
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= set(same)
    for name in same:
        assert (tmp_path / "first" / name).read_bytes() == (plain / name).read_bytes(), name
    assert find_leaks(CANARY, [pipeline.appliance.home.root]) == []
