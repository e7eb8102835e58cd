"""The lab may grow; what a command trains keeps the hash that was recorded of it."""

from __future__ import annotations

import pytest

from dit_lab.reproduce.expected import read_expected
from dit_lab.reproduce.experiment import find_experiment


@pytest.mark.parametrize(
    "name", ["quickstart", "objectives", "patches", "times", "ema_decays", "guidance_grid"]
)
def test_recorded_experiments_keep_their_hashes(name: str) -> None:
    experiment = find_experiment(name, [], num_seeds=1)
    assert experiment.train_hashes() == read_expected(experiment.folder)["recorded"]["train_hashes"]
