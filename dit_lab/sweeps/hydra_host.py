"""Host process of Hydra's launchers, which get the jobs to run, each as NUMBER@ATTEMPT.

    python -m dit_lab.sweeps.hydra_host SWEEP 0@2.0,3@2.1 hydra/launcher=joblib

The jobs are composed already. All that Hydra composes is the number of the job.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dit_lab.core import trust
from dit_lab.core.processes import end_with_the_parent, usable_cpus
from dit_lab.sweeps.hydra_worker import run_job
from dit_lab.sweeps.queue import name_in_queue

HOST_CONFIG = {
    "sweep": "???",
    "job": "???",
    "typed_in": "???",
    "trusted": {},
    "hydra": {
        "mode": "MULTIRUN",
        "output_subdir": None,  # Hydra writes no files of its own into the jobs' folders
        "sweep": {"dir": "${sweep}/launcher", "subdir": "."},
    },
}
QUIET = "hydra/job_logging=disabled"
RAY = "++hydra.launcher.ray.init.object_store_memory=null"  # a running cluster refuses a size


def task(carried: DictConfig) -> int:
    """Run one job, on the machine where the launcher calls this function."""
    asked = HydraConfig.get().launcher.get("n_jobs") or 1
    here = asked if asked > 0 else usable_cpus()
    sweep, typed_in = Path(carried.sweep), Path(carried.typed_in)
    trusted = {str(name): str(value) for name, value in carried.trusted.items()}
    number, _, attempt = str(carried.job).partition("@")
    return run_job(
        sweep, int(number), attempt, typed_in=typed_in, side_by_side=here, trusted=trusted
    )


def main(sweep: str, jobs: str, overrides: list[str]) -> None:
    """Run the jobs, and return when all have ended or the sweep's process is gone."""
    signal.signal(signal.SIGTERM, lambda number, frame: os.killpg(0, signal.SIGKILL))
    end_with_the_parent()  # by SIGTERM, which ends the launcher's workers too
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its usage by default
    trusted = {name: text for name, text in trust.environment().items() if name != trust.PASSWORD}
    carried = {**HOST_CONFIG, "sweep": sweep, "typed_in": os.getcwd(), "trusted": trusted}
    name = name_in_queue(Path(sweep).name, jobs.partition(",")[0].partition("@")[2])
    ConfigStore.instance().store("jobs", carried)
    ours = [QUIET, RAY] if "hydra/launcher=ray" in overrides else [QUIET]
    sys.argv = ["dit-lab", "--multirun", f"job={jobs}", f"hydra.job.name={name}", *ours, *overrides]
    hydra.main(version_base="1.3", config_path=None, config_name="jobs")(task)()


if __name__ == "__main__":
    from dit_lab.sweeps.hydra_host import main as importable  # pickle needs a module

    importable(sys.argv[1], sys.argv[2], sys.argv[3:])
