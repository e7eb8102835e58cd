"""How a process holds its memory."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from dit_lab.core.processes import keep_freed_memory

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
