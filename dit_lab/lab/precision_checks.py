"""What `precision` and compiled blocks need of this installation. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from shutil import which
from typing import Any

from dit_lab.core.errors import RequestError

Config = Mapping[str, Any]


def check_float8(config: Config) -> None:
    """Refuse a training in float8 that nothing here could run. Raises RequestError."""
    if config["precision"]["mixed_precision"] != "fp8":
        return
    if config["distributed"]["sharded"]:
        raise RequestError(
            f"distributed={config['choices']['distributed']}: precision=fp8 is for whole models; "
            "use distributed=ddp, or precision=bf16"
        )
    if find_spec("torchao") is None:
        raise RequestError(
            "precision=fp8: needs torchao, which is not installed; pip install 'dit-lab[fp8]', or "
            "use precision=bf16"
        )


def check_compiler(config: Config) -> None:
    """Refuse compiled blocks where nothing could compile them. Raises RequestError."""
    compilers = (os.environ.get("CXX", "g++"), "clang++")
    for group in ("training", "sample"):
        wanted = config.get(group, {}).get("compile")
        if wanted and not any(which(name) for name in compilers):
            raise RequestError(
                f"{group}.compile=true: torch.compile needs a C++ compiler, and neither g++ nor "
                "clang++ is here; install one, or leave it out"
            )
