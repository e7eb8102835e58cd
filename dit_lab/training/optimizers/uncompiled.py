"""Optimizers of torch without their wrappers that disable `torch.compile`."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch.optim import Optimizer

WRAPPED = ("add_param_group", "state_dict", "load_state_dict", "zero_grad")  # besides the step


def without_compiler(kind: type[Optimizer]) -> type[Optimizer]:
    """Return a subclass of a torch optimizer with unwrapped methods; other classes as they are.

    Arithmetic and state are the same; the step must not be compiled. torch's wrappers, which
    disable `torch.compile` in these methods, import the compiler: 1.1 s of processor time before
    the first step (0.001 s without). Methods that a version of torch does not wrap are used as they
    are.
    """
    if not kind.__module__.startswith("torch.optim."):
        return kind
    plain_step = inspect.unwrap(kind.step)

    def step(self: Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return plain_step(self, closure)

    bare = {name: inspect.unwrap(getattr(kind, name)) for name in WRAPPED}
    return type(kind.__name__, (kind,), {**bare, "step": step, "__doc__": kind.__doc__})


class Uncompiled(Optimizer):
    """Base class of the lab's own optimizers: torch's, without these wrappers."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
