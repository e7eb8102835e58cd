"""Which code a configuration may name. `_target_` runs what it names, so the list is short."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dit_lab.core.errors import RequestError

ALLOWED_MODULES = ("dit_lab", "torch.optim")


def refuse_untrusted(target: Any, *, trusted_modules: Sequence[str], key: str) -> None:
    """Raise RequestError unless the name lies in an allowed module. Imports nothing."""
    allowed = (*ALLOWED_MODULES, *trusted_modules)
    if not isinstance(target, str) or not _lies_in(target, allowed):
        raise RequestError(
            f"{key}={target}: not in a trusted module ({', '.join(allowed)}); name your own "
            "package with trusted_modules=[PACKAGE] if you trust its code"
        )


def trusted_list(given: Any) -> list[str]:
    """`trusted_modules` as somebody gave it, which has to be a list."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        shown = "null" if given is None else given
        name = given if isinstance(given, str) else "PACKAGE"
        raise RequestError(
            f"trusted_modules={shown}: expected a list; write trusted_modules=[{name}]"
        )
    return list(given)


def load_component(target: str, *, trusted_modules: Sequence[str], key: str) -> Any:
    """The class or function that `target` names, which must also be defined in a trusted module."""
    refuse_untrusted(target, trusted_modules=trusted_modules, key=key)
    module_name, _, name = target.rpartition(".")
    _look_here_too(trusted_modules)
    try:
        component = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # whatever the user's module does when it is imported
        raise RequestError(f"{key}={target}: cannot be imported ({_reason(error)})") from error
    if not callable(component):
        kind = type(component).__name__
        raise RequestError(f"{key}={target}: is of type {kind}; name a class or a function")
    own_name = getattr(component, "__qualname__", name)  # `name` may be the user's own for it
    home = f"{getattr(component, '__module__', '')}.{own_name}"
    refuse_untrusted(home, trusted_modules=trusted_modules, key=key)
    return component


def source_files(modules: Sequence[str]) -> dict[str, Path]:
    """The source files of the user's trusted packages, by their path within the package."""
    _look_here_too(modules)
    files: dict[str, Path] = {}
    for module in modules:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # of a package that `module` says it lies in, or no name
            spec = None
        if spec is None:
            raise RequestError(
                f"trusted_modules={module}: no such package; type the command in the folder where "
                "it lies, or install it"
            )
        place = module.replace(".", "/")
        for folder in map(Path, spec.submodule_search_locations or []):
            files |= {
                f"{place}/{f.relative_to(folder).as_posix()}": f for f in folder.rglob("*.py")
            }
        if spec.origin and spec.origin.endswith(".py") and not spec.submodule_search_locations:
            files[f"{place}.py"] = Path(spec.origin)
    return files


def _reason(error: Exception) -> str:
    """What went wrong while importing, and in which line of a module, as one line."""
    text = " ".join(str(error).split())
    machinery = (__file__, importlib.__file__, "<frozen")
    calls = traceback.extract_tb(error.__traceback__)
    lines = [call for call in calls if not call.filename.startswith(machinery)]
    at = f", {lines[-1].filename} line {lines[-1].lineno}" if lines else ""
    return f"{type(error).__name__}: {text}{at}"


def _look_here_too(trusted_modules: Sequence[str]) -> None:
    """A user's module may lie where the command is typed, which an installed command ignores."""
    if trusted_modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def _lies_in(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)
