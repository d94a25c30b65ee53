"""Reads this machine's GPUs through NVML, in a process of its own: one JSON object a line on standard output.

NVIDIA's library waits without limit where the driver hangs, and then nothing but this process does. It knows NVML
(docs.nvidia.com/deploy/nvml-api) and nothing of Cloister; it changes nothing, and needs no privilege.

    {"gpus": [...]}            every so many seconds, each as `cloister.api.GpuStatus` without its holders
    {"xid": 79, "gpu": 0}      when the driver reports one
    {"none": "library"}        there is nothing to read: no library, no driver, or not the Python package for it
    {"failed": "..."}          the library failed as a whole; this process ends
"""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Callable
from ctypes import c_void_p, cast
from typing import Any

RECOVERY = {
    0: "none",
    1: "gpu-reset",
    2: "node-reboot",
    3: "drain-p2p",
    4: "drain-and-reset",
    5: "recover-imex-domain",
    6: "bus-reset",
    7: "system-reboot",
}
"""nvmlDeviceGpuRecoveryAction_t, of drivers that tell it."""

THROTTLES = {
    0x4: "power-cap",
    0x8: "hardware",
    0x20: "software-heat",
    0x40: "hardware-heat",
    0x80: "power-brake",
}
"""nvmlClocksEventReasons: why clocks are held down, but for idleness and wishes."""


class Gpu:
    """One GPU and what can be asked of it. `number` is that of /dev/nvidiaN."""

    def __init__(self, nvml: Any, index: int) -> None:
        self._nvml = nvml
        self.index = self.number = index
        self.handle: Any = None
        self.name, self.lost = "", ""
        try:
            self.handle = nvml.nvmlDeviceGetHandleByIndex(index)
            self.number = self._asked(lambda: nvml.nvmlDeviceGetMinorNumber(self.handle), index)
            self.name = _text(self._asked(lambda: nvml.nvmlDeviceGetName(self.handle), ""))
        except nvml.NVMLError as error:
            self.lost = _lost(nvml, error)

    @property
    def address(self) -> int | None:
        """Where the driver's library keeps it: the same in a handle and in an event."""
        return cast(self.handle, c_void_p).value if self.handle is not None else None

    def register(self, events: Any) -> bool:
        """Have its Xids told to that event set; false where it tells none."""
        nvml = self._nvml
        try:
            wanted = nvml.nvmlEventTypeXidCriticalError
            if self.handle is None or not nvml.nvmlDeviceGetSupportedEventTypes(self.handle) & wanted:
                return False
            nvml.nvmlDeviceRegisterEvents(self.handle, wanted, events)
            return True
        except nvml.NVMLError:
            return False

    def reading(self) -> dict[str, Any]:
        """What the driver says of it now; None for what it does not tell. Raises NVMLError where NVML is gone."""
        found: dict[str, Any] = {"number": self.number, "index": self.index, "name": self.name}
        if self.handle is None:
            return found | {"problem": self.lost}
        try:
            return found | self._read()
        except self._nvml.NVMLError as error:
            return found | {"problem": _lost(self._nvml, error)}

    def _read(self) -> dict[str, Any]:
        nvml, gpu = self._nvml, self.handle
        memory = self._memory()
        load = self._asked(lambda: nvml.nvmlDeviceGetUtilizationRates(gpu))
        power = self._asked(lambda: nvml.nvmlDeviceGetPowerUsage(gpu))
        rows = self._asked(lambda: nvml.nvmlDeviceGetRemappedRows(gpu))
        pages = self._asked(lambda: nvml.nvmlDeviceGetRetiredPagesPendingStatus(gpu))
        reasons = self._asked(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu))
        if reasons is None:  # older drivers know it by its older name
            reasons = self._asked(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))

        def errors(kind: int) -> Any:
            return self._asked(lambda: nvml.nvmlDeviceGetTotalEccErrors(gpu, kind, nvml.NVML_VOLATILE_ECC))

        return {
            "memory_used": memory.used if memory else None,
            "memory_total": memory.total if memory else None,
            "utilisation_percent": load.gpu if load else None,
            "temperature_c": self._asked(
                lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)
            ),
            "slowdown_c": self._asked(
                lambda: nvml.nvmlDeviceGetTemperatureThreshold(gpu, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
            ),
            "power_w": power / 1000 if power is not None else None,
            "ecc_corrected": errors(nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            "ecc_uncorrected": errors(nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            "repair_pending": bool((rows and rows[2]) or pages),
            "repair_failed": bool(rows and rows[3]),
            "throttled_by": [name for bit, name in THROTTLES.items() if (reasons or 0) & bit],
            "recovery": self._recovery(),
        }

    def _memory(self) -> Any:
        """A GPU that cannot even tell its memory is not well; where it is split, it may not."""
        nvml = self._nvml
        try:
            return nvml.nvmlDeviceGetMemoryInfo(self.handle)
        except nvml.NVMLError as error:
            if error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION):
                return None
            raise

    def _recovery(self) -> str | None:
        nvml = self._nvml
        field = nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
        values = self._asked(lambda: nvml.nvmlDeviceGetFieldValues(self.handle, [field]))
        if values is None or values[0].nvmlReturn != nvml.NVML_SUCCESS:
            return None
        return RECOVERY.get(values[0].value.uiVal, "unknown")

    def _asked(self, call: Callable[[], Any], otherwise: Any = None) -> Any:
        """An answer, or `otherwise` where this GPU or driver has none. Raises NVMLError where the GPU is lost."""
        try:
            return call()
        except self._nvml.NVMLError as error:
            if error.value in _losses(self._nvml):
                raise
            return otherwise


def _losses(nvml: Any) -> dict[int, str]:
    return {nvml.NVML_ERROR_GPU_IS_LOST: "lost", nvml.NVML_ERROR_RESET_REQUIRED: "reset-required"}


def _lost(nvml: Any, error: Any) -> str:
    return _losses(nvml).get(error.value, "unreadable")


def _text(name: Any) -> str:
    told = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    return "".join(c for c in told if c.isprintable())[:64]


def tell(**line: Any) -> None:
    sys.stdout.write(json.dumps(line, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def watch(nvml: Any, every_s: float) -> None:
    """Tell readings and Xids until standard input ends. Raises NVMLError, BrokenPipeError."""
    gpus = [Gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    events = nvml.nvmlEventSetCreate()
    told = [gpu.register(events) for gpu in gpus]
    numbers = {gpu.address: gpu.number for gpu in gpus}
    while True:
        tell(gpus=[gpu.reading() for gpu in gpus])
        until = time.monotonic() + every_s
        while (left := until - time.monotonic()) > 0:
            _wait(nvml, events if any(told) else None, left, numbers)
        if select.select([sys.stdin], [], [], 0)[0]:
            return


def _wait(nvml: Any, events: Any, left_s: float, numbers: dict[int | None, int]) -> None:
    """One Xid, or none in that time."""
    try:
        if events is not None:
            event = nvml.nvmlEventSetWait_v2(events, max(1, int(left_s * 1000)))
            if event.eventType == nvml.nvmlEventTypeXidCriticalError:
                number = numbers.get(cast(event.device, c_void_p).value)
                tell(xid=int(event.eventData), gpu=number)
            return
    except nvml.NVMLError as error:
        if error.value == nvml.NVML_ERROR_TIMEOUT:
            return
    time.sleep(left_s)  # it tells no events, or none now: the readings say why


def main() -> None:
    try:
        import pynvml
    except ImportError:
        tell(none="package")
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        absent = {
            pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "library",
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "driver",
        }
        if error.value in absent:
            tell(none=absent[error.value])
        else:
            tell(failed=str(error)[:100])
        return
    try:
        watch(pynvml, float(sys.argv[1]))
    except pynvml.NVMLError as error:
        tell(failed=str(error)[:100])
    except BrokenPipeError:
        sys.stderr.close()


if __name__ == "__main__":
    main()
