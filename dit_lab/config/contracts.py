"""Contracts of components: the arguments they get, and the methods they must have.

A user-defined class is checked against the contract of its group as soon as it is named.
Torch-free, though modules of the user may import torch.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from dit_lab.core import hook, method, types
from dit_lab.core.errors import RequestError
from dit_lab.core.options import parameters_of


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Requirements of a group on its classes and functions."""

    stated: str  # class with the documentation
    given: tuple[str, ...] = ()  # constructor arguments that are always passed
    offered: tuple[str, ...] = ()  # constructor arguments that are passed if accepted
    calls: Mapping[str, str] = field(default_factory=dict)  # method -> its arguments
    may: Mapping[str, str] = field(default_factory=dict)  # optional method -> its arguments
    static: tuple[str, ...] = ()  # static methods, called with the options
    has: tuple[str, ...] = ()  # required attributes
    extends: str = ""  # required base class
    hears: Mapping[str, str] = field(default_factory=dict)  # methods, at least one of them


CONTRACTS = {
    "model": Contract(
        stated="dit_lab.core.types.Model",
        given=("input_size", "in_channels", "num_classes", "learn_sigma", "generator"),
        offered=("second_time", "conditions", "heads", "fusion"),
        calls={"forward": "x, time, labels"},
        extends="torch.nn.Module",
    ),
    "objective": Contract(
        stated="dit_lab.core.types.Objective",
        offered=("latent_shape",),
        calls={
            "time_from_uniform": "uniform",
            "loss": "predict, batch",
            "model_time": "t",
            "prediction": "output, x, t",
        },
        may={
            "draws": "uniform",
            "conditions": "*, scale, interval",
            "loss_of": "output, batch",
        },
        has=("interpolant", "learn_sigma"),
    ),
    "method": Contract(
        stated="dit_lab.core.method.Method",
        offered=("width", "depth", "tokens", "teacher"),
        calls={"asks": "batch, progress", "terms": "seen, predict, batch, objective"},
        may={"draws": "uniform"},
    ),
    "coupling": Contract(stated="dit_lab.core.types.Coupling", calls={"couple": "batch"}),
    "sampler": Contract(
        stated="dit_lab.core.types.Sampler",
        calls={"sample": "predict, noise, *, interpolant, draw_noise, on_step"},
    ),
    "dataset": Contract(
        stated="dit_lab.core.types.Dataset",
        given=("split",),
        offered=("seed", "reading"),
        calls={"__len__": "", "fetch": "indices, counters"},
        static=("facts",),
    ),
    "codec": Contract(
        stated="dit_lab.core.types.Codec",
        calls={
            "latent_shape": "channels, height, width",
            "moments": "images",
            "decode": "latents",
            "to": "device",
            "latents": "moments, noise",
            "encode": "images, noise",
        },
        has=("fingerprint", "draws"),
    ),
    "optimizer": Contract(
        stated="torch.optim.Optimizer", given=("params",), offered=("parameter_names",)
    ),
    "schedule": Contract(
        stated="dit_lab.core.types.Schedule", calls={"factor": "step, total_steps"}
    ),
    "metric": Contract(
        stated="dit_lab.evaluation.quality.Metric", calls={"tasks": "samples, real"}
    ),
    "hook": Contract(
        stated="dit_lab.core.types.Hook",
        offered=("folder",),
        hears={
            "on_start": "*, first_step, total_steps",
            "on_step": "step",
            "on_metrics": "step, metrics",
            "on_artifact": "step, path",
            "on_message": "text",
            "on_end": "*, status, step, error",
        },
    ),
}
"""Group -> contract of its members."""


def given_in_code(group: str) -> set[str]:
    """Return the constructor arguments that are not options, because the package passes them."""
    contract = CONTRACTS.get(group)
    return {*contract.given, *contract.offered} if contract else set()


@cache
def check_contract(path: str, target: str, component: Any) -> None:
    """Raise RequestError for a user-defined class or function that violates its group's contract.

    `path` is its dotted key. For a function only the arguments are checked, since its result is not
    known.
    """
    contract = CONTRACTS[path.partition(".")[0]]
    trouble = _trouble(contract, component)
    if trouble:
        raise RequestError(f"{path}._target_={target}: {trouble}")


def check_attributes(path: str, target: str, made: Any) -> None:
    """Raise RequestError if an object of a user-defined class lacks a required attribute."""
    contract = CONTRACTS[path.partition(".")[0]]
    lacking = [name for name in contract.has if not hasattr(made, name)]
    if lacking:
        raise RequestError(
            f"{path}._target_={target}: has no {' and no '.join(lacking)}; {contract.stated} says "
            "what it is"
        )


def takes(component: Any, name: str) -> bool:
    """Return whether a class or function accepts an argument of this name."""
    parameters = parameters_of(component)
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _trouble(contract: Contract, component: Any) -> str:
    """Return the violation of a contract and how to repair it, or ""."""
    untaken = [name for name in contract.given if not takes(component, name)]
    if untaken:
        return (
            f"does not take {', '.join(untaken)}, which the lab gives; add "
            f"{'it' if len(untaken) == 1 else 'them'} to the arguments of its constructor"
        )
    for name in contract.static:
        if not hasattr(component, name):
            return f"has no {name}; add a static method `{name}(**options)`, see docs/extend.md"
    if not inspect.isclass(component):
        return ""
    if contract.extends and not _extends(component, contract.extends):
        return f"does not extend {contract.extends}; make it do so"
    for name, arguments in contract.calls.items():
        method = _own(component, name)
        if method is None:
            return f"has no {name}({arguments}); {contract.stated} says what it does"
        if not _can_be_called(component, name, arguments):
            return _uncallable(component, name, arguments)
    for name, arguments in contract.may.items():
        written = _own(component, name) is not None
        if written and not _can_be_called(component, name, arguments):
            return _uncallable(component, name, arguments)
    return _callback_violation(contract, component) if contract.hears else ""


def _callback_violation(contract: Contract, component: Any) -> str:
    """Return the violation for a class whose methods are optional callbacks, or ""."""
    written = [name for name in dir(component) if name.startswith("on_")]
    for name in written:
        if name not in contract.hears:
            near = difflib.get_close_matches(name, contract.hears, n=1)
            hint = f"did you mean {near[0]}?" if near else f"{contract.stated} lists what is"
            return f"{name} is never called; {hint}"
    heard = [name for name in written if _own(component, name) is not None]
    if not heard:
        names = ", ".join(contract.hears)
        return f"has none of {names}; {contract.stated} says when they are called"
    for name in heard:
        if not _can_be_called(component, name, contract.hears[name]):
            return _uncallable(component, name, contract.hears[name])
    return ""


def _uncallable(component: Any, name: str, arguments: str) -> str:
    written = f"{name}{_shown(component, name)}"
    return f"{written} cannot be called as {name}({arguments}); change its arguments"


def _extends(component: Any, name: str) -> bool:
    """Return whether a class extends the public class `name`, wherever its package defines it."""
    package, _, leaf = name.rpartition(".")
    return any(
        base.__qualname__ == leaf and f"{base.__module__}.".startswith(f"{package}.")
        for base in component.__mro__
    )


def _own(component: Any, name: str) -> Any:
    """Return a method, or None if it is missing or a protocol's own without a body."""
    method = getattr(component, name, None)
    stated = getattr(method, "__module__", "") in PROTOCOLS and name not in BODIES
    unwritten = getattr(method, "__name__", "") == "_forward_unimplemented"  # of torch.nn.Module
    return None if stated or unwritten else method


PROTOCOLS = tuple(module.__name__ for module in (types, method, hook))
"""Modules of the protocols."""

BODIES = ("to", "latents", "encode")
"""Methods of the protocols in core/types that have a usable body."""


def _can_be_called(component: Any, name: str, arguments: str) -> bool:
    positional, _, named = arguments.partition("*")
    by_place: list[None] = [None for _ in _names(positional)]
    try:
        _signature(component, name).bind(*by_place, **dict.fromkeys(_names(named)))
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def _names(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def _signature(component: Any, name: str) -> inspect.Signature:
    """Return the signature of a method as called on an object."""
    signature = inspect.signature(getattr(component, name))
    if isinstance(inspect.getattr_static(component, name), staticmethod | classmethod):
        return signature
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _shown(component: Any, name: str) -> str:
    """Return the arguments of a method as written, without types and defaults."""
    bare = [
        parameter.replace(annotation=parameter.empty, default=parameter.empty)
        for parameter in _signature(component, name).parameters.values()
    ]
    return str(inspect.Signature(bare))
