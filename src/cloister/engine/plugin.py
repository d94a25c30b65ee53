"""vLLM's plugin: what every one of its processes does first, and the load format `cloister-sealed`.

Registered as an entry point of group `vllm.general_plugins`; only vLLM calls it. It may be called in
several processes and several times in one.
"""

from __future__ import annotations

import multiprocessing
import os

LOAD_FORMAT = "cloister-sealed"


def register() -> None:
    """Hardens the process, ties its life to its parent's, has oneMKL find its kernels, and registers the
    load format."""
    from cloister.models.vml import resolve_kernels
    from cloister.sandbox import harden_process

    harden_process()
    if multiprocessing.parent_process() is not None:
        end_with_parent()
    allow_amx()
    resolve_kernels()

    from vllm.model_executor.model_loader import _LOAD_FORMAT_TO_MODEL_LOADER, register_model_loader

    if LOAD_FORMAT not in _LOAD_FORMAT_TO_MODEL_LOADER:
        from cloister.engine.loader import SealedModelLoader

        register_model_loader(LOAD_FORMAT)(SealedModelLoader)


def end_with_parent() -> None:
    """Has the kernel end this process when the one that started it ends."""
    from cloister.sandbox.harden import die_with_parent

    die_with_parent(os.getppid())


def allow_amx() -> bool:
    """Asks the kernel for the use of AMX tiles, which vLLM's attention on a CPU that has them takes
    without asking: the first prompt then ends the process with an illegal instruction. Inherited by
    fork, gone after exec. False where the CPU has AMX and the kernel refuses it."""
    import torch

    return not torch.cpu._is_amx_tile_supported() or bool(torch.cpu._init_amx())
