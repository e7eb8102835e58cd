"""Files of another user: the process drops root privileges and the files change owner."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SOMEBODY = 54321  # a user that nobody has to know

AS_AN_ORDINARY_USER = """
import os
if os.getuid() == 0:
    import ctypes
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None, use_errno=True).capset(header, sets) == 0
"""
"""Code that takes from a process of root, for good, the right to pass over permissions."""


def why_not() -> str:
    """Why files of another user cannot be had here; "" where they can."""
    if os.getuid() != 0:
        return ""  # this user's own files, without the right to write, are refused alike
    return "" if sys.platform == "linux" else "root passes over all permissions on this system"


def give_away(folder: Path) -> None:
    """Let everything below a folder be somebody else's, which others can read as before."""
    folder.chmod(0o755)  # pytest's own are for this user alone
    for path in [folder, *folder.rglob("*")]:
        if os.getuid() == 0:
            os.lchown(path, SOMEBODY, SOMEBODY)
        elif not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)


def take_back(folder: Path) -> None:
    """The other way round, so that the folder can be removed."""
    folder.chmod(0o755)
    for path in sorted(folder.rglob("*")):
        if os.getuid() == 0:
            os.lchown(path, 0, 0)
        if not path.is_symlink():
            path.chmod(0o755)
