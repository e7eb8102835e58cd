"""Permissions of files follow the umask, so that a group can share runs."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.errors.starts import autoencoder, class_folders

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]
GROUP = "import os; os.umask(0o002)"


def wrong(folder: Path) -> dict[str, str]:
    """Return what lies below a folder with permissions that a umask of 002 would not give."""
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    return {
        str(path.relative_to(folder)): oct(mode)
        for path, mode in modes.items()
        if mode != (0o775 if path.is_dir() else 0o664)
    }


def test_files_of_every_command(
    tmp_path: Path, forked_in: Command, tiny: list[str], run_in: Callable[..., Any]
) -> None:
    def dit_lab(*arguments: str) -> None:
        done = forked_in(tmp_path, *arguments, first=GROUP, few_trees=True)
        assert done.returncode == 0, done.stderr
        assert not wrong(tmp_path), arguments

    short = [*tiny, "training.total_steps=4", "training.checkpoint_every_steps=2"]
    powers = ["ema.power_stds=[0.05,0.1]", "ema.snapshot_every_steps=2"]
    dit_lab("train", *short, *powers, "evaluation.num_images=90")
    run = str(run_in(tmp_path).root)
    dit_lab("sample", f"run={run}", "out=drawn")
    dit_lab("ema", run, "--std", "0.15")
    dit_lab("evaluate", "-m", f"run={run}", "sampler.steps=1,2", "evaluation.num_images=90")
    dit_lab("report", f"runs={run}", "out=page")
    dit_lab("export", run, "model.safetensors")
    dit_lab("export", run, "pipeline", "--format", "diffusers")
    dit_lab("import", "model.safetensors", "--out", "imported")
    dit_lab("reflow", f"run={run}", "pairs.sample.num_images=20", "training.total_steps=2")
    dit_lab("train", f"resume={run}", "training.total_steps=6")
    dit_lab("train", "-m", *short, "seed=1,2", "evaluation.num_images=90")


def test_latents_and_what_is_trained_on_them(
    tmp_path: Path, forked_in: Command, tiny: list[str], run_in: Callable[..., Any]
) -> None:
    class_folders(tmp_path / "data")
    autoencoder(tmp_path / "vae", seed=0)
    for given in (*(tmp_path / "data").rglob("*"), *(tmp_path / "vae").rglob("*")):
        given.chmod(0o775 if given.is_dir() else 0o664)
    (tmp_path / "data").chmod(0o775)
    (tmp_path / "vae").chmod(0o775)

    def dit_lab(*arguments: str) -> None:
        done = forked_in(tmp_path, *arguments, first=GROUP)
        assert done.returncode == 0, done.stderr
        assert not wrong(tmp_path), arguments

    data = ["dataset=image_folder", "dataset.root=data/images", "dataset.image_size=8"]
    dit_lab("check", *data, "out=report.json")
    dit_lab("encode", *data, "codec.path=vae", "out=latents")
    on_latents = ["dataset=latents", "dataset.root=latents", "codec=vae", "codec.path=vae"]
    dit_lab("train", *tiny, "training.total_steps=2", *on_latents, "patch=1", "tracking=none",
            "evaluation.loss_images=2")  # fmt: skip
    dit_lab("export", str(run_in(tmp_path).root), "pipeline", "--format", "diffusers")
