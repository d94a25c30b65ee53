"""A base or merged model, from its files to a module in memory. Local files only.

Knows architectures by what transformers has of them, and how each method keeps the base: bf16 as it
is, or NF4. Knows no adapters, and never reaches for a hub.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from cloister.errors import InvalidInput, Tampered
from cloister.models import nf4
from cloister.models.files import CONFIG_FILES, TOKENIZER_FILES, Files, read_json, unpacked
from cloister.models.tensors import SafetensorsReader
from cloister.models.vml import resolve_kernels

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported; hence before transformers
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

Method = Literal["qlora", "lora", "none"]


def load_base(
    files: Files,
    *,
    method: Method = "none",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Any, Any]:
    """Model and tokenizer of a base model or a (sealed) merged one.

    `qlora` keeps every linear layer but the head in NF4 with double quantisation: real `Linear4bit`
    layers on CUDA; on a CPU plain linear layers in `dtype` that hold the round-tripped weights, which is
    bit for bit what `Linear4bit` computes in training mode (see `nf4`). `lora` and `none` keep them as
    they are. All parameters are frozen; the model is in evaluation mode.

    Raises:
        InvalidInput: the files ask for code of their own, are quantised already, or are of an
            architecture that transformers does not have under these tensor names.
        Tampered, NotFound: a file is damaged or missing.
    """
    with SafetensorsReader.of(files) as reader:
        model = load_model(files, reader.stream(), method=method, device=device, dtype=dtype)
    return model, load_tokenizer(files)


def load_model(
    files: Files,
    weights: Iterable[tuple[str, torch.Tensor]],
    *,
    method: Method = "none",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> Any:
    """The model that `files` describe, filled with `weights`, tensor by tensor.

    Host memory beyond the model's own stays at about two tensors, also where the model lies on CUDA.
    """
    resolve_kernels()
    device = torch.device(device)
    model = empty_model(read_config(files), dtype)
    linear = nf4.linear_layers(model) if method == "qlora" else {}
    quantised = {f"{name}.weight": name for name in linear}
    missing = model.state_dict(keep_vars=True)
    tied = _tied_names(model)
    for name, tensor in weights:
        if name not in missing:
            if name in tied or name.endswith(".rotary_emb.inv_freq"):
                continue
            raise InvalidInput(
                f"tensor {name!r} has no place in {type(model).__name__}",
                where="model.safetensors",
                remedy="This architecture or its file layout is not supported.",
            )
        expected = missing.pop(name)
        if tensor.shape != expected.shape:
            raise Tampered(f"tensor {name!r} does not have the shape that config.json says", where=name)
        if name in quantised and device.type == "cuda":
            weight = tensor.to(device, dtype)
            _replace(model, quantised[name], nf4.quantised_linear(weight, None, device))
            continue
        value = tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        if name in quantised:
            value = nf4.round_trip(value)
        _set_parameter(model, name, value)
    _carry_biases(model, linear)
    model.tie_weights()
    left = [name for name in missing if name not in tied and _is_meta(model, name)]
    if left:
        raise Tampered(f"{len(left)} tensors are missing, {left[0]!r} first", where="model.safetensors")
    model.to(device)
    if "generation_config.json" in set(files.files):
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_dict(read_json(files, "generation_config.json"))
    model.requires_grad_(False)
    model.eval()
    return model


def read_config(files: Files) -> Any:
    """The transformers configuration out of `config.json`; never code that comes with a model."""
    from transformers import CONFIG_MAPPING

    document = read_json(files, "config.json")
    if "auto_map" in document:
        raise InvalidInput("the model asks to run code of its own (auto_map)", where="config.json")
    if document.get("quantization_config"):
        raise InvalidInput(
            "the model is quantised already",
            where="config.json",
            remedy="Import the 16-bit weights: the appliance quantises them itself.",
        )
    model_type = document.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise InvalidInput("its model_type is not one that transformers knows", where="config.json")
    return CONFIG_MAPPING[model_type].from_dict(document)


def empty_model(config: Any, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The causal language model of `config`: its parameters on the meta device, its buffers real."""
    from accelerate import init_empty_weights
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InvalidInput(f"no causal language model of type {config.model_type!r}", where="config.json")
    with init_empty_weights(include_buffers=False), no_init_weights():
        return AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
        )


def load_tokenizer(files: Files) -> Any:
    """The tokenizer, with its chat template. Its files pass through a private temporary folder, which
    in a sandbox is RAM."""
    from transformers import AutoTokenizer

    if "auto_map" in read_json(files, "tokenizer_config.json"):
        raise InvalidInput(
            "the tokenizer asks to run code of its own (auto_map)", where="tokenizer_config.json"
        )
    with unpacked(files, TOKENIZER_FILES | CONFIG_FILES) as folder:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _tied_names(model: nn.Module) -> set[str]:
    if not getattr(model.config, "tie_word_embeddings", False):
        return set()
    tied = getattr(model, "_tied_weights_keys", None) or {}
    return set(tied)


def _module(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, leaf = name.rpartition(".")
    return model.get_submodule(parent), leaf


def _set_parameter(model: nn.Module, name: str, value: torch.Tensor) -> None:
    module, leaf = _module(model, name)
    buffer = leaf in module._buffers
    setattr(module, leaf, value if buffer else nn.Parameter(value, requires_grad=False))


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    module, leaf = _module(model, name)
    setattr(module, leaf, layer)


def _carry_biases(model: nn.Module, linear: dict[str, nn.Linear]) -> None:
    """Moves a bias that was filled on the layer it belonged to before that one became 4-bit."""
    for name, before in linear.items():
        now = model.get_submodule(name)
        if now is not before and before.bias is not None and before.bias.device.type != "meta":
            now.bias = before.bias


def _is_meta(model: nn.Module, name: str) -> bool:
    module, leaf = _module(model, name)
    value = getattr(module, leaf)
    return value is not None and value.device.type == "meta"
