"""System metrics of each logged row."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

from dit_lab.training.system import SystemMetrics


class NVMLError(Exception):
    pass


def nvml() -> Any:
    """What of pynvml is used, for a machine with two GPUs, one of which does not say its power."""
    made = types.ModuleType("pynvml")
    made.NVMLError = NVMLError
    made.nvmlInit = lambda: None
    made.nvmlDeviceGetCount = lambda: 2
    made.nvmlDeviceGetHandleByIndex = lambda index: index
    made.nvmlDeviceGetHandleByUUID = lambda name: int(name.removeprefix("GPU-"))
    made.nvmlDeviceGetMemoryInfo = lambda gpu: types.SimpleNamespace(used=2e9, total=8e9)
    made.nvmlDeviceGetUtilizationRates = lambda gpu: types.SimpleNamespace(gpu=40 + gpu)
    made.nvmlDeviceGetPowerUsage = power
    made.nvmlDeviceGetEnforcedPowerLimit = lambda gpu: 400_000
    return made


def power(gpu: int) -> int:
    if gpu == 1:
        raise NVMLError
    return 100_000


def test_names_and_units_are_mlflows() -> None:
    monitor = CPUMonitor()
    monitor.collect_metrics()
    theirs = monitor.aggregate_metrics()
    ours = SystemMetrics().sample()
    assert {f"system/{name}" for name in theirs} == {n for n in ours if "gpu" not in n}
    for name in ("system_memory_usage_megabytes", "system_memory_usage_percentage"):
        assert ours[f"system/{name}"] == pytest.approx(theirs[name], rel=0.2)
    assert 0 <= ours["system/cpu_utilization_percentage"] <= 100


def test_gpus_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    made = nvml()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.setattr("mlflow.system_metrics.metrics.gpu_monitor.pynvml", made, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    uuid = {0: "1", 1: "0"}  # CUDA_VISIBLE_DEVICES=1,0
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: types.SimpleNamespace(uuid=uuid[index])
    )
    found = SystemMetrics().sample()
    assert found["system/gpu_0_utilization_percentage"] == 41
    assert found["system/gpu_1_utilization_percentage"] == 40
    assert found["system/gpu_1_power_usage_watts"] == 100
    assert found["system/gpu_1_memory_usage_percentage"] == 25
    assert not any(name.startswith("system/gpu_0_power") for name in found)
    monitor = GPUMonitor()
    monitor.collect_metrics()
    theirs = {f"system/{name}" for name in monitor.aggregate_metrics()}
    assert {name.replace("gpu_1", "gpu_0") for name in found if "gpu_1" in name} == {
        name for name in theirs if "gpu_0" in name
    }
