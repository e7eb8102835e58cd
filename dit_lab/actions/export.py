"""Export of a run's weights and metadata to files, folders or MLflow."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dit_lab.build.parts import build_objective
from dit_lab.build.trained import read_weights, without_heads
from dit_lab.codecs.facts import IDENTITY
from dit_lab.codecs.loading import load_network, quiet
from dit_lab.config.compatibility import needs_of_config, samplers_of
from dit_lab.config.objects import to_tree
from dit_lab.config.recorded import read_recorded
from dit_lab.core.errors import RequestError
from dit_lab.core.files import atomic_path, to_json
from dit_lab.core.interpolants import Linear
from dit_lab.core.options import arguments_of, target_of
from dit_lab.core.tensor_file import save_tensors
from dit_lab.core.types import Objective
from dit_lab.interop.architecture import DIT, Architecture, configured
from dit_lab.interop.diffusers_folder import CONFIG, DiffusersFormat, scheduler_config
from dit_lab.interop.formats import FORMATS
from dit_lab.runs.exported import HEADER_KEY
from dit_lab.runs.finding import find_run
from dit_lab.runs.folder import read_status
from dit_lab.runs.provenance import versions
from dit_lab.runs.recorded import recorded, recorded_shapes
from dit_lab.sampling.images import PICTURE_CHANNELS
from dit_lab.tracking.mlflow_model import keep_model

PIPELINE = "DiTLabPipeline"


class Export:
    """A run or one of its checkpoints, with the weights to export."""

    def __init__(self, run: str, *, root: Path, weights: str = "ema") -> None:
        self.folder, chosen = find_run(run, root=root)
        self.config = read_recorded(self.folder)
        self.shapes = recorded_shapes(self.folder)
        found = read_weights(self.folder, chosen, weights, self.config)
        self.weights = replace(
            found, tensors=without_heads(found.tensors, needs_of_config(self.config))
        )

    @property
    def told(self) -> str:
        """Name and step of the exported weights."""
        return f"{self.weights.name} at step {self.weights.step}"

    def to_safetensors(self, out: Path) -> None:
        """Write one file that `sample` and `init_from` accept as a run.

        Its header holds the config, the identity (with class names and data facts), versions, and
        the name and step of the weights.
        """
        header = {
            "config": self._kept_config(),
            "identity": recorded(self.folder),
            "step": self.weights.step,
            "weights": self.weights.name,
            "versions": versions(),
        }
        with atomic_path(out) as beside:
            save_tensors(
                self.weights.tensors, beside, {"format": "pt", HEADER_KEY: to_json(header)}
            )

    def _kept_config(self) -> dict[str, Any]:
        """Return the config with `sample.weights=ema`, which means the only weights of the file."""
        kept = to_tree(self.config)
        return {**kept, "sample": {**kept["sample"], "weights": "ema"}}

    def to_original(self, out: Path, name: str) -> None:
        """Write only the tensors, by the names of the original code, as .pt or .safetensors."""
        adapter, architecture = FORMATS[name], self._architecture(name)
        self._refuse(lambda: adapter.refuse(architecture, self._objective), name)
        tensors = dict(adapter.from_ours(self.weights.tensors, architecture))
        with atomic_path(out) as beside:
            if out.suffix == ".safetensors":
                save_tensors(tensors, beside, {"format": "pt"})
            else:
                torch.save(tensors, beside)

    def to_diffusers(self, out: Path) -> None:
        """Write a pipeline folder: transformer, scheduler, autoencoder, pipeline.py."""
        adapter, architecture = DiffusersFormat(), self._architecture("diffusers")
        self._refuse(lambda: adapter.refuse(architecture, self._objective), "diffusers")
        scheduler = scheduler_config(self._objective)
        vae = None
        if target_of(self.config.codec) != IDENTITY:
            vae = load_network(self.config.codec.path)
        index = {
            "_class_name": ["pipeline", PIPELINE],
            "_diffusers_version": version("diffusers"),
            "transformer": ["diffusers", adapter.config(architecture)["_class_name"]],
            "scheduler": ["diffusers", scheduler["_class_name"]],
            "vae": ["diffusers", type(vae).__name__] if vae is not None else [None, None],
            "lab": self._facts(architecture),
        }
        with atomic_path(out) as beside:
            transformer = beside / "transformer"
            transformer.mkdir(parents=True)
            tensors = dict(adapter.from_ours(self.weights.tensors, architecture))
            save_tensors(
                tensors, transformer / "diffusion_pytorch_model.safetensors", {"format": "pt"}
            )
            _write_json(transformer / CONFIG, adapter.config(architecture))
            (beside / "scheduler").mkdir()
            _write_json(beside / "scheduler" / "scheduler_config.json", scheduler)
            if vae is not None:
                with quiet():
                    vae.save_pretrained(beside / "vae")
            _write_json(beside / "model_index.json", index)
            source = Path(__file__).parent.parent / "interop" / "pipeline.py"
            shutil.copyfile(source, beside / "pipeline.py")

    def to_mlflow(self, name: str, *, register: bool, uri: str | None = None) -> str:
        """Log the weights as an MLflow model and return its address.

        Args:
            name: the name of the model.
            register: whether to register it in the model registry too.
            uri: the MLflow store; None means the store of the run.
        """
        channels = self.shapes.data.channels
        if channels not in PICTURE_CHANNELS:
            raise RequestError(f"--format mlflow: images of {channels} channels are no pictures")
        tracking, codec = self.config.tracking, self.config.codec
        own = uri is None or uri == tracking.uri
        run_id = (
            None if self.folder.is_exported else read_status(self.folder).get("tracking_run_id")
        )
        with tempfile.TemporaryDirectory(prefix="dit-lab-") as place:
            weights = Path(place) / "weights.safetensors"
            self.to_safetensors(weights)
            return keep_model(
                name,
                register=register,
                weights=weights,
                codec=None if target_of(codec) == IDENTITY else Path(codec.path),
                guidance_scale=self.config.guidance.scale,
                uri=uri or tracking.uri,
                experiment=tracking.experiment,
                artifact_root=Path(self.config.paths.root) / "mlartifacts",
                run_id=run_id if own else None,
            )

    def _facts(self, architecture: Architecture) -> dict[str, Any]:
        """Return the metadata that the pipeline, and an import of it, need."""
        data = self.shapes.data
        options = arguments_of(self.config.objective)
        path = self._objective.interpolant
        if isinstance(path, Linear) and "sigma_min" in options:
            options["sigma_min"] = path.sigma_min
        return {
            "objective": {"name": self.config.choices["objective"], **options},
            "num_classes": data.num_classes,
            "null_label": architecture.has_null_label,
            "class_names": list(data.class_names),
            "levels": data.levels,
            "run": recorded(self.folder)["train_hash"],
            "weights": self.told,
        }

    @cached_property
    def _objective(self) -> Objective:
        return build_objective(self.config, self.shapes)

    def _architecture(self, name: str) -> Architecture:
        target = target_of(self.config.model)
        if target != DIT:
            raise RequestError(
                f"--format {name}: knows the lab's DiT alone, this is {target}; use "
                "--format safetensors"
            )
        if samplers_of(self.config.objective)[0] == "jump":
            raise RequestError(
                f"--format {name}: describes models that are sampled step by step, not those of "
                f"objective={self.config.choices['objective']}; use --format safetensors"
            )
        return configured(
            arguments_of(self.config.model),
            latent=self.shapes.latent,
            num_classes=self.shapes.data.num_classes,
            learn_sigma=self._objective.learn_sigma,
        )

    def _refuse(self, check: Callable[[], None], name: str) -> None:
        try:
            check()
        except RequestError as refusal:
            raise RequestError(
                f"--format {name}: {refusal}; --format safetensors keeps everything"
            ) from None


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(to_json(content, indent=2) + "\n", encoding="utf-8")
