"""Which options of an objective go together. Torch-free: the configuration is checked with this
before anything is built, and the objectives check themselves with it."""

from __future__ import annotations

from dit_lab.core.errors import RequestError


def check_ddpm(
    *,
    prediction: str,
    learn_sigma: bool,
    fixed_variance: str | None,
    rescale_bound: bool,
    zero_terminal_snr: bool,
    min_snr_gamma: float | None,
) -> None:
    """Raises RequestError."""
    if zero_terminal_snr and prediction == "noise":
        raise RequestError(
            "prediction=noise: with zero_terminal_snr the last timestep is noise and nothing else, "
            "so predicting it says nothing of the data; use prediction=v or prediction=data"
        )
    if zero_terminal_snr and min_snr_gamma is not None:
        raise RequestError(
            f"min_snr_gamma={min_snr_gamma:g}: gives a timestep without signal no weight, so "
            "sampling would start where nothing was learned; use it or zero_terminal_snr"
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
    """Raises RequestError."""
    if path != "linear" and sigma_min is not None:
        raise RequestError(
            f"sigma_min={sigma_min:g}: belongs to path=linear; path={path} has none, leave it null"
        )


def check_time_shift(shift: float | str) -> None:
    """A number above 0, or "auto". Raises RequestError."""
    number = isinstance(shift, int | float) and not isinstance(shift, bool)
    if shift != "auto" and not (number and float(shift) > 0):
        raise RequestError(f"time_shift={shift}: expected a number above 0, or auto")
