"""The weights of a sealed model as a stream, for whichever process holds them.

Knows nothing of vLLM, and loads torch only once it is asked for tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cloister.engine.reports import Loaded, send_report
from cloister.sandbox import fetch_key
from cloister.vault import ObjectReader

if TYPE_CHECKING:
    import torch

_REPORT_EVERY = 16 << 20


class SealedWeights(msgspec.Struct, frozen=True):
    """`--model-loader-extra-config`: which object, and where to ask. No secret.

    `keys` is the key server's socket, None for an object stored in the open; `reports` the socket for
    progress. `manifest_sha256` pins the manifest.
    """

    folder: str
    object_id: str
    manifest_sha256: str | None = None
    keys: str | None = None
    reports: str | None = None

    def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) in the order of the file, each in CPU memory of its own."""
        from cloister.models.tensors import SafetensorsReader

        key = fetch_key(Path(self.keys), self.object_id) if self.keys is not None else None
        files = ObjectReader(
            Path(self.folder), key=key, manifest_sha256=self.manifest_sha256, object_id=self.object_id
        )
        with SafetensorsReader.of(files) as reader:
            done, reported, total = 0, 0, reader.nbytes
            for name, tensor in reader.stream():
                size = tensor.nbytes
                yield name, tensor
                done += size
                if self.reports is not None and (done == total or done - reported >= _REPORT_EVERY):
                    reported = done
                    send_report(Path(self.reports), Loaded(done=done, total=total))
