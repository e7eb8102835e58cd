"""Errors of commands on a trained run: sampling, evaluation, page, state."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.errors.case import Case, heavy
from tests.errors.starts import autoencoder, image, only_run, wrote

SAMPLE = "sample run=RUN"


def second_run(folder: Path) -> None:
    run = only_run(folder)
    shutil.copytree(run, run.with_name("0" * 12))


# fmt: off
CASES = (
    Case("no run given", "sample out=a.png", "run: missing; give run=RUN"),
    Case("no run given to evaluate", "evaluate", "run: missing; give run="),
    Case("no such run", "sample run=nowhere", "run=nowhere: does not exist; give a run folder"),
    Case("a folder that is no run", "evaluate run=.",
         "run=.: has no config.yaml; give a run folder"),
    Case("a folder of several runs", "sample run=outputs/runs/tiny",
         r"holds 2 runs \(HASH, HASH\); name one of them", start="tiny", prepare=second_run),
    Case("a key that only training has", f"{SAMPLE} training.total_steps=3",
         "training.total_steps: no such key; dit-lab sample takes run, out, ", start="tiny"),
    Case("a comparison with what was never measured", "evaluate --compare RUN RUN",
         "outputs/.*/HASH: has no evaluation yet; dit-lab evaluate run=.* makes one", start="tiny"),
    Case("a comparison with keys", "evaluate --compare a.json b.json sampler.steps=3",
         "sampler.steps=3: --compare takes no overrides; leave it out"),
    Case("an unknown key of evaluate", "evaluate run=RUN evaluation.images=3",
         "evaluation.images: no such key", start="tiny"),
    Case("shards where nothing is trained",
         f"{SAMPLE} distributed=fsdp distributed.num_processes=2",
         "distributed=fsdp: sharding is for training only; use distributed=ddp",
         start="tiny"),
    Case("no such sampler", f"{SAMPLE} sampler=eular",
         r"sampler=eular: no such choice; allowed: .*; did you mean sampler=euler\?", start="tiny"),
    Case("a sampler that does not fit the run", f"{SAMPLE} sampler=ddpm",
         "sampler=ddpm: does not fit objective=rectified_flow; allowed: auto, heun, ",
         start="tiny"),
    Case("guidance in both conventions, of a run", f"{SAMPLE} guidance.scale=2 guidance.weight=1",
         "two conventions of one setting", start="tiny"),
    Case("a class that the run does not know", f"{SAMPLE} sample.labels=[10]",
         "10 is no class; allowed: 0 to 9", start="tiny"),
    Case("labels, which evaluate draws itself", "evaluate run=RUN sample.labels=[3]",
         r"sample.labels: not used here; evaluation.num_images=N images are drawn", start="tiny"),
    Case("another codec than the run's", "evaluate run=RUN codec=vae",
         "codec=vae: the run was trained with codec=identity; codec.path=FOLDER says where",
         start="tiny"),
    Case("an unknown kind of file", f"{SAMPLE} out=a.jpg",
         "out=FOLDER/a.jpg: unknown ending .jpg; give NAME.png", start="tiny"),
    Case("a folder for the images that is not there", f"{SAMPLE} out=pictures/a.png",
         "the folder FOLDER/pictures does not exist; create it first", start="tiny"),
    Case("a file where the folder of images should be", f"{SAMPLE} out=a",
         "out=FOLDER/a: is a file already; choose another name, or move it away", start="tiny",
         prepare=wrote("a", "")),
    Case("a folder where the file of images should be", f"{SAMPLE} out=a.png",
         "out=FOLDER/a.png: is a folder already; choose another name", start="tiny",
         prepare=lambda folder: (folder / "a.png").mkdir()),
    Case("a folder for the images that cannot be written to", f"{SAMPLE} out=pictures/a.png",
         "out=FOLDER/pictures/a.png: no right to write in FOLDER/pictures", start="tiny",
         mount={"pictures": "ro"}),
    heavy("no room for the images", f"{SAMPLE} out=pictures/a.npz sample.num_images=64",
         r"failed: \[Errno 28\] No space left on device", start="tiny",
         mount={"pictures": "size=4k"}, code=1),
    heavy("pictures of two channels", f"{SAMPLE} out=pictures trusted_modules=[mylab]",
         "images of 2 channels cannot be shown; use an .npz file", start="own"),
    heavy("another autoencoder than the run's", f"{SAMPLE} out=a.png",
         r"codec.path: other weights than the run was trained with \(HASH, now HASH\)",
         start="latent", prepare=lambda folder: autoencoder(folder / "vae", seed=1)),
    heavy("too few images to measure", "evaluate run=RUN evaluation.num_images=20",
         "evaluation.num_images=20: .*too few to compare", start="tiny"),
    heavy("no images to measure", "evaluate run=RUN", "evaluation.num_images=0", start="tiny"),
    Case("other data than the run's", "evaluate run=RUN",
         r"not the data that the run was trained on \(HASH, now HASH\)", start="latent",
         prepare=lambda folder: image(folder / "images/0/new.png")),
    Case("data that has gone", "evaluate run=RUN", "dataset.root=FOLDER/images: does not exist",
         start="latent", prepare=lambda folder: shutil.rmtree(folder / "images")),
    Case("a doctor without runs", "doctor paths.root=2026",
         "paths.root=FOLDER/2026: holds no runs; give the folder that does"),
    Case("a doctor asked for more", "doctor seed=3",
         "seed=3: dit-lab doctor takes only paths.root=FOLDER and tracking.uri=ADDRESS"),
    Case("no MLflow page without runs", "ui", "no such file; train something first"),
    Case("a port that there cannot be", "ui --port 70000",
         "--port 70000: no port; give one from 1 to 65535", prepare=wrote("outputs/mlflow.db", "")),
    Case("a port that is taken", "ui --port PORT", "--port PORT: taken; give another",
         prepare=wrote("outputs/mlflow.db", "")),
    Case("a page of a server's", "ui tracking.uri=https://mlflow.example",
         "is a server already; open it in a browser"),
    Case("a page of a database whose driver is not installed",
         "ui tracking.uri=mysql://me:secret@127.0.0.1/lab",
         r"mysql://\*\*\*@127.0.0.1/lab: cannot be used: No module named 'MySQLdb'"),
)
