"""`python -m cloister.worker.trial`: quantises a real tensor as QLoRA does, and says whether it came back.

What `cloister doctor` runs in a sandbox to learn whether torch and bitsandbytes work on this machine's device.
Knows no job and no data: the tensor is made up.
"""

from __future__ import annotations

import json
import os
import sys
import time

from cloister.sandbox.harden import harden_process
from cloister.worker.__main__ import place_of, take_output

SIDE = 512
MOST_ERROR = 0.11
"""Mean error of NF4 on normal numbers of deviation 1 (0.073 in theory), with room for the scales' own."""


def main() -> int:
    """Prints one JSON object: `ok`, `device`, `error` (mean absolute), `seconds`, or `problem`."""
    harden_process()
    out = take_output()
    try:
        answer = try_device()
    except BaseException as error:
        answer = {"ok": False, "problem": place_of(error)}
    os.write(out, json.dumps(answer).encode() + b"\n")
    return 0 if answer["ok"] else 1


def try_device() -> dict[str, object]:
    """Quantise, dequantise and multiply once on the GPU if there is one, else on the CPU."""
    import torch

    from cloister.models.nf4 import round_trip

    cuda = torch.cuda.is_available()
    device = torch.device("cuda:0" if cuda else "cpu")
    name = torch.cuda.get_device_name(0) if cuda else "CPU"
    weight = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(device, torch.bfloat16)
    started = time.monotonic()
    back = round_trip(weight)
    error = float((back.float() - weight.float()).abs().mean())
    product = torch.nn.functional.linear(weight[:4], back)
    finite = bool(torch.isfinite(product).all())
    return {
        "ok": finite and 0.0 < error < MOST_ERROR,
        "device": name,
        "error": round(error, 4),
        "seconds": round(time.monotonic() - started, 2),
    }


if __name__ == "__main__":
    sys.exit(main())
