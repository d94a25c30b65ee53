"""Importing a base model's files and checking them again before use: no torch, nothing executed.

Knows the allow-list, what config and index must say, and that what was checked is what is stored; it
does not load a tensor. Weights are copied, not kept in memory.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from cloister.errors import InvalidInput, Tampered
from cloister.models.files import Files
from cloister.models.safetensors_header import PREFIX, Header, header_size, parse_header
from cloister.sources import SHARD_INDEX, WEIGHTS, refusal_of
from cloister.vault import ObjectReader, ObjectWriter

ARCHITECTURES = frozenset(
    {
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "GemmaForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Phi3ForCausalLM",
    }
)
WEIGHT_DTYPES = frozenset({"BF16", "F16", "F32"})
REQUIRED = ("config.json", "tokenizer.json", "tokenizer_config.json")

COPY_BLOCK = 1 << 20
MAX_TEXT = 64 << 20
MAX_JSON_DEPTH = 64
_CODE_KEYS = frozenset({"auto_map", "custom_pipelines", "trust_remote_code"})
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors\Z")

Progress = Callable[[int, int], None]


def import_base(
    files: Mapping[str, int | BinaryIO], writer: ObjectWriter, progress: Progress
) -> dict[str, Any]:
    """Check a model's files and copy them into a new object, each hashed on the way.

    Args:
        files: descriptors or streams of regular files by name; read from their start.
        writer: the new, unsealed object; this adds the files, the caller finishes it.
        progress: gets bytes done and bytes in all.

    Returns:
        the object's details: architecture, parameters, vocabulary size, hidden size, layers, context
        length, dtype, whether there is a chat template, tensors, shards.

    Raises:
        InvalidInput: a name, a config or a header is not what it must be; nothing is to be kept then.
    """
    _check_names(files)
    streams = {name: _stream(name, file) for name, file in files.items()}
    try:
        sizes = {name: _regular_size(name, stream) for name, stream in streams.items()}
        for name, size in sizes.items():
            if not WEIGHTS.fullmatch(name) and size > MAX_TEXT:
                raise _bad(f"larger than {MAX_TEXT} bytes", name)
        texts = {
            name: _exactly(stream, sizes[name], name)
            for name, stream in streams.items()
            if not WEIGHTS.fullmatch(name)
        }
        fronts = {
            name: _front(stream, sizes[name], name)
            for name, stream in streams.items()
            if WEIGHTS.fullmatch(name)
        }
        details = _details(texts, {name: header for name, (_, header) in fronts.items()})
        done, total = 0, sum(sizes.values())
        for name in sorted(streams):
            with writer.create(name) as file:
                for block in _blocks(name, texts, fronts, streams[name], sizes[name]):
                    file.write(block)
                    done += len(block)
                    progress(done, total)
    finally:
        for name, stream in streams.items():
            if isinstance(files[name], int):
                stream.close()
    return details


def check_base(reader: ObjectReader, *, full: bool = True) -> dict[str, Any]:
    """Check a stored base model again before it is used; returns its details anew.

    Args:
        full: also hash every byte of every file (a setting for weights on a disk that is trusted).

    Raises:
        Tampered: a file is not what the manifest says.
        InvalidInput: the files are no base model.
    """
    if reader.manifest.kind != "base":
        raise InvalidInput("this object is not a base model", where=reader.manifest.object_id)
    reader.check(full=full)
    details = base_details(reader)
    recorded = reader.manifest.details
    if any(name in recorded and recorded[name] != value for name, value in details.items()):
        raise Tampered(
            "the model is not the one that the manifest describes", where=str(reader.manifest.object_id)
        )
    return details


def base_details(files: Files) -> dict[str, Any]:
    """Architecture, parameters, sizes and shape of a model's files. Errors: InvalidInput where they are none."""
    _check_names(dict.fromkeys(files.files))
    texts: dict[str, bytes] = {}
    headers: dict[str, Header] = {}
    for name in files.files:
        with files.open(name) as file:
            if WEIGHTS.fullmatch(name):
                size = header_size(file.read(0, PREFIX.size), file.size, name)
                headers[name] = parse_header(file.read(PREFIX.size, size), file.size, name)
            elif file.size > MAX_TEXT:
                raise _bad(f"larger than {MAX_TEXT} bytes", name)
            else:
                texts[name] = file.read(0, file.size)
    return _details(texts, headers)


def _check_names(names: Mapping[str, object]) -> None:
    for name in sorted(names):
        if refusal := refusal_of(name):
            shown = name if name.isprintable() and len(name) < 256 else "a file name that cannot be shown"
            raise InvalidInput(refusal[0], where=shown, remedy=refusal[1])
    for name in REQUIRED:
        if name not in names:
            raise InvalidInput(
                "this file is missing",
                where=name,
                remedy="A base model needs its config and a fast tokenizer.",
            )
    weights = [name for name in names if WEIGHTS.fullmatch(name)]
    if not weights:
        raise InvalidInput(
            "there are no weights",
            where="model.safetensors",
            remedy="Only safetensors are imported; convert the model first.",
        )
    single = "model.safetensors" in names
    if single and (len(weights) > 1 or SHARD_INDEX in names):
        raise InvalidInput(
            "there are both a whole model and shards of one",
            where="model.safetensors",
            remedy="Keep one of them.",
        )
    if not single and SHARD_INDEX not in names:
        raise _bad("the shards' index is missing", SHARD_INDEX)


def _details(texts: Mapping[str, bytes], headers: Mapping[str, Header]) -> dict[str, Any]:
    """Everything about config, index, tokenizer and headers, checked against each other."""
    config = _document(texts, "config.json")
    architecture, sizes = _check_config(config)
    tokenizer = _document(texts, "tokenizer_config.json")
    tokens = _document(texts, "tokenizer.json")
    if not isinstance(tokens.get("model"), dict):
        raise _bad("this is no tokenizer of the `tokenizers` library", "tokenizer.json")
    for name in ("generation_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"):
        if name in texts:
            _document(texts, name)
    for name in ("chat_template.jinja", "merges.txt", "vocab.txt"):
        _text(texts, name)
    if SHARD_INDEX in texts:
        _check_index(_document(texts, SHARD_INDEX), headers)
    tensors = _merged(headers)
    embedding = tensors.get("model.embed_tokens.weight")
    if embedding is None or embedding.shape != (sizes["vocab_size"], sizes["hidden_size"]):
        raise InvalidInput(
            "the input embeddings are not there, or not of the size that config.json says",
            where="model.embed_tokens.weight",
            remedy="Weights and config.json belong to different models.",
        )
    template = tokenizer.get("chat_template")
    return {
        "architecture": architecture,
        "parameters": sum(info.elements for info in tensors.values()),
        "tensors": len(tensors),
        "shards": len(headers),
        "dtype": sorted({info.dtype for info in tensors.values()})[0],
        "chat_template": bool(template) or "chat_template.jinja" in texts,
        "shape": _shape(config, sizes, tensors),
        **sizes,
    }


def _check_config(config: dict[str, Any]) -> tuple[str, dict[str, int]]:
    where = "config.json"
    named = config.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise _bad("exactly one architecture must be named", where)
    architecture = named[0]
    if architecture not in ARCHITECTURES:
        raise InvalidInput(
            "this architecture is not known here",
            where=where,
            remedy=f"Known are {', '.join(sorted(ARCHITECTURES))}.",
        )
    if "quantization_config" in config:
        raise InvalidInput(
            "these weights are quantised already",
            where=where,
            remedy="Import the 16-bit model; Cloister quantises by itself while training.",
        )
    wanted = {
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "num_hidden_layers": "layers",
        "max_position_embeddings": "context_length",
    }
    sizes: dict[str, int] = {}
    for key, name in wanted.items():
        value = config.get(key)
        if type(value) is not int or not 0 < value < 1 << 31:
            raise _bad(f"`{key}` must be a whole number above 0", where)
        sizes[name] = value
    return architecture, sizes


def _shape(config: Mapping[str, Any], sizes: Mapping[str, int], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What memory and time depend on: heads, and the linear layers of the decoder as [in, out, how many]."""

    def number(key: str, otherwise: int) -> int:
        value = config.get(key)
        return value if type(value) is int and 0 < value < 1 << 31 else otherwise

    heads = number("num_attention_heads", 1)
    linear = Counter(
        (info.shape[1], info.shape[0])
        for name, info in tensors.items()
        if name.endswith("_proj.weight") and len(info.shape) == 2
    )
    return {
        "heads": heads,
        "kv_heads": number("num_key_value_heads", heads),
        "head_dim": number("head_dim", max(1, sizes["hidden_size"] // heads)),
        "intermediate": number("intermediate_size", 4 * sizes["hidden_size"]),
        "linear": [[wide, tall, count] for (wide, tall), count in sorted(linear.items())],
    }


def _check_index(index: dict[str, Any], headers: Mapping[str, Header]) -> None:
    """The index names each tensor of each shard, each shard is there, and their numbers are whole."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _bad("there is no weight_map", SHARD_INDEX)
    total = len(headers)
    for name in headers:
        match = _SHARD.fullmatch(name)
        if match is None or int(match[2]) != total or not 1 <= int(match[1]) <= total:
            raise _bad(f"{total} shards are here, which its name denies", name)
    for tensor, name in weight_map.items():
        if name not in headers:
            raise _bad("the index names a shard that is not here", SHARD_INDEX)
        if tensor not in headers[name].tensors:
            raise _bad("the index names a tensor that this shard has not", name)
    for name, header in headers.items():
        if any(weight_map.get(tensor) != name for tensor in header.tensors):
            raise _bad("this shard has a tensor that the index does not put here", name)


def _merged(headers: Mapping[str, Header]) -> dict[str, Any]:
    tensors = {}
    for name, header in headers.items():
        for tensor, info in header.tensors.items():
            if info.dtype not in WEIGHT_DTYPES:
                raise InvalidInput(
                    f"tensor `{tensor}` is {info.dtype}",
                    where=name,
                    remedy=f"Weights must be {', '.join(sorted(WEIGHT_DTYPES))}.",
                )
            tensors[tensor] = info
    return tensors


def _document(texts: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """A JSON object, without a key that would make a library load code."""
    try:
        value = json.loads(_text(texts, name))
    except (ValueError, RecursionError):
        raise _bad("not valid JSON", name) from None
    if not isinstance(value, dict):
        raise _bad("not a JSON object", name)
    if name not in ("tokenizer.json", "vocab.json", "added_tokens.json"):
        _refuse_code(value, name, 0)
    return value


def _refuse_code(value: Any, where: str, depth: int) -> None:
    if depth > MAX_JSON_DEPTH:
        raise _bad("nested too deeply", where)
    if isinstance(value, dict):
        if found := _CODE_KEYS & value.keys():
            raise InvalidInput(
                f"`{min(found)}` makes a library run code from the model's folder",
                where=where,
                remedy="Only models that transformers knows by itself are imported.",
            )
        value = list(value.values())
    if isinstance(value, list):
        for child in value:
            _refuse_code(child, where, depth + 1)


def _text(texts: Mapping[str, bytes], name: str) -> str:
    try:
        return texts.get(name, b"").decode()
    except UnicodeDecodeError as error:
        raise _bad(f"invalid UTF-8 at byte {error.start + 1}", name) from None


def _stream(name: str, file: int | BinaryIO) -> BinaryIO:
    if isinstance(file, int):
        return os.fdopen(os.dup(file), "rb", buffering=0)
    return file


def _regular_size(name: str, stream: BinaryIO) -> int:
    try:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _bad("not a regular file", name)
    except (OSError, AttributeError):
        pass
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return size


def _front(stream: BinaryIO, size: int, name: str) -> tuple[bytes, Header]:
    """Prefix and header as they will be stored, and the header checked."""
    prefix = _exactly(stream, min(PREFIX.size, size), name)
    data = _exactly(stream, header_size(prefix, size, name), name)
    return prefix + data, parse_header(data, size, name)


def _blocks(
    name: str,
    texts: Mapping[str, bytes],
    fronts: Mapping[str, tuple[bytes, Header]],
    stream: BinaryIO,
    size: int,
) -> Iterator[bytes | memoryview]:
    """The file's bytes: those that were checked from memory, the rest of the weights as they come."""
    if name in texts:
        yield texts[name]
        return
    front = fronts[name][0]
    yield front
    left = size - len(front)
    buffer = memoryview(bytearray(COPY_BLOCK))
    while left:
        count = _fill(stream, buffer[: min(left, COPY_BLOCK)], name)
        yield buffer[:count]
        left -= count
    if stream.read(1):
        raise _changed(name)


def _exactly(stream: BinaryIO, count: int, name: str) -> bytes:
    buffer = bytearray(count)
    view = memoryview(buffer)
    while view:
        view = view[_fill(stream, view, name) :]
    return bytes(buffer)


def _fill(stream: BinaryIO, view: memoryview, name: str) -> int:
    count: int | None = stream.readinto(view)  # type: ignore[attr-defined]
    if not count:
        raise _changed(name)
    return count


def _bad(rule: str, where: str) -> InvalidInput:
    return InvalidInput(rule, where=where, remedy="Fetch or convert the model again.")


def _changed(name: str) -> InvalidInput:
    return InvalidInput("the file changed while it was read", where=name, remedy="Import it again.")
