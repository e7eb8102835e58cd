"""Errors of resuming a run and of extending a finished one."""

from __future__ import annotations

import json
from pathlib import Path

from tests.errors.case import Case, heavy
from tests.errors.starts import (
    OWN_PARTS,
    all_flipped,
    all_of,
    autoencoder,
    image,
    killed,
    only_run,
    removed,
    replaced,
    unfinished,
    with_json,
    wrote,
)

TINY = "train experiment=tiny"
MORE = f"{TINY} training.total_steps=8"
OWN = f"{TINY} objective=flow dataset=noise trusted_modules=[mylab]"
LATENT = (
    f"{TINY} dataset=image_folder dataset.root=images dataset.image_size=8 codec=vae "
    "codec.path=vae patch=1"
)


def held(folder: Path) -> None:
    """Somebody writes to the run."""
    from dit_lab.runs.lock import Lease

    Lease(only_run(folder) / "lease").__enter__()


def other_package_code(folder: Path) -> None:
    """The run was made by another version of the package."""
    files = json.loads((only_run(folder) / "identity.json").read_text())["code_files"]
    before = {**files, "dit_lab/models/dit.py": "0" * 12}
    with_json("identity.json", code_hash="0" * 12, code_files=before)(folder)


def cosine(folder: Path) -> None:
    """The run had a schedule that depends on its end."""
    replaced(
        "config.yaml",
        "_target_: dit_lab.training.schedules.Constant",
        "_target_: dit_lab.training.schedules.Cosine\n  final_factor: 0.0",
    )(folder)


def no_checkpoints(folder: Path) -> None:
    for marker in only_run(folder).glob("checkpoints/*/COMPLETE"):
        marker.unlink()


# fmt: off
CASES = (
    Case("a misspelt word", f"{TINY} resume=nevr",
         "resume=nevr: not auto, never or force, and no run: does not exist", start="recipe"),
    Case("a checkpoint in the place of its run", f"{MORE} resume=RUN/checkpoints/step-00000004",
         "a checkpoint; give its run folder, FOLDER/outputs/runs/tiny/HASH", start="tiny"),
    Case("no more steps than the run has", "train resume=force:RUN",
         "is at step 4; give training.total_steps above that, not 4", start="tiny"),
    Case("more steps of something else", "train resume=RUN training.total_steps=8 optimizer.lr=0.1",
         r"optimizer.lr was 0.0001 and is 0.1 here; resume=force:\S+ goes on regardless",
         start="tiny"),
    Case("more steps of a schedule that depends on its end",
         "train resume=RUN training.total_steps=8",
         "schedule=\\w+ depends on training.total_steps, so a run of 8 steps is not one of",
         start="tiny", prepare=cosine),
    Case("more steps of a run without a checkpoint", "train resume=RUN training.total_steps=8",
         "has no checkpoint to go on from", start="tiny", prepare=no_checkpoints),
    heavy("more steps of a run whose checkpoints are all damaged",
         "train resume=RUN training.total_steps=8", "has no whole checkpoint to go on from",
         start="tiny", prepare=all_flipped),
    Case("another version of the package", TINY,
         r"other source code \(dit_lab/models/dit.py changed\); choose resume=never", start="tiny",
         prepare=other_package_code),
    heavy("a trusted module that has changed", OWN,
         r"other source code \(mylab.py changed\); choose resume=never", start="own",
         prepare=wrote("mylab.py", f"{OWN_PARTS}\nUNUSED = 1\n")),
    Case("other images in the folder", LATENT,
         r"other data \(HASH, now HASH\); choose resume=never", start="latent",
         prepare=lambda folder: image(folder / "images/0/new.png")),
    heavy("another autoencoder", LATENT, r"other codec \(HASH, now HASH\); choose resume=never",
         start="latent",
         prepare=all_of(unfinished, lambda folder: autoencoder(folder / "vae", seed=1))),
    Case("a run without its identity", TINY,
         "identity.json is missing, so nothing says what made this run; choose", start="tiny",
         prepare=removed("identity.json")),
    heavy("a second writer", TINY,
         "process PID on HOST has been writing here since TIME; wait for it or stop it",
         start="tiny", prepare=all_of(killed, held)),
    heavy("a second writer who would train anew", f"{TINY} resume=never",
         "process PID on HOST has been writing here since TIME; wait for it or stop it",
         start="tiny", prepare=all_of(killed, held)),
)
