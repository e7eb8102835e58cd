"""Step times of a training during an outage of its MLflow server, and what the server has after.

    python -m tests.measure.server_outage --rounds 5 model=pico

In each round the server is killed after `PHASE_SECONDS`, stays away for as long, and is restarted.
Prints the ratio of the median step time during the outage to that outside of it, with its 95%
interval over the rounds, and how many points the server lacks at the end. Steps during the start of
a server, which occupies a core, are excluded.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import tempfile
import time
from pathlib import Path
from statistics import fmean, median, stdev
from threading import Event, Thread

from scipy.stats import t

from dit_lab.actions.train import run_training
from dit_lab.config.checks.training import check_data
from dit_lab.config.compose import compose_train
from dit_lab.core.errors import StopRequested
from dit_lab.core.types import Hook
from dit_lab.runs.finding import all_runs
from dit_lab.runs.folder import read_json
from dit_lab.runs.metrics import read_metrics
from dit_lab.tracking.mlflow_store import clean_key, open_client, prepare_store
from tests.integration.server import free_port, serving
from tests.measure.tracking_cost import RECIPE

PHASE_SECONDS = 20.0
WARM_UP_SECONDS = 8.0


class Steps(Hook):
    """How long steps took while the server was there, away, or starting."""

    def __init__(self) -> None:
        self.phase = "starting"
        self.took: dict[str, list[float]] = {"there": [], "away": [], "starting": []}
        self._last = (time.perf_counter(), self.phase)

    def on_step(self, step: int) -> None:
        now = time.perf_counter()
        before, phase = self._last
        if phase == self.phase:
            self.took[phase].append(now - before)
        self._last = (now, self.phase)


def disturb(folder: Path, port: int, steps: Steps, there: Event, ended: Event) -> None:
    """Start the server, kill it, start it again, and end the training."""
    uri, artifacts = f"sqlite:///{folder}/mlflow.db", folder / "mlartifacts"
    with serving(uri, artifacts, port, folder):
        there.set()
        time.sleep(WARM_UP_SECONDS)
        steps.phase = "there"
        time.sleep(PHASE_SECONDS)
        steps.phase = "away"
    time.sleep(PHASE_SECONDS)
    steps.phase = "starting"
    with serving(uri, artifacts, port, folder):
        steps.phase = "there"
        time.sleep(PHASE_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        ended.wait()


def one_round(overrides: list[str]) -> tuple[Steps, int, int]:
    """Its steps, how many points were written, and how many of them the server does not have."""
    with tempfile.TemporaryDirectory() as name:
        folder, port, steps = Path(name), free_port(), Steps()
        prepare_store(f"sqlite:///{folder}/mlflow.db", experiment="a", artifact_root=folder)
        there, ended = Event(), Event()
        thread = Thread(target=disturb, args=(folder, port, steps, there, ended))
        thread.start()
        config = compose_train(
            [*RECIPE, f"paths.root={folder}", f"tracking.uri=http://127.0.0.1:{port}",
             "training.total_steps=1000000", *overrides]
        )  # fmt: skip
        there.wait()
        with contextlib.suppress(StopRequested):
            run_training(config, check_data(config), display=steps, told={})
        (run,) = all_runs(folder)
        client = open_client(config.tracking.uri)
        run_id = read_json(run.status)["tracking_run_id"]
        written = {
            (clean_key(name), row.step, value)
            for row in read_metrics(run.metrics)
            for name, value in row.metrics.items()
        }
        known = {
            (key, point.step, point.value)
            for key in {key for key, _, _ in written}
            for point in client.get_metric_history(run_id, key)
        }
        ended.set()
        thread.join()
        return steps, len(written), len(written - known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    logs = []
    for _ in range(args.rounds):
        steps, written, lacking = one_round(args.overrides)
        there, away = median(steps.took["there"]), median(steps.took["away"])
        logs.append(math.log(away / there))
        print(
            f"median step {1000 * there:.2f} ms there, {1000 * away:.2f} ms away "
            f"({len(steps.took['there'])} and {len(steps.took['away'])} steps); "
            f"{written} points written, {lacking} of them lacking",
            flush=True,
        )
    half = t.ppf(0.975, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    low, ratio, high = (math.exp(fmean(logs) + side) for side in (-half, 0, half))
    print(f"ratio away to there {ratio:.4f} [{low:.4f}, {high:.4f}] over {len(logs)} rounds")


if __name__ == "__main__":
    main()
