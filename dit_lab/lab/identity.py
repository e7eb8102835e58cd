"""Which run folder a configuration means, and whether what lies there is the same run.

Torch-free: a finished run is shown, and a foreign one refused, without building anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dit_lab.lab.checks import Shapes
from dit_lab.lab.trust import source_files
from dit_lab.runs import Lease, RunFolder, code_hash, read_json, train_hash
from dit_lab.types import DataFacts, RequestError

Config = Mapping[str, Any]


def run_folder(config: Config) -> RunFolder:
    """`<paths.root>/runs/<name>/<train hash>`; touches nothing."""
    return RunFolder(Path(config["paths"]["root"]) / "runs" / config["name"] / train_hash(config))


def identity(config: Config, shapes: Shapes) -> dict[str, Any]:
    """What identity.json records: hashes of configuration, code and data, and the data's facts."""
    return {
        "train_hash": train_hash(config),
        "code_hash": code_hash(source_files(config["trusted_modules"])),
        "data_fingerprint": shapes.data.fingerprint,
        "data": asdict(shapes.data),
        "latent_shape": list(shapes.latent),
    }


def recorded_shapes(folder: RunFolder) -> Shapes:
    """The shapes that a run was trained with, without its data."""
    recorded = read_json(folder.identity)
    if not recorded:
        raise RequestError(f"{folder.identity}: missing; this is no whole run folder")
    data = {**recorded["data"], "class_names": tuple(recorded["data"]["class_names"])}
    return Shapes(DataFacts(**data), tuple(recorded["latent_shape"]))


def refuse_foreign(folder: RunFolder, config: Config, now: Mapping[str, Any]) -> None:
    """Raise RequestError where the run that lies there was made by other code or data.

    `resume=never` and `resume=force` answer the question that the message asks.
    """
    before = read_json(folder.identity)
    if not before or config["resume"] != "auto":
        return
    for key, what in (("code_hash", "source code"), ("data_fingerprint", "data")):
        if before[key] != now[key]:
            raise RequestError(
                f"{folder.root}: this run was made with other {what} ({before[key]}, now "
                f"{now[key]}); choose resume=never (train anew, the old run is kept aside) or "
                "resume=force (go on regardless)"
            )


def set_aside(folder: RunFolder) -> Path:
    """Move a run out of the way, whole; refused while somebody writes to it. Returns where to."""
    with Lease(folder):
        stamp = time.strftime("%Y%m%d-%H%M%S")
        aside = folder.root.with_name(f"{folder.root.name}.before-{stamp}-{os.getpid()}")
        os.rename(folder.root, aside)
    return aside
