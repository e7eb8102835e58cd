"""Trust in child processes and other programs: modules of the folder, and passwords."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dit_lab.cli.main import main
from dit_lab.core import trust
from dit_lab.tracking.mlflow_store import prepare_store
from tests.conftest import TINY
from tests.integration.server import free_port, serving

PASSWORD = "correct-horse-battery"
SHORT = [*TINY, "training.total_steps=2"]
SHADOWING = (
    "secrets", "queue", "yaml", "json", "torch", "omegaconf", "sitecustomize", "dit_lab", "numpy",
)  # fmt: skip


def typed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command as an installed program runs it: the folder is not searched for modules."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "dit_lab", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [["-m", "seed=0,1"], ["distributed=ddp", "precision=fp32"]])
def test_files_here_take_no_module_s_place(how: list[str], tmp_path: Path) -> None:
    """Also where modules of the folder are trusted, and in workers and jobs."""
    for name in SHADOWING:
        (tmp_path / f"{name}.py").write_text(f"open('ran-{name}', 'w')\n")
    (tmp_path / "mine.py").write_text("import secrets\n")
    two = ["distributed.num_processes=2"] if "-m" not in how else []
    words = [*SHORT, "tracking=none", "trusted_modules=[mine]", *how, *two]
    done = typed(tmp_path, "train", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.glob("ran-*"))


def that_show_the_password(folder: Path) -> list[Path]:
    """Files below the folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if PASSWORD.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_password_is_kept_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run, a sweep, an extension, an evaluation and an export, on a real server."""
    kept = tmp_path / "server"
    store = trust.trust_store(f"sqlite:///{kept}/mlflow.db")
    prepare_store(store, experiment="Default", artifact_root=kept / "artifacts")
    monkeypatch.chdir(tmp_path)
    port = free_port()
    plain = f"http://me@127.0.0.1:{port}"
    uri = f"tracking.uri=http://me:{PASSWORD}@127.0.0.1:{port}"
    with serving(store, kept / "artifacts", port, tmp_path):
        assert main(["train", *SHORT, uri]) == 0
        (run,) = Path("outputs/runs/tiny").iterdir()
        assert f"uri: {plain}" in (run / "config.yaml").read_text()
        assert main(["train", "-m", *SHORT, "seed=1,2", "training.total_steps=1", uri]) == 0
        assert main(["train", f"resume={run}", "training.total_steps=3", uri]) == 0
        assert main(["export", str(run), "run.safetensors"]) == 0
        capsys.readouterr()
        assert main(["doctor"]) == 0
        assert f"{plain} is not contacted, since only a file names it" in capsys.readouterr().out
        monkeypatch.setenv(trust.PASSWORD, PASSWORD)
        assert main(["doctor", f"tracking.uri={plain}"]) == 0
        assert "is not contacted" not in capsys.readouterr().out
    assert that_show_the_password(tmp_path) == []
    assert PASSWORD not in capsys.readouterr().out
