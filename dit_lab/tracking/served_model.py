"""The model that MLflow loads and serves: labels in, images out.

MLflow keeps this file as it is and runs it when a model is loaded; nothing is pickled. A request
has a column `label`; the parameters are `seed` and `guidance_scale`. Image i depends on the seed,
on i and on its label, as in `dit-lab sample`.
"""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from PIL import Image

import dit_lab

FORMAT = "PNG"


class Sampler(PythonModel):
    """A trained model that draws images for labels."""

    def load_context(self, context: Any) -> None:
        """Load the exported file, and its codec from a folder if it has one."""
        artifacts = context.artifacts
        self.model = dit_lab.load(artifacts["weights"], codec_path=artifacts.get("codec"))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Return a row for each label: the label, and its image as a PNG in base64."""
        asked = params or {}
        labels = [int(label) for label in model_input["label"]]
        classes = max(1, self.model.parts.shapes.data.num_classes)
        wrong = [label for label in labels if not 0 <= label < classes]
        if wrong:
            raise MlflowException.invalid_parameter_value(
                f"label {wrong[0]}: no class; allowed: 0 to {classes - 1}"
            )
        if not labels:
            return []
        config = self.model.parts.config
        if (scale := asked.get("guidance_scale")) is not None:
            config = replace(config, guidance=replace(config.guidance, scale=scale))
        try:
            images, _ = self.model.sample(labels, seed=asked.get("seed") or 0, settings=config)
        except ValueError as refusal:
            raise MlflowException.invalid_parameter_value(str(refusal)) from None
        return [
            {"label": label, "image": _encoded(image)}
            for label, image in zip(labels, images.numpy(), strict=True)
        ]


def _encoded(image: Any) -> str:
    """Return an image, uint8 (H, W, 1 or 3), as a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, FORMAT)
    return base64.b64encode(file.getvalue()).decode()


set_model(Sampler())
