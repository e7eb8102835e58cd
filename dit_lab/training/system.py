"""System metrics, sampled with each logged row, under MLflow's names."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psutil
import torch

MEGABYTE = 1e6  # as in MLflow


class SystemMetrics:
    """CPU and memory of the machine, and the GPUs of this process if nvidia-ml-py is installed."""

    def __init__(self) -> None:
        psutil.cpu_percent()  # the next call reports the usage since this one
        self._nvml, self._gpus = _gpus()

    def sample(self) -> dict[str, float]:
        """Return percentages and megabytes; CPU usage is that since the last sample."""
        memory = psutil.virtual_memory()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
        }
        for index, gpu in enumerate(self._gpus):
            found |= {f"gpu_{index}_{name}": value for name, value in self._of(gpu).items()}
        return {f"system/{name}": round(float(value), 1) for name, value in found.items()}

    def _of(self, gpu: Any) -> dict[str, float]:
        """Return NVML's metrics of a GPU, as far as it supports them."""
        nvml, found = self._nvml, {}
        with suppress(nvml.NVMLError):
            memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
            found["memory_usage_percentage"] = 100 * memory.used / memory.total
            found["memory_usage_megabytes"] = memory.used / MEGABYTE
        with suppress(nvml.NVMLError):
            found["utilization_percentage"] = nvml.nvmlDeviceGetUtilizationRates(gpu).gpu
        with suppress(nvml.NVMLError):
            power, limit = (
                nvml.nvmlDeviceGetPowerUsage(gpu),
                nvml.nvmlDeviceGetEnforcedPowerLimit(gpu),
            )
            found["power_usage_watts"] = power / 1000
            found["power_usage_percentage"] = 100 * power / limit
        return found


def _gpus() -> tuple[Any, list[Any]]:
    """Return NVML and its handles of the GPUs in torch's order; (None, []) if not available."""
    if not torch.cuda.is_available():
        return None, []
    try:
        import pynvml

        pynvml.nvmlInit()
        names = [
            f"GPU-{torch.cuda.get_device_properties(index).uuid}"
            for index in range(torch.cuda.device_count())
        ]
        return pynvml, [pynvml.nvmlDeviceGetHandleByUUID(name) for name in names]
    except Exception:  # not installed, no driver, or MIG: metrics are optional
        return None, []
