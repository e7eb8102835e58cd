"""Checks of combinations of the objectives' options. Torch-free.

The configuration is checked with them before anything is built, and so are the objectives.
"""

from __future__ import annotations

from dit_lab.core.errors import RequestError

LOSS = ("squared", "huber")


def check_ddpm(
    *,
    prediction: str,
    learn_sigma: bool,
    fixed_variance: str | None,
    rescale_bound: bool,
    zero_terminal_snr: bool,
    min_snr_gamma: float | None,
) -> None:
    """Raise RequestError if options of DDPM conflict."""
    if zero_terminal_snr and prediction == "noise":
        raise RequestError(
            "prediction=noise: with zero_terminal_snr the last timestep is pure noise, where a "
            "predicted noise does not determine the data; use prediction=v or prediction=data"
        )
    if zero_terminal_snr and min_snr_gamma is not None:
        raise RequestError(
            f"min_snr_gamma={min_snr_gamma:g}: gives weight 0 to a timestep without signal, so "
            "sampling would start at an untrained timestep; use it or zero_terminal_snr"
        )
    if learn_sigma and fixed_variance is not None:
        raise RequestError(
            f"fixed_variance={fixed_variance}: not with learn_sigma=true, which learns the "
            "variance; use learn_sigma=false"
        )
    if rescale_bound and not learn_sigma:
        raise RequestError(
            "rescale_bound=true: there is no bound in the loss with learn_sigma=false; use "
            "rescale_bound=false"
        )


def check_flow_matching(*, path: str, sigma_min: float | None) -> None:
    """Raise RequestError if `sigma_min` is set for a path other than the linear one."""
    if path != "linear" and sigma_min is not None:
        raise RequestError(
            f"sigma_min={sigma_min:g}: belongs to path=linear; path={path} has none, leave it null"
        )


def check_weighting(*, weighting: str, min_snr_gamma: float | None) -> None:
    """Raise RequestError if both a weighting and `min_snr_gamma` are set."""
    if weighting != "none" and min_snr_gamma is not None:
        raise RequestError(
            f"min_snr_gamma={min_snr_gamma:g}: is a weighting itself; use it or "
            f"weighting={weighting}"
        )


def check_loss(*, loss: str, huber_c: float | None) -> None:
    """Raise RequestError for an unknown loss, or if `huber_c` is set without the Huber loss."""
    if loss not in LOSS:
        raise RequestError(f"loss={loss}: expected {' or '.join(LOSS)}")
    if loss == "squared" and huber_c is not None:
        raise RequestError(f"huber_c={huber_c:g}: belongs to loss=huber; give both, or neither")


def check_guidance_inside(omega: float, kappa: float, interval: tuple[float, ...]) -> None:
    """Raise RequestError if the guidance in the target of MeanFlow is not one."""
    low_high = len(interval) == 2 and 0 <= interval[0] < interval[1] <= 1
    if not low_high:
        raise RequestError(
            f"guidance_interval={list(interval)}: expected [from, to] with 0 <= from < to <= 1"
        )
    if kappa and omega + kappa < 1:
        raise RequestError(
            f"guidance_omega={omega:g}: with guidance_kappa={kappa:g} the guidance scale "
            f"omega / (1 - kappa) is {omega / (1 - kappa):g}; give 1 or more"
        )


def check_time_shift(shift: float | str) -> None:
    """Raise RequestError unless the shift is a number above 0 or "auto"."""
    number = isinstance(shift, int | float) and not isinstance(shift, bool)
    if shift != "auto" and not (number and float(shift) > 0):
        raise RequestError(f"time_shift={shift}: expected a number above 0, or auto")
