"""Every optimizer of the group, as the lab builds it and as its library is used directly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dit_lab.build.optimizer import single_optimizer
from dit_lab.core.options import arguments_of
from dit_lab.training.optimizers.options import COMPONENTS, MEMBERS

Named = Mapping[str, nn.Parameter]


def make(member: str, weights: Named, **changes: Any) -> Optimizer:
    """An optimizer with its defaults, but for `changes`."""
    target = MEMBERS[member]
    options = arguments_of(COMPONENTS[target](_target_=target)) | changes
    del options["groups"]
    names: dict[Tensor, str] = {weight: name for name, weight in weights.items()}
    return single_optimizer(target, list(weights.values()), names, options)


Stepper = tuple[list[Optimizer], Callable[[], None]]


def _stepper(*optimizers: Any) -> Stepper:
    def step() -> None:
        for optimizer in optimizers:
            optimizer.step()

    return list(optimizers), step


def plain(member: str, weights: Named, hidden: Callable[[str], bool]) -> Stepper:
    """The optimizer of torch or of a package, used as its own documents say."""
    every = list(weights.values())
    if member == "adamw":
        return _stepper(torch.optim.AdamW(every, lr=1e-4, weight_decay=0, fused=True))
    if member == "sgd":
        return _stepper(torch.optim.SGD(every, lr=0.1, momentum=0.9, fused=True))
    if member == "adafactor":
        return _stepper(torch.optim.Adafactor(every))
    if member == "lion":
        from lion_pytorch import Lion

        return _stepper(Lion(every, lr=1e-4, betas=(0.9, 0.99)))
    if member == "prodigy":
        from prodigyopt import Prodigy

        return _stepper(Prodigy(every, growth_rate=math.inf))
    if member == "schedule_free_adamw":
        from schedulefree import AdamWScheduleFree

        optimizer = AdamWScheduleFree(every)
        optimizer.train()
        return _stepper(optimizer)
    assert member == "muon"
    matrices = [weight for name, weight in weights.items() if hidden(name) and weight.ndim == 2]
    rest = [weight for weight in every if not any(weight is matrix for matrix in matrices)]
    return _stepper(
        torch.optim.Muon(matrices, weight_decay=0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=1e-3, weight_decay=0, fused=True),
    )
