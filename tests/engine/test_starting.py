"""Starting the engine on what it must not serve, and its parts that need no vLLM."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloister.api import Grant, JobDocument
from cloister.engine import reports
from cloister.engine.__main__ import _ended, environment
from cloister.engine.reports import (
    Fault,
    Loaded,
    LogHandler,
    Missing,
    ReportReader,
    Said,
    Started,
    fault_of,
    missing_of,
    send_report,
)
from cloister.engine.server import ServerOptions, arguments
from cloister.engine.vetting import vetted
from cloister.engine.weights import SealedWeights
from cloister.vault import ObjectWriter

KEY = bytes(range(32))


def model_object(folder: Path) -> None:
    writer = ObjectWriter(folder, object_id="mm-000000000001", kind="model", key=KEY)
    for name, content in (("config.json", b"{}"), ("model.safetensors", b"not weights")):
        with writer.create(name) as file:
            file.write(content)
    writer.finish(created_at="2026-01-01T00:00:00Z")


def run(tmp_path: Path, text: str) -> tuple[int, list[dict[str, object]], str]:
    done = subprocess.run(
        [sys.executable, "-m", "cloister.engine"],
        input=text,
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        timeout=300,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def job(folder: Path, key: bytes = KEY, manifest: str | None = None, **changes: object) -> str:
    grant = Grant(
        object_id="mm-000000000001",
        kind="model",
        path=str(folder),
        key=base64.b64encode(key).decode(),
        manifest_sha256=manifest,
    )
    document = JobDocument(
        job_id="dp-000000000001", verb="serve", config={}, inputs={"model": grant}, socket_dir="/nowhere"
    )
    return document.model_copy(update=changes).model_dump_json()


def test_a_wrong_key_a_wrong_manifest_and_a_wrong_verb_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "object"
    model_object(folder)
    cases = {
        job(folder, key=bytes(32)): "tampered",
        job(folder, manifest="0" * 64): "tampered",
        job(folder, verb="train"): "invalid-input",
    }
    for text, code in cases.items():
        status, events, errors = run(tmp_path, text)
        assert status != 0 and events[-1]["event"] == "failure" and events[-1]["code"] == code
        assert errors == ""
    assert [path.name for path in tmp_path.iterdir()] == ["object"]


def test_a_document_that_is_none_is_answered_without_its_content(tmp_path: Path) -> None:
    status, events, errors = run(tmp_path, '{"secret": "7f3a9c"}')
    assert status == 1 and events[-1]["code"] == "error"
    assert "7f3a9c" not in json.dumps(events) + errors


@pytest.mark.slow
def test_a_model_that_vllm_cannot_take_is_a_failure_that_says_where(tmp_path: Path) -> None:
    folder = tmp_path / "object"
    model_object(folder)
    status, events, _ = run(tmp_path, job(folder))
    assert status != 0 and events[-1]["event"] == "failure" and events[-1]["code"] == "job-failed"
    assert "before it was ready" in str(events[-1]["message"]) and " in " in str(events[-1]["message"])
    assert not list(tmp_path.glob("engine-*"))


def options(tmp_path: Path, **changes: object) -> ServerOptions:
    values: dict[str, object] = {
        "folder": str(tmp_path),
        "socket": "/run/engine/engine.sock",
        "reports": "/tmp/x/reports.sock",
        "weights": SealedWeights(folder="/in/model", object_id="mm-000000000001", keys="/tmp/x/keys.sock"),
        "device": "cpu",
        "dtype": "bfloat16",
        "max_model_len": 512,
        "max_num_seqs": 4,
        "kv_cache_bytes": 1 << 28,
        "gpu_memory_utilization": 0.9,
        "threads": 2,
    }
    return ServerOptions(**(values | changes))  # type: ignore[arg-type]


def test_the_command_line_of_vllm(tmp_path: Path) -> None:
    words = arguments(options(tmp_path))
    assert "--enforce-eager" in words and "--trust-remote-code" not in words
    assert words[words.index("--kv-cache-memory-bytes") + 1] == str(1 << 28)
    assert "--override-generation-config" not in words
    (tmp_path / "generation_config.json").write_text('{"do_sample": false}')
    assert "--override-generation-config" in arguments(options(tmp_path))
    (tmp_path / "generation_config.json").write_text('{"do_sample": true}')
    on_gpu = arguments(options(tmp_path, device="cuda", kv_cache_bytes=None))
    assert "--enforce-eager" not in on_gpu and "--override-generation-config" not in on_gpu
    assert on_gpu[on_gpu.index("--gpu-memory-utilization") + 1] == "0.9"


def test_the_environment_is_made_not_inherited(tmp_path: Path) -> None:
    outer = {
        "PATH": "/usr/bin",
        "SECRET": "s",
        "CUDA_VISIBLE_DEVICES": "0",
        "HF_TOKEN": "t",
        "http_proxy": "p",
    }
    made = environment(outer, tmp_path, options(tmp_path))
    assert made["PATH"] == "/usr/bin" and made["CUDA_VISIBLE_DEVICES"] == "0"
    assert not {"SECRET", "HF_TOKEN", "http_proxy"} & made.keys()
    assert made["VLLM_PLUGINS"] == "cloister" and made["HF_HUB_OFFLINE"] == made["VLLM_NO_USAGE_STATS"] == "1"
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR"):
        assert made[name].startswith(str(tmp_path))


def test_on_a_gpu_nothing_is_left_to_nvcc(tmp_path: Path) -> None:
    on_gpu = options(tmp_path, device="cuda", kv_cache_bytes=None)
    assert environment({"PATH": "/usr/bin"}, tmp_path, on_gpu)["VLLM_USE_FLASHINFER_SAMPLER"] == "0"


def test_reports_arrive_in_order_and_garbage_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    send_report(path, Started())  # nobody listens yet: lost, not an error
    with ReportReader(path) as reader:
        for report in (Started(), Loaded(1, 2), Fault("ValueError", "a.b:3")):
            send_report(path, report)
            assert reader.next(1.0) == report
        assert reader.next(0.01) is None
    assert not path.exists()


def test_a_fault_names_kind_and_place_and_never_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "_SAID_EVERY_S", 3600.0)
    path = tmp_path / "r.sock"
    prompt = "the prompt was 7f3a9c"
    with reported(path) as (log, reader):
        log.info("another")
        try:
            raise ValueError(prompt)
        except ValueError as error:
            log.exception("it failed")
            assert reader.next(1.0) == fault_of(error)
            assert "7f3a9c" not in str(fault_of(error)) and "test_starting:" in str(fault_of(error))
        said = reader.next(1.0)
        assert isinstance(said, Said) and said.words == "it failed"
        log.error("a second one within the same time")
        assert reader.next(0.01) is None


@pytest.mark.parametrize("way", ["joined", "formatted", "passed on", "made elsewhere"])
def test_a_log_line_that_is_not_the_sources_own_is_told_by_its_place_alone(tmp_path: Path, way: str) -> None:
    prompt = "who is patient 7f3a9c?"
    with reported(tmp_path / "r.sock") as (log, reader):
        if way == "joined":
            log.warning("cannot answer " + prompt)
        elif way == "formatted":
            log.warning(f"cannot answer {prompt}")
        elif way == "passed on":
            log.warning(prompt)
        else:
            exec(compile("log.warning('who is patient 7f3a9c?')", prompt, "exec"), {"log": log})
        said = reader.next(1.0)
    assert isinstance(said, Said) and said.words is None and said.level == "warning"
    if way != "made elsewhere":
        assert "7f3a9c" not in str(said)
        assert str(said).startswith("warning without words that may be shown (")


def test_values_are_left_out_of_a_log_line(tmp_path: Path) -> None:
    with reported(tmp_path / "r.sock") as (log, reader):
        log.warning(
            "Token %d of %s took %.2f s, %5.1f%% of %(x)s\tin all.",
            7,
            "7f3a9c",
        )
        said = reader.next(1.0)
    assert isinstance(said, Said)
    assert said.words == "Token … of … took … s, …% of … in all." and "7f3a9c" not in str(said)
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "no such literal there", (), None)
    assert vetted(record) is None


LOADER = "libnuma.so.1: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize("way", ["as text", "as it is", "as what another came of", "as an error"])
def test_a_library_that_was_not_found_is_named_and_nothing_else_of_the_text(tmp_path: Path, way: str) -> None:
    error = ImportError(f"who is patient 7f3a9c? {LOADER}, in /home/7f3a9c", path="/home/7f3a9c")
    with reported(tmp_path / "r.sock") as (log, reader):
        if way == "as text":
            log.warning("Failed to import: %s", repr(error))
        elif way == "as it is":
            log.warning("Failed to import: %r", error)
        else:
            try:
                try:
                    raise error
                except ImportError as cause:
                    raise AttributeError("there is no such operator") from cause
            except AttributeError as failed:
                if way == "as an error":
                    log.exception("it failed")
                    assert isinstance(reader.next(1.0), Fault)
                else:
                    send_report(tmp_path / "r.sock", missing_of(failed))  # type: ignore[arg-type]
        assert reader.next(1.0) == Missing("libnuma.so.1")


@pytest.mark.parametrize(
    "text",
    ["a/libx.so.1: cannot open shared object file", "lib 7f.so: cannot open shared object file", "libx.so.1"],
)
def test_what_the_loader_does_not_say_names_no_library(text: str) -> None:
    assert missing_of(ImportError(text), text, None, 3) is None


def test_an_end_before_it_was_ready_says_of_what_and_later_no_library(tmp_path: Path) -> None:
    fault = Fault("AttributeError", "torch._ops:1234", "vllm._custom_ops:55")
    warned = Said("warning", "vllm.platforms.cpu:645", "Failed to import from vllm._C: \u2026")
    told = _ended(1, False, fault, Missing("libnuma.so.1"), warned)
    assert told.message == (
        "vLLM ended before it was ready (exit 1; AttributeError in torch._ops:1234, from vllm._custom_ops:55): "
        "the library libnuma.so.1 is not on this machine"
    )
    assert "cloister doctor" in (told.remedy or "")
    assert _ended(1, False, fault, None, warned).message.endswith(
        "vllm._custom_ops:55); its last warning: Failed to import from vllm._C: \u2026 (vllm.platforms.cpu:645)"
    )
    told = _ended(-9, True, None, Missing("libnuma.so.1"), warned)
    assert told.message == "vLLM ended by itself (signal 9)"


@contextmanager
def reported(path: Path) -> Iterator[tuple[logging.Logger, ReportReader]]:
    """A logger with the engine's handler, and the end at which its reports come out."""
    log = logging.getLogger(f"cloister-test-{path}")
    log.propagate = False
    log.addHandler(LogHandler(path))
    with ReportReader(path) as reader:
        yield log, reader
