"""Options of the models and checks of their combinations. Torch-free.

The configuration is checked with them before anything is built, and so is the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, option

NORM = ("layer", "rms")
MLP_KIND = ("gelu", "swiglu")


@dataclass
class DiT(Component):
    patch_size: int = option(
        at_least=1, at_most=1_024, help="pixels or latent cells on a side of a patch"
    )
    hidden_size: int = option(at_least=4, at_most=65_536, help="width of a token")
    depth: int = option(at_least=1, at_most=1_000, help="blocks")
    num_heads: int = option(at_least=1, at_most=65_536, help="attention heads")
    mlp_ratio: float = option(4.0, above=0, help="width of the MLP, as a multiple of hidden_size")
    class_dropout_prob: float = option(
        0.1, at_least=0, below=1, help="label dropout; 0: no null label, so no guidance"
    )
    norm: str = option("layer", choices=NORM, help="LayerNorm, or RMSNorm")
    mlp: str = option("gelu", choices=MLP_KIND, help="GELU, or SwiGLU")
    rope: bool = option(False, help="rotary position embedding, besides the sin-cos one")
    qk_norm: bool = option(False, help="norm of queries and keys")
    activation_checkpointing: Any = option(
        "none", help="none, selective, or k: recompute every k-th block"
    )

    def check_together(self) -> None:
        if self.hidden_size % self.num_heads == 0:  # a DiT refuses other sizes
            head_size = self.hidden_size // self.num_heads
            check_layers(norm=self.norm, mlp=self.mlp, rope=self.rope, head_size=head_size)
        check_activation_checkpointing(self.activation_checkpointing)


def class_dropout(model: Component) -> float:
    """Return the label dropout probability of a model; 0 if it does not have the option."""
    return float(getattr(model, "class_dropout_prob", 0.0))


COMPONENTS: dict[str, dict[str, type[Component]]] = {"model": {"dit_lab.models.dit.DiT": DiT}}


def check_layers(*, norm: str, mlp: str, rope: bool, head_size: int) -> None:
    """Raise RequestError for an unknown norm or MLP, or for RoPE with an unsuitable head width."""
    for name, asked, known in (("norm", norm, NORM), ("mlp", mlp, MLP_KIND)):
        if asked not in known:
            raise RequestError(f"{name}={asked}: expected {' or '.join(known)}")
    if rope and head_size % 4:
        raise RequestError(
            f"rope=true: a head is {head_size} numbers wide (hidden_size / num_heads); pairs for "
            "rows and for columns need a multiple of 4"
        )


def check_activation_checkpointing(asked: int | str) -> None:
    """Raise RequestError unless `asked` is "none", "selective", or k for every k-th block."""
    if asked in ("none", "selective") or (type(asked) is int and asked >= 1):
        return
    raise RequestError(
        f"activation_checkpointing={asked}: expected none, selective (all but matrix products and "
        "attention is computed again), or k, which recomputes every k-th block (1: all of them)"
    )


def recomputed(number: int, asked: int | str) -> str:
    """Return what the backward pass recomputes of block `number` (from 1), as `dit.Block` takes it.

    Args:
        number: number of the block, from 1.
        asked: the option `activation_checkpointing`.
    """
    if asked in ("none", "selective"):
        return "nothing" if asked == "none" else "selective"
    return "nothing" if number % int(asked) else "everything"
