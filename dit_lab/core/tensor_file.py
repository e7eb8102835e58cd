"""Writing of tensors to a safetensors file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dit_lab.core.files import reset_permissions


def save_tensors(
    tensors: Mapping[str, Tensor], file: Path, header: Mapping[str, str] | None = None
) -> Path:
    """Write tensors to one file with the permissions of newly created files, and return its path.

    The library itself would make it readable only for this user.

    Raises:
        OSError: The disk does not accept the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(on_host, file, dict(header) if header else None)
    except SafetensorError as error:  # its text holds the system's error number
        number = int(found[1]) if (found := re.search(r"os error (\d+)", str(error))) else 0
        raise OSError(number, os.strerror(number) if number else str(error), str(file)) from error
    reset_permissions(file)
    return file
