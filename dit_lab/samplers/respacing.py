"""Which timesteps a sampler with few steps visits on a chain of many. Pure Python.

Timesteps ascend from 0 (nearly data) to num_timesteps - 1 (noise); samplers visit them backwards.
"""

from __future__ import annotations

from dit_lab.core.errors import RequestError


def visited(spacing: str, num_timesteps: int, steps: int) -> list[int]:
    """Timesteps by the name of the rule: "even" or "stride"."""
    if spacing == "even":
        return even(num_timesteps, steps)
    if spacing == "stride":
        return stride(num_timesteps, steps)
    raise RequestError(f"spacing: unknown {spacing!r}; use even or stride")


def even(num_timesteps: int, steps: int) -> list[int]:
    """`steps` timesteps as equally spaced as integers allow, first and last included.

    The respacing of Nichol & Dhariwal 2021 that DiT's 250-step results use.
    """
    if not 2 <= steps <= num_timesteps:
        raise RequestError(
            f"steps: {steps} cannot be spread over {num_timesteps} timesteps; "
            f"use 2 to {num_timesteps}"
        )
    gap = (num_timesteps - 1) / (steps - 1)
    timesteps, position = [], 0.0
    for _ in range(steps):
        timesteps.append(round(position))
        # Summed, not multiplied: where rounding is a tie, published samples depend on it.
        position += gap
    return timesteps


def stride(num_timesteps: int, steps: int) -> list[int]:
    """Every k-th timestep from 0, with the smallest k that gives exactly `steps` of them.

    The respacing of DDIM (Song et al. 2020) as the original DiT has it. The last timestep is
    visited only where k happens to hit it.
    """
    # A stride of k visits ceil(num_timesteps / k) timesteps.
    strides: dict[int, int] = {}
    for k in range(1, num_timesteps):
        strides.setdefault(-(-num_timesteps // k), k)
    if steps not in strides:
        below = max((count for count in strides if count < steps), default=None)
        above = min((count for count in strides if count > steps), default=None)
        nearest = " or ".join(str(count) for count in (below, above) if count is not None)
        raise RequestError(
            f"steps: no whole stride visits exactly {steps} of {num_timesteps} timesteps; "
            f"use {nearest}, or spacing=even"
        )
    return list(range(0, num_timesteps, strides[steps]))
