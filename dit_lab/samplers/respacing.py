"""Respacing: the timesteps that a sampler visits on a chain. Pure Python.

Timesteps ascend from 0 (nearly data) to num_timesteps - 1 (noise); samplers visit them backwards.
"""

from __future__ import annotations

from dit_lab.core.errors import RequestError


def visited(spacing: str, num_timesteps: int, steps: int) -> list[int]:
    """Return the ascending timesteps of a rule, "even" or "stride".

    Raises:
        RequestError: the rule is unknown or cannot give `steps` timesteps.
    """
    if spacing == "even":
        return even(num_timesteps, steps)
    if spacing == "stride":
        return stride(num_timesteps, steps)
    raise RequestError(f"spacing: unknown {spacing!r}; use even or stride")


def even(num_timesteps: int, steps: int) -> list[int]:
    """Return `steps` timesteps spaced as equally as integers allow, first and last included.

    The respacing of Nichol & Dhariwal 2021, which DiT's 250-step results use.

    Raises:
        RequestError: `steps` is not between 2 and `num_timesteps`.
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
        # A sum, not a product: they round ties differently, and published samples use the sum.
        position += gap
    return timesteps


def stride(num_timesteps: int, steps: int) -> list[int]:
    """Return every k-th timestep from 0, with the smallest k that gives exactly `steps` of them.

    The respacing of DDIM (Song et al. 2020) in the original DiT. It includes the last timestep only
    if k divides num_timesteps - 1.

    Raises:
        RequestError: no k gives `steps` timesteps; the message names the nearest numbers that work.
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
