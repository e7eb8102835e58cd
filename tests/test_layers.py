"""The house's rules, read from the imports: layers point down, libraries stay in their rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dit_lab"

GROUND = {"core", "runs", "statistics"}
MIDDLE = {"models", "codecs", "objectives", "samplers", "data", "training", "tracking"}
MAY_IMPORT = {
    "core": set(),
    "statistics": set(),
    "runs": {"core"},
    **{part: GROUND for part in MIDDLE},
    "evaluation": GROUND | {"samplers", "codecs"},
    "interop": GROUND | {"models", "objectives"},
    "report": GROUND | {"evaluation"},
    "sweeps": GROUND | {"tracking"},
    "lab": GROUND | MIDDLE | {"evaluation", "interop", "report", "sweeps"},
    "bench": GROUND | MIDDLE | {"evaluation", "lab"},
    "cli": GROUND | MIDDLE | {"evaluation", "interop", "report", "sweeps", "lab", "bench"},
}

FENCES = {
    "hydra": ("lab/", "cli/", "sweeps/"),
    "omegaconf": ("lab/", "cli/", "sweeps/"),
    "mlflow": ("tracking/",),
    "rich": ("tracking/console.py", "cli/"),
    "accelerate": ("training/", "lab/"),
    "diffusers": ("codecs/", "interop/", "samplers/multistep.py"),
    "torchdiffeq": ("samplers/adaptive.py", "evaluation/likelihood.py"),
    "optuna": ("sweeps/search.py",),
    "torchvision": ("data/", "evaluation/"),
    "torch_fidelity": ("evaluation/fidelity.py",),
}

SLOW = ("torch", "torchvision", "diffusers", "mlflow", "accelerate", "sklearn", "safetensors")
TORCH_FREE = (
    "runs/exported.py", "runs/folder.py", "runs/source_code.py", "runs/metrics.py", "runs/lock.py",
    "core/processes.py", "core/cost.py", "core/communication_cost.py", "core/types.py",
    "bench/__init__.py", "bench/figures.py", "bench/record.py", "bench/startup.py", "cli/bench.py",
    "cli/describe.py", "cli/doctor.py", "cli/ema.py", "cli/evaluate.py", "cli/experiments.py",
    "cli/export.py", "cli/importing.py", "cli/job.py", "cli/main.py",
    "cli/reflow.py", "cli/report.py", "cli/sample.py", "cli/sweep.py", "cli/sweep_table.py",
    "cli/tables.py", "cli/train.py", "cli/check.py", "cli/encode.py", "cli/encode_part.py",
    "cli/ui.py", "cli/worker.py", "data/facts.py", "data/folder_listing.py", "data/list_file.py",
    "codecs/facts.py", "data/fingerprint.py", "data/image_facts.py", "data/latent_facts.py",
    "data/pair_facts.py", "data/torchvision_facts.py",
    "evaluation/card.py", "evaluation/table.py", "lab/averages.py", "lab/checks.py",
    "lab/compatibility.py", "lab/component_options.py", "lab/components.py", "lab/compute.py",
    "lab/config.py", "lab/data_checks.py", "lab/coupling_checks.py", "lab/distributed.py",
    "lab/doctor.py", "lab/extension.py", "lab/identity.py", "lab/initial.py", "lab/job.py",
    "lab/path_checks.py", "lab/report.py", "lab/report_runs.py", "lab/request.py",
    "lab/resources.py", "lab/sampling_checks.py", "lab/schema.py", "lab/search.py",
    "core/shapes.py", "lab/signature.py", "lab/sweep.py",
    "lab/sweep_axes.py", "lab/sweep_plan.py", "lab/sweep_tracker.py",
    "core/trust.py", "lab/typed.py", "lab/workers.py",
    "models/options.py", "objectives/options.py", "samplers/grid.py", "samplers/respacing.py",
    "report/analysis.py", "report/columns.py", "report/drawing.py", "report/evaluations_plot.py",
    "report/files.py", "report/flags.py", "report/grid.py", "report/metrics.py", "report/page.py",
    "report/plots.py", "report/results.py", "report/rounding.py", "report/sentences.py",
    "sweeps/elsewhere.py", "sweeps/launcher.py", "sweeps/manifest.py", "sweeps/search.py",
    "sweeps/slots.py",
    "statistics/contrasts.py", "statistics/correction.py", "statistics/power.py",
    "statistics/samples.py", "statistics/simulation.py",
    "tracking/late.py", "tracking/mlflow_store.py", "tracking/parent.py",
    "training/power.py", "training/schedules.py", "training/stop.py", "__init__.py", "__main__.py",
)  # fmt: skip

MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(file: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Dotted names that a module imports when it runs; those for type checkers are left out."""
    nodes: list[ast.AST] = [ast.parse(file.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        checked_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if checked_only or (top_level_only and later):
            continue
        nodes.extend(ast.iter_child_nodes(node))


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file: Path) -> None:
    part = part_of(file)
    if part in ("__init__", "__main__"):
        return  # the doors: dit_lab.load and python -m dit_lab
    for name in imports(file):
        if name.startswith("dit_lab."):
            other = name.split(".")[1]
            assert other == part or other in MAY_IMPORT[part], f"{part} imports {name}"


@pytest.mark.parametrize("library", FENCES)
def test_fences(library: str) -> None:
    for file in MODULES:
        if any(name.split(".")[0] == library for name in imports(file)):
            place = str(file.relative_to(PACKAGE))
            assert place.startswith(FENCES[library]), f"{place} imports {library}"


@pytest.mark.parametrize("place", TORCH_FREE)
def test_torch_free_modules_import_nothing_slow(place: str) -> None:
    for name in imports(PACKAGE / place, top_level_only=True):
        assert name.split(".")[0] not in SLOW, f"{place} imports {name} when it is imported"


def test_torch_free_modules_bring_nothing_slow_along() -> None:
    """By way of what they import, all the way down."""
    names = [f"dit_lab.{place.removesuffix('.py').replace('/', '.')}" for place in TORCH_FREE]
    script = f"""
import importlib, sys
for name in {[name.removesuffix(".__init__") for name in names if "__main__" not in name]}:
    importlib.import_module(name)
    found = {set(SLOW)} & sys.modules.keys()
    assert not found, (name, found)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_top_level_is_as_planned() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout")
    top = {name.split("/")[0] for name in listed.stdout.split()}
    allowed = {"dit_lab", "conf", "experiments", "tests", "docs", "hydra_plugins", ".ci"}
    allowed |= {"pyproject.toml", "README.md", "LICENSE", "train.py", ".gitignore"}
    assert top <= allowed


def test_the_loop_is_one_function_under_200_lines() -> None:
    tree = ast.parse((PACKAGE / "training/loop.py").read_text())
    (loop,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "train"]
    assert loop.end_lineno - loop.lineno < 200


def test_no_eval_pickle_or_unsafe_load() -> None:
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                assert call not in ("eval", "exec"), f"{file} calls {call}"
                assert "pickle" not in call, f"{file} calls {call}"
        assert "weights_only=False" not in file.read_text()
