"""Gives a launcher of Hydra's the numbers of the jobs that it is to run:

    python -m dit_lab.sweeps.hydra_host SWEEP 0,3,5 hydra/launcher=joblib hydra.launcher.n_jobs=2

Jobs were composed before; all that Hydra composes is which job it is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dit_lab.sweeps.elsewhere import run_job

CARRIER = {
    "sweep": "???",
    "job": "???",
    "hydra": {
        "mode": "MULTIRUN",
        "output_subdir": None,  # everything that a job writes has its place
        "sweep": {"dir": "${sweep}/launcher", "subdir": "."},
    },
}
QUIET = "hydra/job_logging=disabled"


def task(carried: DictConfig) -> int:
    """What the launcher runs, wherever it runs it."""
    asked = HydraConfig.get().launcher.get("n_jobs") or 1
    here = asked if asked > 0 else len(os.sched_getaffinity(0))
    return run_job(Path(carried.sweep), carried.job, side_by_side=here)


def main(sweep: str, numbers: str, overrides: list[str]) -> None:
    """Run the jobs and return when all have ended."""
    ConfigStore.instance().store("jobs", CARRIER)
    quoted = sweep.replace("\\", "\\\\").replace("'", "\\'")
    sys.argv = ["dit-lab", "--multirun", f"sweep='{quoted}'", f"job={numbers}", QUIET, *overrides]
    hydra.main(version_base="1.3", config_path=None, config_name="jobs")(task)()


if __name__ == "__main__":
    from dit_lab.sweeps.hydra_host import main as importable  # what is pickled has to have a home

    importable(sys.argv[1], sys.argv[2], sys.argv[3:])
