"""The process that is vLLM's OpenAI server, on a Unix socket. Started by the first process alone.

Reads a `ServerOptions` document on standard input. Binds the socket itself, serves an allow-list of
routes, writes no log: of what it warns, `vetting` says what may be told. Knows no key: the loader asks for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any, Literal

import msgspec

from cloister.engine.plugin import LOAD_FORMAT, allow_amx, end_with_parent
from cloister.engine.reports import LogHandler, Started, fault_of, missing_of, send_report
from cloister.engine.weights import SealedWeights
from cloister.sandbox import harden_process

SERVED_NAME = "model"
"""What the engine calls its one model. Clients know it by the deployment's name, which is the
gateway's to translate."""

ROUTES = frozenset(
    {"/health", "/metrics", "/version", "/tokenize", "/v1/models", "/v1/chat/completions", "/v1/completions"}
)
"""What the socket answers. vLLM brings some forty routes, several of which change the engine."""


class ServerOptions(msgspec.Struct, frozen=True):
    """How to serve. `folder` holds configuration and tokenizer, `weights` says where the weights are.

    `threads` is for computing, 0 meaning all cores of this process. `kv_cache_bytes` is None where
    vLLM takes what `gpu_memory_utilization` leaves.
    """

    folder: str
    socket: str
    reports: str
    weights: SealedWeights
    device: Literal["cpu", "cuda"]
    dtype: str
    max_model_len: int
    max_num_seqs: int
    kv_cache_bytes: int | None
    gpu_memory_utilization: float
    threads: int
    shutdown_s: int = 5


def main() -> None:
    """Serves until SIGTERM."""
    harden_process()
    end_with_parent()
    options = msgspec.json.decode(sys.stdin.buffer.read(), type=ServerOptions)
    if "CLOISTER_ENGINE_LOG" not in os.environ:
        logging.getLogger().addHandler(LogHandler(Path(options.reports)))
    try:
        _run(options)
    except KeyboardInterrupt:
        sys.exit(0)
    except Exception as error:
        if (missing := missing_of(error)) is not None:
            send_report(Path(options.reports), missing)
        send_report(Path(options.reports), fault_of(error))
        if "CLOISTER_ENGINE_LOG" in os.environ:
            raise
        sys.exit(1)


def arguments(options: ServerOptions) -> list[str]:
    """vLLM's command line for `options`."""
    weights = json.dumps(msgspec.to_builtins(options.weights))
    words = [
        *("--model", options.folder, "--served-model-name", SERVED_NAME, "--uds", options.socket),
        *("--load-format", LOAD_FORMAT, "--model-loader-extra-config", weights),
        *("--dtype", options.dtype, "--max-model-len", str(options.max_model_len)),
        *("--max-num-seqs", str(options.max_num_seqs)),
        *("--shutdown-timeout", str(options.shutdown_s)),
        "--disable-fastapi-docs",
        "--disable-uvicorn-access-log",
        "--no-enable-log-requests",
    ]
    if _greedy_by_default(Path(options.folder)):
        words += ["--override-generation-config", '{"temperature": 0.0}']
    if options.device == "cpu":
        words += ["--enforce-eager"]
        if not allow_amx():
            words += ["--block-size", "16"]  # the attention kernel for other block sizes is AMX's
    if options.kv_cache_bytes is not None:
        words += ["--kv-cache-memory-bytes", str(options.kv_cache_bytes)]
    else:
        words += ["--gpu-memory-utilization", str(options.gpu_memory_utilization)]
    return words


def _greedy_by_default(folder: Path) -> bool:
    """Whether the model says that it is decoded greedily, as transformers understands it; vLLM passes over
    `do_sample`, and would draw at temperature 1 where a request names none."""
    path = folder / "generation_config.json"
    said = json.loads(path.read_bytes()) if path.exists() else {}
    return said.get("do_sample") is False and "temperature" not in said


def _run(options: ServerOptions) -> None:
    import torch

    if options.device == "cpu":
        # The engine's core is forked from here (see _start_engine), and a pool of OpenMP threads does
        # not survive that: none is made before, and the core then gets its threads.
        torch.set_num_threads(1)
        threads = options.threads or len(os.sched_getaffinity(0))
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(threads))
    os.register_at_fork(after_in_child=end_with_parent)

    import uvloop
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments(options))
    validate_parsed_serve_args(args)
    if options.device == "cpu":
        _register_architecture(Path(options.folder))
    send_report(Path(options.reports), Started())
    uvloop.run(_serve(options, args))


async def _serve(options: ServerOptions, args: Any) -> None:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.launcher import serve_http

    loop = asyncio.get_running_loop()
    engine = _start_engine(options, args)
    try:
        tasks = await engine.get_supported_tasks()
        app = build_app(args, tasks, engine.model_config)
        app.router.routes = [route for route in app.routes if getattr(route, "path", None) in ROUTES]
        await init_app_state(engine, app.state, args, tasks)
        listener = _listen(Path(options.socket))
        closing = await serve_http(
            app,
            sock=listener,
            access_log=False,
            log_config=None,
            host=None,
            port=0,
            timeout_keep_alive=3600,
        )
    finally:
        await loop.run_in_executor(None, engine.shutdown)
    await closing
    listener.close()


def _start_engine(options: ServerOptions, args: Any) -> Any:
    """vLLM's asynchronous engine.

    On a CPU its core is forked instead of spawned, and computes in its own process: it then starts with
    what this process has imported, which saves two times eight seconds of importing.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    engine_args = AsyncEngineArgs.from_cli_args(args)
    usage = UsageContext.OPENAI_API_SERVER
    config = engine_args.create_engine_config(usage_context=usage)
    if options.device == "cpu":
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    return AsyncLLM.from_vllm_config(
        vllm_config=config,
        usage_context=usage,
        enable_log_requests=False,
        disable_log_stats=engine_args.disable_log_stats,
    )


def _register_architecture(folder: Path) -> None:
    """Has vLLM look at the model's class in this process. It would start another one to do so, which on
    a CPU costs the imports once more and saves nothing."""
    from vllm.model_executor.models.registry import ModelRegistry

    for name in json.loads((folder / "config.json").read_bytes()).get("architectures", ()):
        known = ModelRegistry.models.get(name)
        if known is not None:
            ModelRegistry.register_model(name, known.load_model_cls())


def _listen(path: Path) -> socket.socket:
    """The server's socket: for this account and the folder's group, in place of a stale one."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    return listener


if __name__ == "__main__":
    main()
