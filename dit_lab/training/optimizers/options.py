"""Options of the optimizers, and properties of each that are needed without torch. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, option

# Annotations are evaluated by OmegaConf 2.3, which knows Optional[...] but not X | None.
# ruff: noqa: UP045

ENTRY = ("match", "lr", "weight_decay", "optimizer")
"""Keys of an entry of `groups`."""


@dataclass
class Optimizer(Component):
    """Options of every optimizer, also of `torch.optim` and user-defined ones."""

    groups: list[Any] = option(
        [],
        later=True,
        transfers=False,
        help="[{match: REGULAR_EXPRESSION, lr: ..., weight_decay: ..., optimizer: MEMBER}, ...]: "
        "the first whose expression matches a parameter's whole name decides",
    )

    package: ClassVar[str | None] = None  # module of an optional dependency
    takes_shards: ClassVar[bool] = True  # supports FSDP2
    copies: ClassVar[float] = 2  # size of its state, relative to the parameters

    def check_together(self) -> None:
        for index, entry in enumerate(self.groups):
            _check_entry(f"groups[{index}]", entry)
            self.check_entry(f"groups[{index}]", entry)

    def check_entry(self, key: str, entry: Mapping[str, Any]) -> None:
        """Raise RequestError for an entry of `groups` that this optimizer does not support."""


@dataclass
class AdamW(Optimizer):
    lr: float = option(1e-4, above=0, transfers=False, help="learning rate")
    betas: list[float] = option([0.9, 0.999], transfers=False, help="decay of the moments")
    eps: float = option(
        1e-8, above=0, transfers=False, help="added to the root of the second moment"
    )
    weight_decay: float = option(0.0, at_least=0, transfers=False, help="decoupled weight decay")
    fused: bool = option(True, help="torch's fused kernel")


@dataclass
class SGD(Optimizer):
    lr: float = option(0.1, above=0, transfers=False, help="learning rate")
    momentum: float = option(
        0.9, at_least=0, below=1, transfers=False, help="momentum of the gradient"
    )
    nesterov: bool = option(False, transfers=False, help="Nesterov momentum")
    weight_decay: float = option(0.0, at_least=0, transfers=False, help="decoupled weight decay")

    copies: ClassVar[float] = 1

    def check_together(self) -> None:
        super().check_together()
        if self.nesterov and not self.momentum:
            raise RequestError("nesterov=true: needs a momentum above 0; give momentum=0.9")


@dataclass
class Muon(Optimizer):
    lr: float = option(1e-3, above=0, transfers=False, help="learning rate")
    momentum: float = option(
        0.95, at_least=0, below=1, transfers=False, help="momentum of the gradient"
    )
    nesterov: bool = option(True, transfers=False, help="Nesterov momentum")
    weight_decay: float = option(0.0, at_least=0, transfers=False, help="decoupled weight decay")
    matrices: str = option(
        r"(.+\.)?(blocks|layers)\.\d+\..+",
        transfers=False,
        help="regular expression: Muon optimises the matrices whose whole names match, AdamW "
        "all other parameters",
    )
    modulation: str = option(
        "adamw",
        choices=("adamw", "muon"),
        transfers=False,
        help="optimizer of the adaLN modulations of the blocks",
    )
    split: bool = option(
        True,
        transfers=False,
        help="orthogonalise qkv as 3 matrices, SwiGLU's w12 as 2 and a modulation as 6; false: as "
        "one",
    )
    scale: str = option(
        "match_rms_adamw",
        choices=("match_rms_adamw", "original"),
        transfers=False,
        help="scale of the step: 0.2 sqrt(max(rows, columns)), as large as AdamW's, or "
        "sqrt(max(1, rows / columns))",
    )
    iterations: int = option(
        5, at_least=1, at_most=99, transfers=False, help="number of Newton-Schulz iterations"
    )
    dtype: str = option(
        "float32",
        choices=("float32", "bfloat16"),
        transfers=False,
        help="precision of the Newton-Schulz iterations",
    )
    adamw_lr: Optional[float] = option(
        None, above=0, transfers=False, help="learning rate of AdamW's parameters; null: lr"
    )
    betas: list[float] = option(
        [0.9, 0.999], transfers=False, help="betas of AdamW, for its parameters"
    )
    eps: float = option(
        1e-8, above=0, transfers=False, help="added to the root of the second moment"
    )

    copies: ClassVar[float] = 4 / 3  # of 18 D^2 in a block, 12 have one copy and 6 two

    def check_together(self) -> None:
        super().check_together()
        if trouble := _regex_error(self.matrices):
            raise RequestError(f"matrices={self.matrices}: no regular expression ({trouble})")
        if self.nesterov and not self.momentum:
            raise RequestError("nesterov=true: needs a momentum above 0; give momentum=0.95")


@dataclass
class ScheduleFreeAdamW(Optimizer):
    lr: float = option(2.5e-3, above=0, transfers=False, help="learning rate")
    betas: list[float] = option([0.9, 0.999], transfers=False, help="decay of the moments")
    eps: float = option(
        1e-8, above=0, transfers=False, help="added to the root of the second moment"
    )
    weight_decay: float = option(
        0.0,
        at_least=0,
        transfers=False,
        help="weight decay at the point where the gradient is taken",
    )
    r: float = option(
        0.0,
        at_least=0,
        transfers=False,
        help="exponent r: step t has the weight t^r in the average",
    )
    weight_lr_power: float = option(
        2.0,
        at_least=0,
        transfers=False,
        help="exponent p: a step has the weight lr^p in the average",
    )

    package: ClassVar[str | None] = "schedulefree"


@dataclass
class Adafactor(Optimizer):
    lr: float = option(
        1e-2, above=0, transfers=False, help="learning rate, at step t at most 1/sqrt(t)"
    )
    beta2_decay: float = option(
        -0.8, below=0, transfers=False, help="exponent of the decay of the second moment"
    )
    eps: list[Optional[float]] = option(
        [None, 1e-3], transfers=False, help="added to the root of the second moment"
    )
    d: float = option(1.0, at_least=1, transfers=False, help="clipping threshold of the update")
    weight_decay: float = option(0.0, at_least=0, transfers=False, help="decoupled weight decay")

    takes_shards: ClassVar[bool] = False
    copies: ClassVar[float] = 0  # only a row and a column per matrix

    def check_together(self) -> None:
        super().check_together()
        if (
            len(self.eps) != 2
            or self.eps[1] is None
            or any(e is not None and e < 0 for e in self.eps)
        ):
            raise RequestError(
                f"eps={self.eps}: expected two numbers of at least 0; the first may be null, as in "
                "[null,0.001]"
            )


@dataclass
class Prodigy(Optimizer):
    lr: float = option(1.0, above=0, transfers=False, help="factor of the estimated step size")
    betas: list[float] = option([0.9, 0.999], transfers=False, help="decay of the moments")
    beta3: Optional[float] = option(
        None,
        at_least=0,
        below=1,
        transfers=False,
        help="decay of Prodigy's own averages; null: sqrt(beta2)",
    )
    eps: float = option(
        1e-8, above=0, transfers=False, help="added to the root of the second moment"
    )
    weight_decay: float = option(0.0, at_least=0, transfers=False, help="decoupled weight decay")
    d0: float = option(1e-6, above=0, transfers=False, help="first step size")
    d_coef: float = option(1.0, above=0, transfers=False, help="factor of the step size")
    growth_rate: Optional[float] = option(
        None,
        above=1,
        transfers=False,
        help="largest growth of the step size in one step; null: no limit",
    )
    use_bias_correction: bool = option(
        False, transfers=False, help="true: bias correction as in Adam"
    )
    safeguard_warmup: bool = option(
        False,
        transfers=False,
        help="true: leave the learning rate out of the estimate of the step size",
    )

    package: ClassVar[str | None] = "prodigyopt"
    takes_shards: ClassVar[bool] = False
    copies: ClassVar[float] = 4

    def check_entry(self, key: str, entry: Mapping[str, Any]) -> None:
        if entry.get("optimizer") in (None, "prodigy") and entry.get("lr") is not None:
            raise RequestError(
                f"{key}.lr={entry['lr']}: Prodigy finds one step size for all its weights; leave "
                "it out, or give optimizer=adamw too"
            )


@dataclass
class Lion(Optimizer):
    lr: float = option(1e-4, above=0, transfers=False, help="learning rate")
    betas: list[float] = option([0.9, 0.99], transfers=False, help="decay of the moments")
    weight_decay: float = option(0.0, at_least=0, transfers=False, help="decoupled weight decay")

    package: ClassVar[str | None] = "lion_pytorch"
    copies: ClassVar[float] = 1


SCHEDULE_FREE = "dit_lab.training.optimizers.packages.schedule_free_adamw"

MEMBERS = {
    "adamw": "torch.optim.AdamW",
    "sgd": "dit_lab.training.optimizers.torch_own.sgd",
    "muon": "dit_lab.training.optimizers.muon.muon",
    "schedule_free_adamw": SCHEDULE_FREE,
    "adafactor": "dit_lab.training.optimizers.torch_own.adafactor",
    "prodigy": "dit_lab.training.optimizers.packages.prodigy",
    "lion": "dit_lab.training.optimizers.packages.lion",
}
"""Targets of the members of the config group `optimizer`; entries of `groups` use the names."""

COMPONENTS: dict[str, type[Optimizer]] = {
    MEMBERS["adamw"]: AdamW,
    MEMBERS["sgd"]: SGD,
    MEMBERS["muon"]: Muon,
    MEMBERS["schedule_free_adamw"]: ScheduleFreeAdamW,
    MEMBERS["adafactor"]: Adafactor,
    MEMBERS["prodigy"]: Prodigy,
    MEMBERS["lion"]: Lion,
}

WITHOUT_SHARDS = ("torch.optim.Adafactor", "torch.optim.Rprop")
"""Optimizers of torch that do not support DTensors: a step raises."""

WITHOUT_SHARDS_IF_FUSED = ("torch.optim.SGD", "torch.optim.Adagrad")

NEVER = {
    "torch.optim.SparseAdam": "takes sparse gradients, and these are dense",
    "torch.optim.Muon": "takes matrices alone; use optimizer=muon, which gives AdamW the rest",
}
"""Optimizers of torch that cannot train these models."""


def kinds_in(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the targets of the optimizers that entries of `groups` name."""
    return [MEMBERS[entry["optimizer"]] for entry in groups if entry.get("optimizer") in MEMBERS]


def _check_entry(key: str, entry: Any) -> None:
    """Raise RequestError for an invalid entry of `groups`."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("match"), str):
        raise RequestError(
            f"{key}={entry}: expected {{match: REGULAR_EXPRESSION}} with lr, weight_decay or "
            "optimizer, such as {match: '.*bias', weight_decay: 0}"
        )
    if unknown := sorted(map(str, entry.keys() - set(ENTRY))):
        raise RequestError(f"{key}.{unknown[0]}: no such key; an entry has {', '.join(ENTRY)}")
    if trouble := _regex_error(entry["match"]):
        raise RequestError(
            f"{key}.match={entry['match']}: no regular expression ({trouble}); '.*' stands for any "
            "text"
        )
    if all(entry.get(name) is None for name in ENTRY[1:]):
        raise RequestError(f"{key}: changes nothing; give lr, weight_decay or optimizer")
    for name, least in (("lr", "above 0"), ("weight_decay", "at least 0")):
        value = entry.get(name)
        if value is not None and not _is_number(value, zero=name == "weight_decay"):
            raise RequestError(f"{key}.{name}={value}: expected a number {least}")
    chosen = entry.get("optimizer")
    allowed = [name for name, target in MEMBERS.items() if target != SCHEDULE_FREE]
    if chosen is not None and chosen not in allowed:
        raise RequestError(f"{key}.optimizer={chosen}: expected one of {', '.join(allowed)}")


def _is_number(value: Any, *, zero: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value < float("inf") and (zero or value > 0)


def _regex_error(pattern: str) -> str:
    """Return why a text is not a regular expression, or "" if it is one."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return ""
