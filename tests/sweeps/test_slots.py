"""Slots for jobs: devices, number of threads, and an environment without foreign settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dit_lab.core.processes import threads_each
from dit_lab.sweeps.slots import FOREIGN, Slot, make_slots


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", *FOREIGN):
        monkeypatch.delenv(name, raising=False)


def devices(slots: list[Slot]) -> list[str]:
    return [slot.devices for slot in slots]


def smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a program of that name first in the path."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_every_gpu_is_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, "echo 0; echo 1; echo 2", monkeypatch)
    assert devices(make_slots("auto", jobs_per_slot=1)) == ["0", "1", "2"]
    assert sorted(devices(make_slots("auto", jobs_per_slot=2))) == ["0", "0", "1", "1", "2", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")  # somebody has chosen already
    assert devices(make_slots("auto", jobs_per_slot=1)) == ["2", "1"]


def test_without_a_gpu_the_cpu_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, "exit 9", monkeypatch)
    assert devices(make_slots("auto", jobs_per_slot=1)) == [""]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices(make_slots("auto", jobs_per_slot=3)) == ["", "", ""]


def test_sets_of_devices_as_they_are_given() -> None:
    assert devices(make_slots([0, "1,2", "cpu"], jobs_per_slot=1)) == ["0", "1,2", ""]


def test_jobs_on_the_cpu_divide_its_threads() -> None:
    cores = len(os.sched_getaffinity(0))
    for jobs in (1, 2, 2 * cores):
        slots = make_slots(["cpu"], jobs_per_slot=jobs)
        assert {slot.threads for slot in slots} == {threads_each(jobs)}
        assert slots[0].environment()["OMP_NUM_THREADS"] == str(threads_each(jobs))
    assert (threads_each(1), threads_each(2 * cores)) == (cores, 1)
    (gpu,) = make_slots([3], jobs_per_slot=1)
    assert gpu.threads is None
    assert "OMP_NUM_THREADS" not in gpu.environment()


def test_a_job_gets_what_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FOREIGN:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # somebody has chosen
    monkeypatch.setenv("MINE", "kept")
    environment = Slot("0,1", None).environment()
    assert environment.keys().isdisjoint(FOREIGN)
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert environment["MINE"] == "kept"
    assert Slot("", 2).environment()["OMP_NUM_THREADS"] == "7"
