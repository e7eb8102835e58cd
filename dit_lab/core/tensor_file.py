"""Tensors as one safetensors file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dit_lab.core.files import as_created


def save_tensors(
    tensors: Mapping[str, Tensor], file: Path, header: Mapping[str, str] | None = None
) -> Path:
    """Write tensors as one file, which others may read as they may this user's other files;
    OSError where the disk does not take it. Of the library's own it is for this user alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(on_host, file, dict(header) if header else None)
    except SafetensorError as error:  # which is how it says what the system said
        number = int(found[1]) if (found := re.search(r"os error (\d+)", str(error))) else 0
        raise OSError(number, os.strerror(number) if number else str(error), str(file)) from error
    as_created(file)
    return file
