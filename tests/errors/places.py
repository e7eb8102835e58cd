"""Where results are written: paths.root, and what is left of the disk."""

from __future__ import annotations

from tests.errors.case import Area, Case
from tests.errors.starts import class_folders, wrote

Q = "train experiment=quickstart"
TINY = "train experiment=tiny"

AREA = Area(
    title="Where results go",
    cases=(
        Case(
            title="results in a file",
            command=f"{Q} paths.root=results",
            prepare=wrote("results", ""),
            says="paths.root=FOLDER/results: FOLDER/results is a file; choose a folder",
        ),
        Case(
            title="results below a file",
            command=f"{Q} paths.root=results/2026",
            prepare=wrote("results", ""),
            says="paths.root=FOLDER/results/2026: FOLDER/results is a file; choose a folder",
        ),
        Case(
            title="results on a disk that cannot be written to",
            command=f"{Q} paths.root=disk/results",
            mount={"disk": "ro"},
            says=r"cannot write in FOLDER/disk \(Read-only file system\); choose another",
        ),
        Case(
            title="results among the images",
            command="train experiment=own_images dataset.root=images paths.root=images/results",
            prepare=class_folders,
            says="paths.root=FOLDER/images/results: lies inside dataset.root=FOLDER/images",
        ),
        Case(
            title="a file in the place of the run",
            command=TINY,
            start="recipe",
            prepare=wrote("outputs/runs/tiny", ""),
            says="FOLDER/outputs/runs/tiny/HASH: cannot be created",
            slow=True,
        ),
        Case(
            title="a disk that is full at the second checkpoint",
            command=f"{TINY} tracking=none",
            start="recipe",
            mount={"outputs": "size=300k"},
            says=r"failed: \w+: .*No space left on device.* \(traceback in FOLDER/outputs",
            code=1,
            slow=True,
            leaves=("outputs*",),
        ),
    ),
)
