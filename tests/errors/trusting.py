"""Files from others: what they name is not executed, resolved or contacted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.errors.case import Case
from tests.errors.starts import only_sweep, replaced, wrote

Q = "train experiment=quickstart"
TRUST = ".config/dit-lab/trust.yaml"
SECRET = "n-${oc.env:HOME}"
SYSTEM = ["hydra/launcher=basic", "hydra.launcher._target_=posix.system"]


def foreign_job(folder: Path) -> None:
    """Another learning rate in the folder of a job."""
    (file,) = only_sweep(folder).glob("jobs/00-*/config.json")
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 7', 1))


def launched(folder: Path) -> None:
    """A sweep that says it ran through a launcher."""
    manifest = only_sweep(folder) / "manifest.json"
    text = manifest.read_text().replace('"launcher": []', f'"launcher": {SYSTEM}'.replace("'", '"'))
    manifest.write_text(text)


def searching(*, dirs: str = "[]", typed: str = "seed=0,1") -> Callable[[Path], None]:
    """The sweep as a search that has a trial left."""

    def change(folder: Path) -> None:
        manifest = only_sweep(folder) / "manifest.json"
        text = manifest.read_text().replace('"search": false', '"search": true')
        text = text.replace('"config_dirs": []', f'"config_dirs": {dirs}')
        text = text.replace('"experiment=grid"', f'"{typed}"')
        manifest.write_text(text)

    return change


# fmt: off
CASES = (
    Case("an interpolation in a recorded name", "train resume=RUN training.total_steps=8",
         r"config.yaml: name=n-\$\{oc.env:HOME\}: not a plain value; write the value itself",
         start="tiny", prepare=replaced("config.yaml", "name: tiny", f"name: {SECRET}")),
    Case("an optimizer that torch does not have", f"{Q} optimizer._target_=torch.optim.Nothing",
         "optimizer._target_=torch.optim.Nothing: torch has no such optimizer", slow=True),
    Case("a member of another group", f"{Q} codec._target_=dit_lab.objectives.ddpm.DDPM",
         "codec._target_=dit_lab.objectives.ddpm.DDPM: no registered codec; choose one with cod"),
    Case("the command line as a component", f"{Q} codec._target_=dit_lab.cli.main.main",
         "codec._target_=dit_lab.cli.main.main: no registered codec; choose one with codec=NAME"),
    Case("all of Python as a trusted module", f"{Q} trusted_modules=[os]",
         "trusted_modules=os: holds more than components, so it cannot be trusted as a whole"),
    Case("trusted modules within a list", f"{Q} trusted_modules=[[a]]",
         r"trusted_modules=\['a'\]: expected names of packages, such as mylab"),
    Case("modules that a recipe trusts", "train experiment=own",
         "trusted_modules: no such key",
         prepare=wrote("experiments/own/recipe.yaml", "trusted_modules: [mine]\n")),
    Case("a file of trust that says more", Q,
         "FOLDER/.config/dit-lab/trust.yaml: expected lists of texts under trusted_modules",
         prepare=wrote(TRUST, "everything: true\n")),
    Case("a file of trust whose list is none", Q,
         "FOLDER/.config/dit-lab/trust.yaml: expected lists of texts under",
         prepare=wrote(TRUST, "tracking_uris: 3\n")),
    Case("a page of a store that only a file names", "ui tracking=ours",
         r"tracking.uri=https://127.0.0.1:9 is not contacted, since only a file names it; add",
         prepare=wrote("conf/tracking/ours.yaml", "defaults: [mlflow]\nuri: https://127.0.0.1:9\n")),
    Case("an interpolation in a benchmark record", "bench --check a.json",
         r"a.json: name=n-\$\{oc.env:HOME\}: not a plain value; type the command itself again",
         prepare=wrote("a.json", f'{{"costs": {{}}, "overrides": ["name={SECRET}"]}}')),
    Case("a benchmark record that trusts", "bench --check a.json",
         "trusted_modules: no such key",
         prepare=wrote("a.json", '{"costs": {}, "overrides": ["trusted_modules=[os]"]}')),
    Case("a job that is not what it was made as", "sweep resume SWEEP",
         "config.json: differs from what job 0 was made with .*; restore it, or start a new sweep",
         start="grid", prepare=foreign_job),
    Case("a sweep that brings its launcher", "sweep resume SWEEP",
         f"its jobs ran through {' '.join(SYSTEM)}; add that to this command, or start",
         start="grid", prepare=launched),
    Case("a search that brings its configurations", "sweep resume SWEEP",
         "its further trials need --config-dir; run this instead: dit-lab train -m experiment=grid",
         start="grid", prepare=searching(dirs='["conf"]', typed="experiment=grid")),
    Case("a search that brings an interpolation", "sweep resume SWEEP",
         r"name=n-\$\{oc.env:HOME\}: not a plain value; type the command itself again",
         start="grid", prepare=searching(typed=f"name={SECRET}")),
)
