"""DiT Lab: train, sample, evaluate and compare diffusion transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from dit_lab.build.trained import Trained

__version__ = "0.1.0"


def load(run: str, **options: Any) -> Trained:
    """Load a trained model, ready to draw images.

    Args:
        run: a run folder, a checkpoint folder, an exported file, or the id of an MLflow run.
        **options: `weights` ("ema", "ema:0.9999", "raw", ...), `device` (a GPU if there is one),
            `root` (`paths.root`), `codec_path` and `trusted_modules`; see
            `dit_lab.build.trained.load`.

    Returns:
        The model. `sample(labels, seed=0)` returns images uint8 (N, H, W, c) and labels (N,).

    Raises:
        RequestError: if there is no such model, or it cannot be built.
    """
    from dit_lab.build.trained import load as load_trained

    return load_trained(run, **options)


def results(*given: str | Path, **options: Any) -> pd.DataFrame:
    """Return the results of sweeps and runs as a pandas DataFrame.

    Args:
        *given: sweeps and runs, each by its folder, its name, or the id of its MLflow run.
        **options: `root` (`paths.root`) and `only`, the settings of the wanted runs; see
            `dit_lab.report.frame.results`.

    Returns:
        One row per run and evaluation. docs/sweeps.md lists the columns.

    Raises:
        RequestError: if nothing is given, or a sweep, run, setting or value does not exist.
    """
    from dit_lab.report.frame import results as found

    return found(*given, **options)
