"""The engine's first process: `python -m cloister.engine`, a job document on standard input.

Alone has the key, and serves it to vLLM's processes below it; says on standard output, one event a
line, how far the start is and what vLLM warns of, as `vetting` lets it through; ends with them. What vLLM prints goes
nowhere.
"""

from __future__ import annotations

import base64
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType

import msgspec

from cloister.api import Failure, JobDocument, Metrics, Notice, Progress, ServeConfig
from cloister.engine.reports import Fault, Loaded, Missing, ReportReader, Said, Started, fault_of
from cloister.engine.server import ServerOptions
from cloister.engine.weights import SealedWeights
from cloister.errors import CloisterError, InvalidInput, JobFailed
from cloister.models.files import CONFIG_FILES, TOKENIZER_FILES, unpack_to
from cloister.sandbox import KeyServer, harden_process
from cloister.vault import ObjectReader

Event = Progress | Metrics | Notice | Failure
SOCKET = "engine.sock"
PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "VIRTUAL_ENV", "CLOISTER_ENGINE_LOG")
"""Variables that the server inherits, with those that begin with `CUDA_` and `NVIDIA_`.
`CLOISTER_ENGINE_LOG` lets vLLM's log through to standard error, for whoever works on the engine; no
sandbox has it."""


def main() -> int:
    """Serves until SIGTERM or until vLLM ends; returns the exit status."""
    harden_process()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    if "CLOISTER_ENGINE_LOG" not in os.environ:
        os.dup2(null, 2)

    def emit(event: Event) -> None:
        with suppress(BrokenPipeError):
            print(event.model_dump_json(), file=events, flush=True)

    try:
        job = JobDocument.model_validate_json(sys.stdin.buffer.read())
        os.dup2(null, 0)
        return serve(job, emit)
    except CloisterError as error:
        emit(Failure(code=error.code, message=error.message, where=error.where, remedy=error.remedy))
        return error.exit_code
    except Exception as error:
        emit(Failure(code="error", message=str(fault_of(error))))
        return 1


def serve(job: JobDocument, emit: Callable[[Event], None]) -> int:
    """Starts vLLM for `job`, follows its start, and waits for its end; returns its exit status.

    Raises:
        InvalidInput: the job is not one to serve.
        Tampered: the model is not what its manifest says.
        JobFailed: vLLM ended before it was asked to.
    """
    grant = job.inputs.get("model")
    if job.verb != "serve" or grant is None or job.socket_dir is None:
        raise InvalidInput("not a job to serve a model")
    key = None if grant.key is None else base64.b64decode(grant.key)
    config = ServeConfig.model_validate(job.config)
    files = ObjectReader(
        Path(grant.path), key=key, manifest_sha256=grant.manifest_sha256, object_id=grant.object_id
    )
    private = Path(tempfile.mkdtemp(prefix="engine-"))
    try:
        model = private / "model"
        model.mkdir(mode=0o700)
        unpack_to(files, TOKENIZER_FILES | CONFIG_FILES, model)
        weights = SealedWeights(
            folder=grant.path,
            object_id=grant.object_id,
            manifest_sha256=grant.manifest_sha256,
            keys=None if key is None else str(private / "keys.sock"),
            reports=str(private / "reports.sock"),
        )
        on_cpu = job.device == "cpu"
        options = ServerOptions(
            folder=str(model),
            socket=str(Path(job.socket_dir) / SOCKET),
            reports=str(private / "reports.sock"),
            weights=weights,
            device=job.device,
            dtype=config.dtype,
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            kv_cache_bytes=int(config.kv_cache_gib * (1 << 30)) if on_cpu else None,
            gpu_memory_utilization=config.gpu_memory_utilization,
            threads=job.threads,
        )
        held = {} if key is None else {grant.object_id: key}
        with ReportReader(private / "reports.sock") as reports, KeyServer(private / "keys.sock", held):
            return _follow(options, private, reports, emit)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _follow(
    options: ServerOptions, private: Path, reports: ReportReader, emit: Callable[[Event], None]
) -> int:
    began = time.monotonic()
    emit(Progress(stage="starting", done=0, total=1))
    child = _start(options, private)
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        child.terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    ready = False
    fault: Fault | None = None
    missing: Missing | None = None
    warned: Said | None = None
    try:
        while child.poll() is None:
            report = reports.next(0.1 if not ready else 1.0)
            if isinstance(report, Started):
                emit(Progress(stage="starting", done=1, total=1))
            elif isinstance(report, Loaded):
                emit(Progress(stage="loading", done=report.done, total=report.total))
            elif isinstance(report, Fault):
                fault = fault or report
            elif isinstance(report, Missing):  # once it answers, a line that says so may quote a prompt
                missing = missing or (None if ready else report)
            elif isinstance(report, Said):
                warned = report if report.words and not ready else warned
                emit(Notice(level="warning", message=f"vLLM: {report}"[:1000]))
            elif not ready and healthy(Path(options.socket)):
                ready = True
                seconds = time.monotonic() - began
                emit(Metrics(step=0, values={"start_seconds": round(seconds, 2)}))
                emit(Notice(level="info", message=f"the engine answers after {seconds:.0f} s"))
                emit(Progress(stage="ready", done=1, total=1))
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
        Path(options.socket).unlink(missing_ok=True)
    if stopping:
        return child.returncode if child.returncode >= 0 else 0
    while fault is None and (report := reports.next(0.05)) is not None:
        fault = report if isinstance(report, Fault) else None
    raise _ended(child.returncode, ready, fault, missing, warned)


def _ended(
    code: int, ready: bool, fault: Fault | None, missing: Missing | None, warned: Said | None
) -> JobFailed:
    """Why vLLM ended before it was asked to, as far as that may be told."""
    what = f"vLLM ended {'by itself' if ready else 'before it was ready'} "
    what += f"({_ending(code)}{f'; {fault}' if fault else ''})"
    if missing is not None and not ready:
        return JobFailed(
            f"{what}: the library {missing.library} is not on this machine",
            remedy="Install the system's package that has it; `cloister doctor` says what else is missing.",
        )
    if warned is not None and not ready:
        what += f"; its last warning: {warned}"
    return JobFailed(what, remedy="Check that the model's context and the memory settings fit this machine.")


def healthy(path: Path, timeout_s: float = 2.0) -> bool:
    """Whether the engine behind the Unix socket at `path` says that it serves."""
    connection = http.client.HTTPConnection("engine", timeout=timeout_s)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(timeout_s)
        connection.sock.connect(str(path))
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _start(options: ServerOptions, private: Path) -> subprocess.Popen[bytes]:
    out = None if "CLOISTER_ENGINE_LOG" in os.environ else subprocess.DEVNULL
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "cloister.engine.server"],
        stdin=subprocess.PIPE,
        stdout=2 if out is None else out,
        stderr=out,
        env=environment(os.environ, private, options),
        close_fds=True,
    )
    assert child.stdin is not None
    with suppress(BrokenPipeError), child.stdin:
        child.stdin.write(msgspec.json.encode(options))
    return child


def environment(outer: Mapping[str, str], private: Path, options: ServerOptions) -> dict[str, str]:
    """The server's environment: nothing that it would write lies outside `private`."""
    kept = {
        name: value
        for name, value in outer.items()
        if name in PASSED_ON or name.startswith(("CUDA_", "NVIDIA_"))
    }
    cache = str(private / "cache")
    fixed = {
        "HOME": str(private),
        "TMPDIR": str(private),
        "XDG_CACHE_HOME": cache,
        "XDG_CONFIG_HOME": cache,
        "VLLM_CACHE_ROOT": cache,
        "VLLM_CONFIG_ROOT": cache,
        "TORCHINDUCTOR_CACHE_DIR": cache,
        "TRITON_CACHE_DIR": cache,
        "PYTHONDONTWRITEBYTECODE": "1",
        "VLLM_PLUGINS": "cloister",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_CONFIGURE_LOGGING": "1" if "CLOISTER_ENGINE_LOG" in outer else "0",
    }
    if options.device == "cpu":
        threads = options.threads or len(os.sched_getaffinity(0))
        # 0: the engine's core computes by itself instead of in yet another process (see server).
        fixed |= {"OMP_NUM_THREADS": str(threads), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    else:
        # FlashInfer compiles its sampler with nvcc at the first start, and without nvcc the engine ends there.
        fixed |= {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
    return kept | fixed


def _ending(code: int) -> str:
    return f"exit {code}" if code >= 0 else f"signal {-code}"


if __name__ == "__main__":
    sys.exit(main())
