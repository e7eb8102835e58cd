"""DiT Lab: train, sample, evaluate and compare diffusion transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from dit_lab.build.trained import Trained

__version__ = "0.1.0"


def load(run: str, **options: Any) -> Trained:
    """A trained model that draws images; see `dit_lab.build.trained.load` for the options."""
    from dit_lab.build.trained import load as load_trained

    return load_trained(run, **options)


def results(*given: str | Path, **options: Any) -> pd.DataFrame:
    """What sweeps and runs have measured, one row for each run and evaluation; see
    `dit_lab.report.frame.results` for the options."""
    from dit_lab.report.frame import results as found

    return found(*given, **options)
