"""The data of a run in MLflow: name, digest and split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dit_lab.core.errors import RequestError
from dit_lab.runs.folder import RunFolder
from dit_lab.runs.recorded import recorded_so_far

if TYPE_CHECKING:
    from mlflow import MlflowClient

CONTEXT = "mlflow.data.context"  # MLflow's tag for a split
DIGEST_CHARACTERS = 36


def log_data(
    client: MlflowClient, run_id: str, folder: RunFolder, config: Mapping[str, Any]
) -> None:
    """Log the training and validation data of a run; known data are not logged twice."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    known: Mapping[str, Any] = {}
    with suppress(RequestError):  # a damaged record is reported elsewhere
        known = recorded_so_far(folder)
    if not known:
        return
    data, options = known["data"], config["dataset"]
    name, root = config["choices"].get("dataset", "data"), options.get("root")
    kind, source = ("local", {"uri": root}) if root else ("code", {"tags": options})
    facts = {key: data[key] for key in ("channels", "height", "width", "num_classes")}
    splits = {"training": data["train_images"], "validation": data["validation_images"]}
    client.log_inputs(
        run_id,
        [
            DatasetInput(
                Dataset(
                    name=name if split == "training" else f"{name} ({split})",
                    digest=known["data_fingerprint"][:DIGEST_CHARACTERS],
                    source_type=kind,
                    source=json.dumps(source, default=str),
                    profile=json.dumps({"num_images": count, **facts}),
                ),
                [InputTag(CONTEXT, split)],
            )
            for split, count in splits.items()
            if count
        ],
    )
