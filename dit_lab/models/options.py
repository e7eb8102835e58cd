"""Which options a model can have. Torch-free: the configuration is checked with this before
anything is built, and the model checks itself with it."""

from __future__ import annotations

from dit_lab.core.errors import RequestError

NORMS = ("layer", "rms")
MLPS = ("gelu", "swiglu")


def check_layers(*, norm: str, mlp: str, rope: bool, head_size: int) -> None:
    """Raises RequestError for an unknown kind of layer, and for rotary positions in heads that they
    cannot fill."""
    for name, asked, known in (("norm", norm, NORMS), ("mlp", mlp, MLPS)):
        if asked not in known:
            raise RequestError(f"{name}={asked}: expected {' or '.join(known)}")
    if rope and head_size % 4:
        raise RequestError(
            f"rope=true: a head is {head_size} numbers wide (hidden_size / num_heads); pairs for "
            "rows and for columns need a multiple of 4"
        )


def check_activation_checkpointing(asked: int | str) -> None:
    """Raises RequestError unless it is none, selective, or k for every k-th block."""
    if asked in ("none", "selective") or (type(asked) is int and asked >= 1):
        return
    raise RequestError(
        f"activation_checkpointing={asked}: expected none, selective (all but matrix products and "
        "attention is computed again), or k, which recomputes every k-th block (1: all of them)"
    )


def recomputed(number: int, asked: int | str) -> str:
    """What the block of this number, counted from 1, computes again: nothing, everything, or what
    is selected."""
    if asked in ("none", "selective"):
        return "nothing" if asked == "none" else "selective"
    return "nothing" if number % int(asked) else "everything"
