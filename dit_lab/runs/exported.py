"""Exported runs: safetensors files whose header holds the run's config and identity. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dit_lab.core.errors import RequestError
from dit_lab.core.files import RECORD_BYTES, open_regular, parse_json
from dit_lab.core.text import shell_line
from dit_lab.core.typed import read_as
from dit_lab.runs.records import Header

EXPORTED = ".safetensors"
HEADER_KEY = "dit_lab"  # the key of the header's metadata that holds `records.Header` as JSON


def read_exported(file: Path) -> dict[str, Any]:
    """Return the header of an exported run (see `records.Header`).

    Raises:
        RequestError: the file is damaged, or another program wrote it.
    """
    known = header_of(file)
    if known is None:
        raise RequestError(
            f"{file}: not exported by the lab; "
            f"{shell_line('dit-lab', 'import', file, '--out', 'RUN')} makes a run of it"
        )
    return known


def header_of(file: Path) -> dict[str, Any] | None:
    """Return the header of an exported run, or None if another program wrote the file.

    Raises:
        RequestError: the file is damaged, or its header is longer than RECORD_BYTES.
    """
    again = "fetch it again"
    try:
        with open_regular(file) as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > min(os.fstat(opened.fileno()).st_size, RECORD_BYTES):
                raise ValueError("a header that is too long")
            header = parse_json(opened.read(length))
        known = header.get("__metadata__", {}).get(HEADER_KEY)
        values = None if known is None else parse_json(known.encode())
    except RequestError:
        raise
    except (ValueError, AttributeError, OSError):
        raise RequestError(f"{file}: no safetensors file, or damaged; fetch it again") from None
    return None if values is None else dict(read_as(Header, values, where=file, instead=again))
