"""All places in the source that raise refusals, and why some have no case."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dit_lab"

KINDS = ("RequestError", "Busy", "Denied")

LIBRARY_ONLY = {
    "commands check the same before they build anything": (
        ("codecs/facts.py", "codec.path is not set"),
        ("build/trained.py", "expected a whole number at least"),
        ("data/folder_listing.py", "expected a number above 0 and below 1"),
        ("data/image_facts.py", "IMAGE_SIZE"),
        ("data/order.py", "an order needs at least one image"),
        ("core/discrete_diffusion.py", "unknown {schedule!r}"),
        ("core/discrete_diffusion.py", "gives a beta >= 1; use 21 or more"),
        ("core/discrete_diffusion.py", "gives a beta >= 1; use 13 or more"),
        ("core/interpolants.py", "is not in [0, 1)"),
        ("models/dit.py", "does not divide the input"),
        ("models/dit.py", "does not divide hidden_size"),
        ("models/dit.py", "is not a multiple of 4"),
        ("models/heads.py", "the model has {depth} blocks, not"),
        ("core/types.py", "has no loss_of(output, batch)"),
        ("models/options.py", "{name}={asked}: expected"),
        ("objectives/time_sampling.py", "is not positive"),
        ("objectives/time_sampling.py", "use uniform, logit_normal or cosmap"),
        ("objectives/ddpm.py", "unknown {prediction!r}"),
        ("objectives/checks.py", "loss={loss}: expected"),
        ("objectives/ddpm.py", "unknown {fixed_variance!r}"),
        ("objectives/flow.py", "unknown {value!r}"),
        ("objectives/flow_matching.py", "unknown {name!r}"),
        ("samplers/ancestral.py", "is not in [0, 1]"),
        ("samplers/guidance.py", "is not a span within [0, 1]"),
        ("samplers/guidance.py", "is not at least 1"),
        ("samplers/guidance.py", "this one has no null label"),
        ("samplers/guidance.py", "of {data_channels}"),
        ("samplers/guidance.py", "is not in [0, 1]"),
        ("samplers/adaptive.py", "both must be above 0"),
        ("samplers/grid.py", "is not at least 1"),
        ("samplers/grid.py", "unknown {time_grid!r}"),
        ("samplers/sde.py", "unknown {value!r}"),
        ("samplers/sde.py", "a stretch of flow time between 0 and 1"),
        ("training/coupling.py", "is not at least 2"),
        ("samplers/respacing.py", "use even or stride"),
        ("bench/startup.py", "removeprefix('dit-lab: ')"),
        ("report/frame.py", "give at least one sweep or run"),
    ),
    "commands always give what is asked for": (
        ("data/facts.py", "unknown; the lab has"),  # a way to import a user's dataset
        ("core/discrete_diffusion.py", "need at least two numbers"),  # betas
        ("objectives/flow.py", "needs latent_shape"),
        ("models/dit.py", "images are {tuple(x.shape[-2:])}"),  # images of the model's size
    ),
    "a command checks its words, and a file its text, before": (
        ("core/text.py", "is no UTF-8 text; give the file another name"),
    ),
    "it needs other users' files, as in tests/integration/test_runs_of_others.py": (
        ("core/files.py", "Denied(denied(path))"),
        ("runs/access.py", "Denied("),
        ("runs/finding.py", "Denied("),
        ("runs/manifest.py", "Denied("),
        ("cli/doctor.py", "Denied("),
        ("runs/lock.py", "it is somebody else's"),
        ("actions/remove.py", "this user cannot write to it; leave it out"),
        ("config/checks/machine.py", "this user cannot write to {place.name}"),
    ),
    "it needs files of gigabytes, devices or other users' files, as in tests/core/test_files.py": (
        ("core/files.py", "cannot be read ({reason}); repair it"),
        ("core/files.py", "cannot be read ({error.strerror})"),
        ("core/files.py", "bytes that such a file may have"),
        ("runs/metrics.py", "has more than {MOST_BYTES:,} bytes"),
        ("runs/metrics.py", "line {number} has more than"),
    ),
    "every reader of records is walked over in tests/integration/test_fuzz.py": (
        ("actions/inferred.py", "which is no word"),
        ("interop/files.py", "{what}; fetch it again"),
        ("data/pairs.py", "is not a shard of pairs"),
        ("data/pairs.py", "holds data of shape"),
        ("runs/folder.py", "those are named like step-"),
        ("runs/lock.py", "so nobody can hold it"),
        ("training/tensor_files.py", "no safetensors file, or damaged; copy"),
    ),
    "it needs a network whose weights are broken, as in tests/evaluation/test_nonfinite.py": (
        ("evaluation/features/extractors.py", "its output is not finite"),
        ("evaluation/features/statistics.py", "hold numbers that are not finite"),
    ),
    "the tests have it installed; see tests/evaluation/features/test_fidelity.py": (
        ("evaluation/features/fidelity.py", "needs torch-fidelity"),
        ("evaluation/features/encoders.py", "the encoder needs transformers"),
    ),
    "it needs a layer without a derivative, as in tests/objectives/test_derivative.py": (
        ("objectives/derivative.py", "_refusal(str(error)"),
        ("objectives/derivative.py", "_refusal('the output"),
    ),
    "adapters refuse it, as in tests/interop/test_interop.py": (
        ("interop/official.py", "a model without classes"),
        ("interop/adapter.py", "this format requires squares"),
        ("interop/official.py", "linear betas"),
        ("interop/official.py", "{self.code} supports flows only"),
        ("interop/official.py", "{self.code}'s linear path"),
        ("interop/official.py", "REPA's code requires"),
        ("interop/diffusers_folder.py", "model.mlp_ratio"),
        ("interop/diffusers_folder.py", "no scheduler of diffusers"),
    ),
    "it needs a metric of one's own, as in tests/config/checks/test_metrics.py": (
        ("config/checks/metrics.py", "expected one of {', '.join(EXTRACTOR)}"),
    ),
    "it needs a trained model of one's own, as in tests/integration/test_exchange.py": (
        ("actions/export.py", "knows the lab's DiT alone"),
        ("actions/export.py", "describes models that are sampled step by step"),
    ),
    "other files of statistics are in tests/evaluation/features/test_statistics.py": (
        ("evaluation/features/statistics.py", "statistics: a mean of shape"),
        ("evaluation/features/statistics.py", "torch-fidelity's)"),
        ("evaluation/features/statistics.py", "holds no statistics"),
        ("evaluation/features/statistics.py", "not a file of feature statistics"),
        ("evaluation/features/statistics.py", "unknown ending; use"),
    ),
    "it needs a machine without a network, as in tests/codecs/test_codecs.py": (
        ("codecs/facts.py", "config.json cannot be downloaded"),
        ("data/torchvision_facts.py", "cannot be downloaded"),
    ),
    "it needs an installation without one of the extras": (
        ("config/axes.py", "not installed; pip install"),
        ("config/checks/machine.py", "needs torchao, which is not installed"),
        ("config/checks/optimizers.py", "which is not installed; pip install"),
    ),
    "it needs a training whose steps were all skipped, as in tests/training/test_power.py": (
        ("actions/ema.py", "no optimizer step had been applied"),
    ),
    "it needs jobs that have been trained, as in tests/integration/test_search.py": (
        ("sweeps/search.py", "has no such metric"),
    ),
    "it needs two runs on different data, as in tests/integration/test_weak_run.py": (
        ("build/trained.py", "was trained for {_seen(theirs)}"),
    ),
    "it needs a machine without a compiler, as in tests/integration/test_errors.py": (
        ("config/checks/machine.py", "needs a C++ compiler"),
    ),
    "it needs an installation without scikit-learn, which the lab depends on": (
        ("data/digits_facts.py", "scikit-learn is not installed"),
    ),
    "it needs a launcher of processes, torchrun or accelerate, around the command": (
        ("actions/workers.py", "processes were started"),
        ("cli/sweep.py", "every process would start the whole sweep"),
        ("training/distributed.py", "which the lab does not use"),  # and GPUs
    ),
    "it needs a file that changes while it is read, as in tests/data/test_latents.py": (
        ("data/latents.py", "ends too early"),
    ),
    "it needs a database that works and then, a moment later, does not": (
        ("tracking/mlflow_run.py", "cannot be used: {trouble}"),
    ),
    "it needs another process that makes tables for two minutes": (
        ("tracking/mlflow_store.py", "another process has held"),
    ),
}
"""Why no case hears of it -> (file, words of the message)."""


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the source that raises a RequestError."""

    function: str  # "config/checks/training.py: check_root"
    file: str
    first_line: int
    last_line: int
    source: str

    def __str__(self) -> str:
        return f"{self.function} line {self.first_line}: {self.source[:100]}"

    @property
    def is_for_the_library(self) -> bool:
        """Whether LIBRARY_ONLY lists it."""
        known = {place for places in LIBRARY_ONLY.values() for place in places}
        return any(
            self.function.startswith(f"{file}:") and words in self.source for file, words in known
        )

    def made(self, file: str, line: int) -> bool:
        """Return whether a recorded refusal was raised here."""
        return file == self.file and self.first_line <= line <= self.last_line


def sites() -> list[Site]:
    """Return every place in the package that raises a RequestError."""
    return [
        site
        for file in sorted(PACKAGE.rglob("*.py"))
        for site in _sites_below(ast.parse(file.read_text(encoding="utf-8")), file, [])
    ]


def _sites_below(node: ast.AST, file: Path, names: list[str]) -> Iterator[Site]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and ast.unparse(child.func) in KINDS:
            function = f"{file.relative_to(PACKAGE).as_posix()}: {'.'.join(names)}"
            last = child.end_lineno or child.lineno
            yield Site(function, str(file), child.lineno, last, ast.unparse(child))
        named = isinstance(child, ast.FunctionDef | ast.ClassDef)
        yield from _sites_below(child, file, [*names, child.name] if named else names)
