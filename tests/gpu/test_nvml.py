"""The reader of GPUs on a real card: NVML tells what torch does, and the events that it needs are there."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

GIB = 1 << 30


def readings(reader: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """The next ones. Whatever else runs on the card may have an Xid in between."""
    assert reader.stdout is not None
    while True:
        line = json.loads(reader.stdout.readline())
        assert "none" not in line and "failed" not in line, line
        if "gpus" in line:
            found: list[dict[str, Any]] = line["gpus"]
            return found


def test_the_reader_tells_what_torch_does() -> None:
    command = [sys.executable, "-m", "cloister.appliance.gpu_reader", "0.5"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        try:
            torch.zeros(1, device="cuda")
            before = readings(reader)
            assert len(before) >= torch.cuda.device_count()
            kept = torch.ones(2 * GIB, dtype=torch.uint8, device="cuda")
            torch.cuda.synchronize()
            for _ in range(3):  # one may have been on its way
                after = readings(reader)
            risen = [new["memory_used"] - old["memory_used"] for new, old in zip(after, before, strict=True)]
            assert max(risen) > GIB and kept.numel() == 2 * GIB
            gpu = after[risen.index(max(risen))]
            total = torch.cuda.get_device_properties(0).total_memory
            assert gpu["memory_total"] == pytest.approx(total, rel=0.1)
            assert (
                gpu["name"] in torch.cuda.get_device_name(0) or torch.cuda.get_device_name(0) in gpu["name"]
            )
            assert 0 < gpu["temperature_c"] < 120 and 0 <= gpu["utilisation_percent"] <= 100
            assert gpu["power_w"] is None or 1 < gpu["power_w"] < 5000
            assert gpu.get("problem") is None and gpu["recovery"] in (None, "none")
            assert reader.stdin is not None
            reader.stdin.close()  # the authority has ended
            reader.wait(10)
        finally:
            reader.kill()


def test_xids_can_be_waited_for_without_a_privilege() -> None:
    pynvml.nvmlInit()
    try:
        events = pynvml.nvmlEventSetCreate()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        wanted = pynvml.nvmlEventTypeXidCriticalError
        assert pynvml.nvmlDeviceGetSupportedEventTypes(handle) & wanted
        pynvml.nvmlDeviceRegisterEvents(handle, wanted, events)
        with pytest.raises(pynvml.NVMLError_Timeout):
            pynvml.nvmlEventSetWait_v2(events, 100)
        pynvml.nvmlEventSetFree(events)
    finally:
        pynvml.nvmlShutdown()
