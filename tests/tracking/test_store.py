"""The MLflow store: created completely or not at all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

MAKE = """
import sys
from pathlib import Path
from dit_lab.core import trust
from dit_lab.tracking.mlflow_store import prepare_store
folder = Path(sys.argv[1])
trust.trust_own_store(folder)
prepare_store(f"sqlite:///{folder}/mlflow.db", experiment="none", artifact_root=folder / "kept")
"""


@pytest.mark.slow
def test_a_kill_while_tables_are_made_leaves_a_store_that_can_be_made(tmp_path: Path) -> None:
    """mlflow cannot go on with a database file that has some of its tables."""
    command = [sys.executable, "-c", MAKE, str(tmp_path)]
    beside = tmp_path / ".mlflow.db.new"
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 120
        while not (beside.exists() and beside.stat().st_size > 100_000):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.001)
        process.kill()
    assert (tmp_path / "mlflow.db").stat().st_size == 0
    subprocess.run(command, check=True)
    assert not list(tmp_path.glob(".mlflow*"))
