"""The file that is exported of a run: safetensors whose header says what the run's folder says.

Torch-free, as `runs/folder.py` is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dit_lab.core.errors import RequestError
from dit_lab.core.text import shell_line

EXPORTED = ".safetensors"
HEADER_KEY = "dit_lab"  # in the header: what is known of the run, as JSON


def read_exported(file: Path) -> dict[str, Any]:
    """What the header of an exported file says: `config`, `identity`, `step` and `weights`, the
    name of those. RequestError where it is another program's file, or none."""
    known = header_of(file)
    if known is None:
        raise RequestError(
            f"{file}: not exported by the lab; "
            f"{shell_line('dit-lab', 'import', file, '--out', 'RUN')} makes a run of it"
        )
    return known


def header_of(file: Path) -> dict[str, Any] | None:
    """The same, or None where another program wrote the file. RequestError where it is damaged."""
    try:
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(min(length, file.stat().st_size)))
        known = header.get("__metadata__", {}).get(HEADER_KEY)
        return None if known is None else json.loads(known)
    except (ValueError, AttributeError):
        raise RequestError(f"{file}: no safetensors file, or damaged; fetch it again") from None
