"""Resources of a process, and its use of freed memory."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

from dit_lab.core.processes import (
    keep_freed_memory,
    most_memory_bytes,
    threads_each,
    usable_cpus,
)

BLOCKS = """
import resource, sys
from dit_lab.core.processes import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def use():
    first, second = (bytearray(b"x") * 2**23 for _ in range(2))

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back")
def test_memory_that_was_freed_is_used_again() -> None:
    """Ten times two blocks of 8 MB are 40,960 pages of 4 kB."""

    def new_pages(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", BLOCKS, how], capture_output=True, check=True)
        return int(done.stdout)

    assert new_pages("kept") < 100
    assert new_pages("as it is") > 10_000  # or there is nothing to be gained


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl and macOS have no such settings, or others under the same name."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    keep_freed_memory()


def test_processors_where_the_system_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 4, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert (usable_cpus(), threads_each(2), threads_each(9)) == (3, 1, 1)


@pytest.mark.parametrize(("counted", "expected"), [(8, 8), (None, 1)])
def test_processors_where_it_does_not(
    counted: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS; some systems do not even count them."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert usable_cpus() == expected


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1), ("freebsd14", 1024)])
def test_memory_in_bytes(system: str, unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=5000))
    monkeypatch.setattr(sys, "platform", system)
    assert most_memory_bytes() == 5000 * unit


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system says no other way")
def test_memory_as_the_system_says_it() -> None:
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("VmHWM")]
    assert most_memory_bytes() == pytest.approx(int(line.split()[1]) * 1024, rel=0.1)
