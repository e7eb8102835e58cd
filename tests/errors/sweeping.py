"""`train -m`, and what becomes of a sweep."""

from __future__ import annotations

from pathlib import Path

from tests.errors.case import Area, Case
from tests.errors.starts import RECIPE, recipe_of_sweep, write, wrote

TINY = "train -m experiment=tiny"
SEARCH = f"{TINY} hydra/sweeper=optuna"
MULTIRUN = "hydra:\n  mode: MULTIRUN\n"
GRID = "hydra:\n  sweeper:\n    params:\n      seed: 0,1\n"
PARALLEL = "hydra:\n  mode: MULTIRUN\n  launcher:\n    n_jobs: 2\n"
MANIFEST = "outputs/sweeps/seeds/manifest.json"


def without_axis(folder: Path) -> None:
    """The named sweep, once it has been started, gets another axis."""
    write("experiments/grid/recipe.yaml", recipe_of_sweep("0,1,2"), folder)


def other_values(folder: Path) -> None:
    """The named sweep, once it has been started, trains with another learning rate."""
    text = recipe_of_sweep("0,1") + "optimizer: {lr: 0.5}\n"
    write("experiments/grid/recipe.yaml", text, folder)


AREA = Area(
    title="Sweeps",
    cases=(
        Case(
            title="nothing to sweep over",
            command=f"{TINY} seed=0",
            start="recipe",
            says="-m: nothing is swept; give several values, such as seed=0,1,2",
        ),
        Case(
            title="an axis without values",
            command=f"{TINY} 'seed=range(3, 3)'",
            start="recipe",
            says="seed: has no values; give two or more, or leave it out",
        ),
        Case(
            title="a value twice",
            command=f"{TINY} seed=0,0",
            start="recipe",
            says=r"jobs 0 \(seed=0\) and 1 \(seed=0\) are the same; give every value once",
        ),
        Case(
            title="one job of a sweep that cannot be trained",
            command=f"{TINY} patch=2,3",
            start="recipe",
            says="patch=3: no such choice; allowed: 1, 2, 4, 8",
        ),
        Case(
            title="an interval",
            command=f"{TINY} 'seed=interval(0, 1)'",
            start="recipe",
            says="interval.*: not here; give the values themselves, as in seed=0,1,2",
        ),
        Case(
            title="a search that is to forget what it has tried",
            command=f"{SEARCH} 'optimizer.lr=interval(0.1,1)' resume=never",
            start="recipe",
            says="resume=never: not with hydra/sweeper=optuna; give another name or sweep.name",
        ),
        Case(
            title="a search among losses that are different quantities",
            command=f"{SEARCH} objective=ddpm,rectified_flow sampler=auto sweep.metric=eval/loss",
            start="recipe",
            says=r"metric=eval/loss: losses of different objectives \(ddpm, rectified_flow\) are",
        ),
        Case(
            title="a span that ends before it begins",
            command=f"{SEARCH} 'optimizer.lr=interval(1,0.1)'",
            start="recipe",
            says=r"interval\(1,0.1\): no span of numbers; write the smaller one first$",
        ),
        Case(
            title="powers of ten from zero",
            command=f"{SEARCH} 'optimizer.lr=tag(log,interval(0,0.1))'",
            start="recipe",
            says="no span of numbers.*, and only positive ones with tag",
        ),
        Case(
            title="all members of a group",
            command=f"{TINY} 'model=glob(*)'",
            start="recipe",
            says="glob.*: not here; give the values themselves",
        ),
        Case(
            title="several trackers in one sweep",
            command=f"{TINY} tracking=mlflow,none",
            start="recipe",
            says="tracking=mlflow,none: one for the whole sweep; give one value",
        ),
        Case(
            title="no place for a job",
            command=f"{TINY} seed=0,1 'sweep.slots=[]'",
            start="recipe",
            says=r"sweep.slots=\[\]: no place for a job; give at least one device set",
        ),
        Case(
            title="places of no kind",
            command=f"{TINY} seed=0,1 sweep.slots=all",
            start="recipe",
            says=r"sweep.slots=all: expected auto or a list of device sets, such as \[0,1\]",
        ),
        Case(
            title="a key of Hydra's",
            command=f"{TINY} seed=0,1 hydra.sweeper.max_batch_size=2",
            start="recipe",
            says="hydra.sweeper.max_batch_size=2: not read; see docs/sweeps.md",
        ),
        Case(
            title="a named sweep within a sweep",
            command="train -m experiment=tiny,grid",
            start="recipe",
            prepare=wrote("experiments/grid/recipe.yaml", recipe_of_sweep("0,1")),
            says="experiment=tiny,grid: grid is a sweep itself, whose axes would not be read here",
        ),
        Case(
            title="a recipe with axes that nothing would run",
            command="train experiment=grid",
            prepare=wrote("experiments/grid/recipe.yaml", RECIPE + GRID),
            says="a named sweep has both hydra.mode: MULTIRUN and hydra.sweeper.params",
        ),
        Case(
            title="a recipe that asks for another launcher",
            command="train experiment=grid",
            prepare=wrote("experiments/grid/recipe.yaml", RECIPE + PARALLEL),
            says="hydra.launcher: not read from a recipe; a named sweep has hydra.mode and hydra.",
        ),
        Case(
            title="no sweep of that name",
            command="sweep status seeds",
            says=r"seeds: no sweep; give a folder below outputs/sweeps \(there is none yet\)",
        ),
        Case(
            title="a manifest that is empty",
            command="sweep status seeds",
            prepare=wrote(MANIFEST, "{}"),
            says="outputs/sweeps/seeds: no sweep lies here",
        ),
        Case(
            title="a manifest with a key too few",
            command="sweep status seeds",
            prepare=wrote(MANIFEST, '{"jobs": [], "name": "seeds"}'),
            says="outputs/sweeps/seeds/manifest.json: damaged; nothing of it is known",
        ),
        Case(
            title="no such kind of jobs",
            command="sweep resume SWEEP --only broken",
            start="grid",
            says="--only broken: expected failed or missing, or both with a comma",
        ),
        Case(
            title="a key to a sweep that has its own",
            command="sweep resume SWEEP seed=1",
            start="grid",
            says="seed=1: dit-lab sweep takes paths.root=FOLDER only",
        ),
        Case(
            title="a sweep whose recipe has changed",
            command="sweep resume SWEEP",
            start="grid",
            prepare=other_values,
            says=r"job 0 had optimizer.lr=0.0001, now 0.5; put it back, or start a sweep of its",
        ),
        Case(
            title="a sweep whose recipe has a value more",
            command="sweep resume SWEEP",
            start="grid",
            prepare=without_axis,
            says="had 2 jobs, now 3; start a sweep of its own",
        ),
    ),
)
