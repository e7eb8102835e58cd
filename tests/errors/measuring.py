"""What is asked of a trained run: images, numbers, its page, its state."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.errors.case import Area, Case
from tests.errors.starts import autoencoder, image, only_run, wrote

SAMPLE = "sample run=RUN"


def second_run(folder: Path) -> None:
    run = only_run(folder)
    shutil.copytree(run, run.with_name("0" * 12))


AREA = Area(
    title="Samples, evaluations and the rest",
    cases=(
        Case(title="no run given", command="sample out=a.png", says="run: missing; give run=RUN"),
        Case(title="no run given to evaluate", command="evaluate", says="run: missing; give run="),
        Case(
            title="no such run",
            command="sample run=nowhere",
            says="run=nowhere: does not exist; give a run folder",
        ),
        Case(
            title="a folder that is no run",
            command="evaluate run=.",
            says="run=.: has no config.yaml; give a run folder",
        ),
        Case(
            title="a folder of several runs",
            command="sample run=outputs/runs/tiny",
            start="tiny",
            prepare=second_run,
            says=r"holds 2 runs \(HASH, HASH\); name one of them",
        ),
        Case(
            title="a key that only training has",
            command=f"{SAMPLE} training.total_steps=3",
            start="tiny",
            says="training.total_steps: no such key; dit-lab sample takes run, out, ",
        ),
        Case(
            title="a comparison with what was never measured",
            command="evaluate --compare RUN RUN",
            start="tiny",
            says="outputs/.*/HASH: has no evaluation yet; dit-lab evaluate run=.* makes one",
        ),
        Case(
            title="a comparison with keys",
            command="evaluate --compare a.json b.json sampler.steps=3",
            says="sampler.steps=3: --compare reads what was measured; leave it out",
        ),
        Case(
            title="an unknown key of evaluate",
            command="evaluate run=RUN evaluation.images=3",
            start="tiny",
            says="evaluation.images: no such key",
        ),
        Case(
            title="shards where nothing is trained",
            command=f"{SAMPLE} distributed=fsdp distributed.num_processes=2",
            start="tiny",
            says="distributed=fsdp: only training cuts a model into shards; use distributed=ddp",
        ),
        Case(
            title="no such sampler",
            command=f"{SAMPLE} sampler=eular",
            start="tiny",
            says=r"sampler=eular: no such choice; allowed: .*; did you mean sampler=euler\?",
        ),
        Case(
            title="a sampler that does not fit the run",
            command=f"{SAMPLE} sampler=ddpm",
            start="tiny",
            says="sampler=ddpm: does not fit objective=rectified_flow; allowed: auto, heun, ",
        ),
        Case(
            title="guidance in both conventions, of a run",
            command=f"{SAMPLE} guidance.scale=2 guidance.weight=1",
            start="tiny",
            says="two ways of saying one thing",
        ),
        Case(
            title="a class that the run does not know",
            command=f"{SAMPLE} sample.labels=[10]",
            start="tiny",
            says="10 is no class; allowed: 0 to 9",
        ),
        Case(
            title="labels, which evaluate draws itself",
            command="evaluate run=RUN sample.labels=[3]",
            start="tiny",
            says=r"sample.labels: not used here; evaluation.num_images=N images are drawn",
        ),
        Case(
            title="another codec than the run's",
            command="evaluate run=RUN codec=vae",
            start="tiny",
            says="codec=vae: the run was trained with codec=identity; codec.path=FOLDER says where",
        ),
        Case(
            title="an unknown kind of file",
            command=f"{SAMPLE} out=a.jpg",
            start="tiny",
            says="out=FOLDER/a.jpg: unknown ending .jpg; give NAME.png",
        ),
        Case(
            title="a folder for the images that is not there",
            command=f"{SAMPLE} out=pictures/a.png",
            start="tiny",
            says="the folder FOLDER/pictures does not exist; create it first",
        ),
        Case(
            title="a file where the folder of images should be",
            command=f"{SAMPLE} out=a",
            start="tiny",
            prepare=wrote("a", ""),
            says="out=FOLDER/a: is a file already; choose another name, or move it away",
        ),
        Case(
            title="a folder where the file of images should be",
            command=f"{SAMPLE} out=a.png",
            start="tiny",
            prepare=lambda folder: (folder / "a.png").mkdir(),
            says="out=FOLDER/a.png: is a folder already; choose another name",
        ),
        Case(
            title="a folder for the images that cannot be written to",
            command=f"{SAMPLE} out=pictures/a.png",
            start="tiny",
            mount={"pictures": "ro"},
            says="out=FOLDER/pictures/a.png: no right to write in FOLDER/pictures",
        ),
        Case(
            title="no room for the images",
            command=f"{SAMPLE} out=pictures/a.npz sample.num_images=64",
            start="tiny",
            mount={"pictures": "size=4k"},
            says=r"failed: \[Errno 28\] No space left on device",
            code=1,
            slow=True,
        ),
        Case(
            title="pictures of two channels",
            command=f"{SAMPLE} out=pictures trusted_modules=[mylab]",
            start="own",
            says="images of 2 channels cannot be shown; use an .npz file",
            slow=True,
        ),
        Case(
            title="another autoencoder than the run's",
            command=f"{SAMPLE} out=a.png",
            start="latent",
            prepare=lambda folder: autoencoder(folder / "vae", seed=1),
            says=r"codec.path: other weights than the run was trained with \(HASH, now HASH\)",
            slow=True,
        ),
        Case(
            title="too few images to measure",
            command="evaluate run=RUN evaluation.num_images=20",
            start="tiny",
            says="evaluation.num_images=20: .*too few to compare",
            slow=True,
        ),
        Case(
            title="no images to measure",
            command="evaluate run=RUN",
            start="tiny",
            says="evaluation.num_images=0",
            slow=True,
        ),
        Case(
            title="other data than the run's",
            command="evaluate run=RUN",
            start="latent",
            prepare=lambda folder: image(folder / "images/0/new.png"),
            says=r"not the data that the run was trained on \(HASH, now HASH\)",
        ),
        Case(
            title="data that has gone",
            command="evaluate run=RUN",
            start="latent",
            prepare=lambda folder: shutil.rmtree(folder / "images"),
            says="dataset.root=FOLDER/images: does not exist",
        ),
        Case(
            title="a doctor without runs",
            command="doctor paths.root=2026",
            says="paths.root=FOLDER/2026: holds no runs; give the folder that does",
        ),
        Case(
            title="a doctor asked for more",
            command="doctor seed=3",
            says="seed=3: the doctor takes paths.root=FOLDER only",
        ),
        Case(
            title="no MLflow page without runs",
            command="ui",
            says="no such file; train something first",
        ),
        Case(
            title="a port that there cannot be",
            command="ui --port 70000",
            prepare=wrote("outputs/mlflow.db", ""),
            says="--port 70000: no port; give one from 1 to 65535",
        ),
        Case(
            title="a port that is taken",
            command="ui --port PORT",
            prepare=wrote("outputs/mlflow.db", ""),
            says="--port PORT: taken; give another",
        ),
        Case(
            title="a page of a server's",
            command="ui tracking.uri=https://mlflow.example",
            says="is a server already; open it in a browser",
        ),
        Case(
            title="a page of a database whose driver is not installed",
            command="ui tracking.uri=mysql://me:secret@127.0.0.1/lab",
            says=r"mysql://\*\*\*@127.0.0.1/lab: cannot be used: No module named 'MySQLdb'",
        ),
    ),
)
