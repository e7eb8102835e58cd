"""MLflow's web page: the server that shows it, and addresses in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.tracking.addresses import check_uri, is_server, shown
from dit_lab.tracking.mlflow_store import ENVIRONMENT, open_existing


def newest_pages(uri: str, *, address: str, count: int = 3) -> dict[str, str]:
    """Return experiment -> address of its list of runs, the newest experiments first.

    The server must answer. Its bare address leads to a page about language models.
    """
    order = ["creation_time DESC"]
    found = open_existing(uri).search_experiments(order_by=order, max_results=count)
    return {one.name: address + place_of(one.experiment_id) for one in found}


def place_of(experiment_id: str, *further: str) -> str:
    """Return the place of an experiment's runs on MLflow's page, or of one run or file.

    `further` is the path below the runs: "RUN", "artifacts", "report", "report.html".
    """
    path = "/".join(["experiments", experiment_id, "runs", *further])
    return f"/#/{path}?workflowType=machine_learning"


def ui_command(
    uri: str, *, artifact_root: Path, host: str = "127.0.0.1", port: int
) -> tuple[list[str], dict[str, str]]:
    """Return the command and the whole environment of an MLflow server that shows the store.

    The server has no login and is meant for this machine: anybody who can reach another `host`
    reads and changes every run. Job execution, which runs code for whoever asks, is off. The
    store's address is passed in the environment, because it may hold a password and command lines
    are public.
    """
    check_uri(uri)
    if is_server(uri):
        raise RequestError(f"tracking.uri={shown(uri)}: is a server already; open it in a browser")
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    command += ["--workers", "1", "--artifacts-destination", artifact_root.absolute().as_uri()]
    settings = {
        "MLFLOW_BACKEND_STORE_URI": trust.with_password(uri),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONSAFEPATH": "1",  # else `python -m` imports from the working directory
    }
    return command, {**ENVIRONMENT, **os.environ, **settings}
