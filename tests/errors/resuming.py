"""Going on with a run, and more steps for one that has ended."""

from __future__ import annotations

import json
from pathlib import Path

from tests.errors.case import Area, Case
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


AREA = Area(
    title="Going on with a run",
    cases=(
        Case(
            title="a misspelt word",
            command=f"{TINY} resume=nevr",
            start="recipe",
            says="resume=nevr: not auto, never or force, and no run: does not exist",
        ),
        Case(
            title="a run that is not there",
            command=f"{TINY} resume=outputs/runs/tiny/0123",
            start="recipe",
            says="no run: does not exist; give a run folder",
        ),
        Case(
            title="a checkpoint in the place of its run",
            command=f"{MORE} resume=RUN/checkpoints/step-00000004",
            start="tiny",
            says="a checkpoint; give its run folder, FOLDER/outputs/runs/tiny/HASH",
        ),
        Case(
            title="fewer steps than the run has",
            command="train resume=RUN training.total_steps=3",
            start="tiny",
            says="is at step 4; give training.total_steps above that, not 3",
        ),
        Case(
            title="no more steps than the run has",
            command="train resume=force:RUN",
            start="tiny",
            says="is at step 4; give training.total_steps above that, not 4",
        ),
        Case(
            title="more steps of something else",
            command="train resume=RUN training.total_steps=8 optimizer.lr=0.1",
            start="tiny",
            says=r"optimizer.lr was 0.0001 and is 0.1 here; resume=force:\S+ goes on regardless",
        ),
        Case(
            title="more steps of a schedule that depends on its end",
            command="train resume=RUN training.total_steps=8",
            start="tiny",
            prepare=cosine,
            says="schedule=\\w+ depends on training.total_steps, so a run of 8 steps is not one of",
        ),
        Case(
            title="more steps of a run without a checkpoint",
            command="train resume=RUN training.total_steps=8",
            start="tiny",
            prepare=no_checkpoints,
            says="has no checkpoint to go on from",
        ),
        Case(
            title="more steps of a run whose checkpoints are all damaged",
            command="train resume=RUN training.total_steps=8",
            start="tiny",
            prepare=all_flipped,
            says="has no whole checkpoint to go on from",
            slow=True,
        ),
        Case(
            title="another version of the package",
            command=TINY,
            start="tiny",
            prepare=other_package_code,
            says=r"other source code \(dit_lab/models/dit.py changed\); choose resume=never",
        ),
        Case(
            title="a trusted module that has changed",
            command=OWN,
            start="own",
            prepare=wrote("mylab.py", f"{OWN_PARTS}\nUNUSED = 1\n"),
            says=r"other source code \(mylab.py changed\); choose resume=never",
            slow=True,
        ),
        Case(
            title="other images in the folder",
            command=LATENT,
            start="latent",
            prepare=lambda folder: image(folder / "images/0/new.png"),
            says=r"other data \(HASH, now HASH\); choose resume=never",
        ),
        Case(
            title="another autoencoder",
            command=LATENT,
            start="latent",
            prepare=all_of(unfinished, lambda folder: autoencoder(folder / "vae", seed=1)),
            says=r"other codec \(HASH, now HASH\); choose resume=never",
            slow=True,
        ),
        Case(
            title="a run without its identity",
            command=TINY,
            start="tiny",
            prepare=removed("identity.json"),
            says="identity.json is missing, so nothing says what made this run; choose",
        ),
        Case(
            title="a second writer",
            command=TINY,
            start="tiny",
            prepare=all_of(killed, held),
            says="process PID on HOST has been writing here since TIME; wait for it or stop it",
            slow=True,
        ),
        Case(
            title="a second writer who would train anew",
            command=f"{TINY} resume=never",
            start="tiny",
            prepare=all_of(killed, held),
            says="process PID on HOST has been writing here since TIME; wait for it or stop it",
            slow=True,
        ),
    ),
)
