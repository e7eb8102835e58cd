"""Registry of components by group, with their options.

Each package registers its components in its `options.py`. User-defined classes and functions are
allowed in trusted modules.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from typing import Any

from dit_lab.codecs import options as codecs
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component
from dit_lab.data import options as data
from dit_lab.evaluation import options as evaluation
from dit_lab.methods import options as methods
from dit_lab.models import options as models
from dit_lab.objectives import options as objectives
from dit_lab.samplers import options as samplers
from dit_lab.training import options as training

PARTS = (models, objectives, methods, training, samplers, data, codecs, evaluation)

COMPONENTS: dict[str, dict[str, type[Component]]] = {
    group: dict(components) for part in PARTS for group, components in part.COMPONENTS.items()
}
"""Group -> dotted name of a component -> its options class. A configuration can name nothing else
of this package.
"""

TORCH_OPTIMIZERS = re.compile(r"torch\.optim\.[A-Z]\w*")
"""Optimizers of torch, which are allowed too; their signatures declare their options."""

COMPONENT_GROUPS = (
    "model", "objective", "coupling", "sampler", "dataset", "codec", "optimizer", "schedule",
)  # fmt: skip

LISTS = ("method", "metric", "hook")
"""Groups with several chosen members, each a component under its own name."""


def options_of(group: str, target: Any) -> type[Component] | None:
    """Return the options class of a registered component by its `_target_`, or None."""
    return COMPONENTS.get(group, {}).get(target) if isinstance(target, str) else None


def is_registered(group: str, target: Any) -> bool:
    """Return whether a name is that of a registered component of the group."""
    if options_of(group, target):
        return True
    is_text = isinstance(target, str)
    return group == "optimizer" and is_text and TORCH_OPTIMIZERS.fullmatch(target) is not None


def refuse_unregistered(named: Iterable[tuple[str, Any]]) -> None:
    """Raise RequestError for (dotted key, `_target_`) neither registered nor in a trusted module.

    The message names the first one, and all modules that would have to be trusted. Nothing is
    imported.
    """
    unknown = [(key, target) for key, target in named if not _may_be_named(key, target)]
    if not unknown:
        return
    key, target = unknown[0]
    group = key.partition(".")[0]
    packages = {str(target).partition(".")[0] for _, target in unknown if "." in str(target)}
    own = sorted(name for name in packages if name.isidentifier() and name not in trust.NEVER)
    hint = (
        f"if you trust that code, add trusted_modules=[{','.join(own)}]"
        if own and len(own) == len(packages)
        else f"choose one with {group}=NAME"
    )
    raise RequestError(f"{key}={target}: no registered {group}; {hint}")


def _may_be_named(key: str, target: Any) -> bool:
    if is_registered(key.partition(".")[0], target):
        return True
    return isinstance(target, str) and trust.is_trusted(target)


def load_component(target: str, *, key: str) -> Any:
    """Return the class or function that `target` names; `key` is for messages: `model._target_`.

    Raises RequestError if it is not registered or trusted, or does not exist.
    """
    refuse_unregistered([(key, target)])
    group = key.partition(".")[0]
    if not is_registered(group, target):
        return trust.load_own(target, key=key)
    module, _, name = target.rpartition(".")
    component = getattr(importlib.import_module(module), name, None)
    if not isinstance(component, type) and target not in COMPONENTS[group]:
        raise RequestError(f"{key}={target}: torch has no such optimizer; torch.optim.AdamW is one")
    return component
