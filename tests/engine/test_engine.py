"""The engine as the launcher starts it: real vLLM on the CPU, one start for all of this."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from cloister.api import Grant, JobDocument, LoraConfig, ServeConfig
from cloister.appliance.engine_load import figures
from cloister.demo.search import find_bytes
from cloister.models.adapter import add_adapter, save_adapter
from cloister.models.files import Folder
from cloister.models.load import load_base
from cloister.models.merge import merge_to
from cloister.models.tensors import SafetensorsReader
from cloister.vault import ObjectReader, ObjectWriter

pytestmark = pytest.mark.slow

DEMO_BASE = Path(__file__).resolve().parents[2] / "src/cloister/demo/base"
CHATS = [
    [{"role": "user", "content": "hello"}],
    [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "What colour is the sky?"},
    ],
    [{"role": "user", "content": "Copy this: the heron stands in the reeds, 4711."}],
    [
        {"role": "user", "content": "Name a tree."},
        {"role": "assistant", "content": "birch"},
        {"role": "user", "content": "Another one, ünïcödé."},
    ],
]


@dataclass
class Engine:
    """A running engine, the object it serves, and what it said."""

    process: subprocess.Popen[str]
    root: Path
    model: ObjectReader
    events: list[dict[str, Any]]

    @property
    def socket(self) -> Path:
        return self.root / "run" / "engine.sock"

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("engine", timeout=120)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(120)
        connection.sock.connect(str(self.socket))
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text[:1] in (b"{", b"[") else text
        finally:
            connection.close()


def sealed_model(root: Path, key: bytes) -> ObjectReader:
    """The demo's base with an adapter that changes it a little, merged and sealed."""
    base = Folder(DEMO_BASE)
    torch.manual_seed(7)
    adapted = add_adapter(load_base(base, method="qlora")[0], LoraConfig(rank=4, alpha=4.0))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            parameter.data = 0.02 * torch.randn(parameter.shape, generator=generator)
    adapter_writer = ObjectWriter(root / "adapter", object_id="ad-000000000001", kind="adapter", key=key)
    save_adapter(adapted, adapter_writer, "best")
    adapter_writer.finish(created_at="2026-01-01T00:00:00Z")
    adapter = ObjectReader(root / "adapter", key=key)
    writer = ObjectWriter(root / "model", object_id="mm-000000000001", kind="model", key=key)
    merge_to(writer, base, adapter, base_variant="nf4", prefix="best")
    writer.finish(created_at="2026-01-01T00:00:00Z")
    return ObjectReader(root / "model", key=key)


def start(root: Path, job: JobDocument) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "cloister.engine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if "CLOISTER_ENGINE_LOG" in os.environ else subprocess.DEVNULL,
        text=True,
        cwd=root / "tmp",
        env=os.environ | {"TMPDIR": str(root / "tmp")},
    )
    assert process.stdin is not None
    process.stdin.write(job.model_dump_json())
    process.stdin.close()
    return process


def document(root: Path, key: bytes, **config: Any) -> JobDocument:
    manifest = (root / "model" / "manifest.json").read_bytes()
    grant = Grant(
        object_id="mm-000000000001",
        kind="model",
        path=str(root / "model"),
        key=base64.b64encode(key).decode(),
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
    )
    return JobDocument(
        job_id="dp-000000000001",
        verb="serve",
        config=ServeConfig(max_model_len=512, **config).model_dump(),
        inputs={"model": grant},
        socket_dir=str(root / "run"),
        threads=1,
    )


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A folder with a short name: paths of Unix sockets are bounded."""
    folder = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))
    for name in ("tmp", "run"):
        (folder / name).mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def engine(root: Path) -> Iterator[Engine]:
    if not (DEMO_BASE / "model.safetensors").exists():
        pytest.skip("the demo's base model is not built")
    key = os.urandom(32)
    model = sealed_model(root, key)
    process = start(root, document(root, key))
    events: list[dict[str, Any]] = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1].get("stage") == "ready":
                break
        assert events and events[-1].get("stage") == "ready", events
        yield Engine(process, root, model, events)
    finally:
        process.kill()
        process.wait()


def test_it_says_how_far_it_is_and_when_it_is_ready(engine: Engine) -> None:
    stages = [event["stage"] for event in engine.events if event["event"] == "progress"]
    assert stages[0] == "starting" and stages[-1] == "ready" and "loading" in stages
    loading = [event for event in engine.events if event.get("stage") == "loading"]
    with SafetensorsReader.of(engine.model) as reader:
        assert loading[-1]["done"] == loading[-1]["total"] == reader.nbytes
    metrics = [event for event in engine.events if event["event"] == "metrics"]
    assert metrics[0]["values"]["start_seconds"] > 0
    print(f"\nthe engine started in {metrics[0]['values']['start_seconds']} s")


def test_token_ids_of_a_chat_are_the_trainers(engine: Engine) -> None:
    """The architecture's promise: trainer's token ids ≡ the engine's."""
    _, tokenizer = load_base(engine.model)
    for chat in CHATS:
        status, answer = engine.ask("POST", "/tokenize", {"model": "model", "messages": chat})
        expected = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert status == 200 and answer["tokens"] == expected


def test_greedy_answers_are_those_of_transformers_on_the_merged_weights(engine: Engine) -> None:
    """Token by token; where the two best are as near as bf16 rounds logits, either may come first."""
    model, tokenizer = load_base(engine.model)
    equal = 0
    for chat in CHATS:
        body = {"messages": chat, "max_completion_tokens": 24, "temperature": 0, "return_token_ids": True}
        status, answer = engine.ask("POST", "/v1/chat/completions", body)
        assert status == 200
        ids = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=False, return_tensors="pt"
        )
        prompt = ids.shape[1]
        assert answer["usage"]["prompt_tokens"] == prompt
        answered = answer["choices"][0]["token_ids"]
        logits = model(torch.cat([ids, torch.tensor([answered])], dim=1)).logits[0, prompt - 1 : -1].float()
        chosen = logits.gather(1, torch.tensor(answered).unsqueeze(1)).squeeze(1)
        assert (logits.max(1).values - chosen).max() <= 0.25
        expected = model.generate(ids, do_sample=False, max_new_tokens=24)[0, prompt:].tolist()
        equal += answered == expected
    assert equal >= len(CHATS) - 1


def test_without_a_wish_the_models_own_greedy_default_holds(engine: Engine) -> None:
    bodies = [
        {"messages": CHATS[1], "max_completion_tokens": 16} | extra for extra in ({}, {"temperature": 0})
    ]
    told, greedy = (engine.ask("POST", "/v1/chat/completions", body)[1] for body in bodies)
    assert told["choices"][0]["message"] == greedy["choices"][0]["message"]


def test_its_work_and_its_cache_can_be_asked_for(engine: Engine) -> None:
    body = {"messages": CHATS[1], "max_completion_tokens": 4}
    for _ in range(2):
        assert engine.ask("POST", "/v1/chat/completions", body)[0] == 200
    told = asyncio.run(figures(str(engine.socket)))
    assert told is not None
    assert told["num_requests_running"] == told["num_requests_waiting"] == 0
    assert 0 <= told["kv_cache_usage_perc"] <= 1
    assert told["prefix_cache_queries_total"] > 0 and told["prefix_cache_hits_total"] >= 0


def test_only_the_routes_of_the_list_are_there(engine: Engine) -> None:
    assert engine.ask("GET", "/health")[0] == 200
    assert engine.ask("GET", "/v1/models")[1]["data"][0]["id"] == "model"
    for path in ("/docs", "/openapi.json", "/ping", "/load", "/collective_rpc", "/scale_elastic_ep"):
        assert engine.ask("GET", path)[0] == 404
    for path in (
        "/invocations",
        "/detokenize",
        "/v1/responses",
        "/inference/v1/generate",
        "/pause",
        "/sleep",
    ):
        assert engine.ask("POST", path, {})[0] == 404


def test_the_socket_is_for_account_and_group(engine: Engine) -> None:
    assert stat.S_IMODE(engine.socket.stat().st_mode) == 0o660


def descendants(pid: int) -> list[int]:
    """A process and those below it; one that ends while it is looked for has none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(below for child in children for below in descendants(int(child)))]


def wait_until_gone(pids: list[int]) -> None:
    """Until none of them runs: one that has ended counts, though nobody has waited for it yet."""

    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False

    end = time.monotonic() + 60
    while left := [pid for pid in pids if runs(pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.05)


def test_no_process_has_the_key_where_others_could_read_it_and_none_can_be_dumped(engine: Engine) -> None:
    found = descendants(engine.process.pid)
    assert len(found) >= 3
    key = engine.model._key
    for pid in found:
        exposed = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert (
            key not in exposed and base64.b64encode(key) not in exposed and key.hex().encode() not in exposed
        )
        name = Path(f"/proc/{pid}/comm").read_text()
        if "resource_track" in Path(f"/proc/{pid}/cmdline").read_text():
            continue  # multiprocessing's own, which holds names of semaphores and nothing else
        limits = Path(f"/proc/{pid}/limits").read_text()
        core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"], name
        assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text(), name


def written_with(needle: bytes, root: Path) -> list[Path]:
    """The files with these bytes in every folder that the engine could write."""
    return [leak.path for leak in find_bytes([needle], [root / "tmp", root / "run", Path("/dev/shm")])]


def test_decrypted_weights_lie_in_no_file(engine: Engine) -> None:
    with SafetensorsReader.of(engine.model) as reader:
        tensor = reader.tensor(reader.names[-1])
        needle = tensor.reshape(-1).view(torch.uint8)[:32].numpy().tobytes()
    assert len(set(needle)) > 8
    assert not written_with(needle, engine.root)
    planted = engine.root / "tmp" / "planted"
    planted.write_bytes(b"before" + needle + b"after")
    assert written_with(needle, engine.root) == [planted]
    planted.unlink()


def test_prompts_lie_in_no_file_and_are_not_told(engine: Engine) -> None:
    canary = "canary-7f3a9c"
    engine.ask(
        "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": canary}], "max_tokens": 2}
    )
    assert not written_with(canary.encode(), engine.root)
    assert canary not in json.dumps(engine.events)


def test_sigterm_ends_it_and_leaves_nothing(engine: Engine) -> None:
    """Last: it stops the engine of this module."""
    pids = descendants(engine.process.pid)
    engine.process.send_signal(signal.SIGTERM)
    assert engine.process.wait(timeout=120) == 0
    wait_until_gone(pids)
    assert not engine.socket.exists()
    assert not list((engine.root / "tmp").iterdir())


def test_killed_in_the_middle_of_its_start_it_takes_vllm_with_it(engine: Engine, root: Path) -> None:
    key = engine.model._key
    process = start(root, document(root, key))
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if json.loads(line).get("stage") == "loading":
                break
        below = descendants(process.pid)[1:]
        assert len(below) >= 2
    finally:
        process.kill()
        process.wait()
    wait_until_gone(below)
