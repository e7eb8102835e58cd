"""Which code a configuration may name. `_target_` runs what it names, so the list is short."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dit_lab.types import RequestError

ALLOWED_MODULES = ("dit_lab", "torch.optim")


def refuse_untrusted(target: Any, *, trusted_modules: Sequence[str], key: str) -> None:
    """Raise RequestError unless the name lies in an allowed module. Imports nothing."""
    allowed = (*ALLOWED_MODULES, *trusted_modules)
    if not isinstance(target, str) or not _lies_in(target, allowed):
        raise RequestError(
            f"{key}={target}: not in a trusted module ({', '.join(allowed)}); name your own "
            "package with trusted_modules=[PACKAGE] if you trust its code"
        )


def load_component(target: str, *, trusted_modules: Sequence[str], key: str) -> Any:
    """The class or function that `target` names, which must also be defined in a trusted module."""
    refuse_untrusted(target, trusted_modules=trusted_modules, key=key)
    module_name, _, name = target.rpartition(".")
    _look_here_too(trusted_modules)
    try:
        component = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise RequestError(f"{key}={target}: cannot be imported ({error})") from error
    home = f"{getattr(component, '__module__', '')}.{name}"
    refuse_untrusted(home, trusted_modules=trusted_modules, key=key)
    return component


def source_files(modules: Sequence[str]) -> list[Path]:
    """The source files of the user's trusted packages."""
    _look_here_too(modules)
    files: list[Path] = []
    for module in modules:
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # of a package that `module` says it lies in
            spec = None
        if spec is None:
            raise RequestError(f"trusted_modules={module}: no such package here")
        for folder in spec.submodule_search_locations or []:
            files += Path(folder).rglob("*.py")
        if spec.origin and spec.origin.endswith(".py"):
            files.append(Path(spec.origin))
    return files


def _look_here_too(trusted_modules: Sequence[str]) -> None:
    """A user's module may lie where the command is typed, which an installed command ignores."""
    if trusted_modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def _lies_in(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)
