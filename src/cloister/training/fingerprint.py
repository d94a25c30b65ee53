"""Fingerprints of what a run stands on: that a resumed run has the same rows and the same weights in memory.

Objects are checked where they are read; these tell of what became of them since. They lie in sealed
checkpoints alone, for a digest of rows in the open would confirm a guess.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from cloister.training.rows import TokenRows


def rows_fingerprint(rows: TokenRows) -> str:
    """SHA-256, hex, of every row's token ids and mask, in order."""
    digest = hashlib.sha256()
    for array in (rows.offsets, rows.input_ids, rows.supervised):
        digest.update(array.tobytes())
    return digest.hexdigest()


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256, hex, of names and bytes of all parameters that do not train, as they lie in memory."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(name.encode())
            flat = parameter.data.cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
