"""Errors of output locations: paths.root and disk space."""

from __future__ import annotations

from tests.errors.case import Case, heavy
from tests.errors.starts import class_folders, wrote

Q = "train experiment=quickstart"
TINY = "train experiment=tiny"

# fmt: off
CASES = (
    Case("results in a file", f"{Q} paths.root=results",
         "paths.root=FOLDER/results: FOLDER/results is a file; choose a folder",
         prepare=wrote("results", "")),
    Case("results below a file", f"{Q} paths.root=results/2026",
         "paths.root=FOLDER/results/2026: FOLDER/results is a file; choose a folder",
         prepare=wrote("results", "")),
    Case("results on a disk that cannot be written to", f"{Q} paths.root=disk/results",
         r"cannot write in FOLDER/disk \(Read-only file system\); choose another",
         mount={"disk": "ro"}),
    Case("results among the images",
         "train experiment=own_images dataset.root=images paths.root=images/results",
         "paths.root=FOLDER/images/results: lies inside dataset.root=FOLDER/images",
         prepare=class_folders),
    heavy("a file in the place of the run", TINY,
         "FOLDER/outputs/runs/tiny/HASH: cannot be created", start="recipe",
         prepare=wrote("outputs/runs/tiny", "")),
    heavy("a disk that is full at the second checkpoint", f"{TINY} tracking=none",
         r"failed: \w+: .*No space left on device.* \(traceback in FOLDER/outputs", start="recipe",
         mount={"outputs": "size=300k"}, code=1, leaves=("outputs*",)),
)
