"""`train -m`, and what becomes of a sweep."""

from __future__ import annotations

from tests.errors.case import Case
from tests.errors.starts import RECIPE, recipe_of_sweep, wrote

TINY = "train -m experiment=tiny"
SEARCH = f"{TINY} hydra/sweeper=optuna"
MULTIRUN = "hydra:\n  mode: MULTIRUN\n"
GRID = "hydra:\n  sweeper:\n    params:\n      seed: 0,1\n"
PARALLEL = "hydra:\n  mode: MULTIRUN\n  launcher:\n    n_jobs: 2\n"
MANIFEST = "outputs/sweeps/seeds/manifest.json"


# fmt: off
CASES = (
    Case("nothing to sweep over", f"{TINY} seed=0",
         "-m: nothing is swept; give several values, such as seed=0,1,2", start="recipe"),
    Case("an axis without values", f"{TINY} 'seed=range(3, 3)'",
         "seed: has no values; give two or more, or leave it out", start="recipe"),
    Case("a value twice", f"{TINY} seed=0,0",
         r"jobs 0 \(seed=0\) and 1 \(seed=0\) are the same; give every value once", start="recipe"),
    Case("one job of a sweep that cannot be trained", f"{TINY} patch=2,3",
         "patch=3: no such choice; allowed: 1, 2, 4, 8", start="recipe"),
    Case("an interval", f"{TINY} 'seed=interval(0, 1)'",
         "interval.*: not here; give the values themselves, as in seed=0,1,2", start="recipe"),
    Case("a search that is to forget what it has tried",
         f"{SEARCH} 'optimizer.lr=interval(0.1,1)' resume=never",
         "resume=never: not with hydra/sweeper=optuna; give another name or sweep.name",
         start="recipe"),
    Case("a search among losses that are different quantities",
         f"{SEARCH} objective=ddpm,rectified_flow sampler=auto sweep.metric=eval/loss",
         r"metric=eval/loss: losses of different objectives \(ddpm, rectified_flow\) are",
         start="recipe"),
    Case("a span that ends before it begins", f"{SEARCH} 'optimizer.lr=interval(1,0.1)'",
         r"interval\(1,0.1\): no span of numbers; write the smaller one first$", start="recipe"),
    Case("powers of ten from zero", f"{SEARCH} 'optimizer.lr=tag(log,interval(0,0.1))'",
         "no span of numbers.*, and only positive ones with tag", start="recipe"),
    Case("several trackers in one sweep", f"{TINY} tracking=mlflow,none",
         "tracking=mlflow,none: one for the whole sweep; give one value", start="recipe"),
    Case("no place for a job", f"{TINY} seed=0,1 'sweep.slots=[]'",
         r"sweep.slots=\[\]: no place for a job; give at least one device set", start="recipe"),
    Case("places of no kind", f"{TINY} seed=0,1 sweep.slots=all",
         r"sweep.slots=all: expected auto or a list of device sets, such as \[0,1\]",
         start="recipe"),
    Case("a key of Hydra's", f"{TINY} seed=0,1 hydra.sweeper.max_batch_size=2",
         "hydra.sweeper.max_batch_size=2: not read; see docs/sweeps.md", start="recipe"),
    Case("a named sweep within a sweep", "train -m experiment=tiny,grid",
         "experiment=tiny,grid: grid is a sweep itself, whose axes would not be read here",
         start="recipe", prepare=wrote("experiments/grid/recipe.yaml", recipe_of_sweep("0,1"))),
    Case("a recipe with axes that nothing would run", "train experiment=grid",
         "a named sweep has both hydra.mode: MULTIRUN and hydra.sweeper.params",
         prepare=wrote("experiments/grid/recipe.yaml", RECIPE + GRID)),
    Case("a recipe that asks for another launcher", "train experiment=grid",
         "hydra.launcher: not read from a recipe; a named sweep has hydra.mode and hydra.",
         prepare=wrote("experiments/grid/recipe.yaml", RECIPE + PARALLEL)),
    Case("no sweep of that name", "sweep status seeds",
         r"seeds: no sweep; give a folder below outputs/sweeps \(there is none yet\)"),
    Case("a manifest that is empty", "sweep status seeds",
         "outputs/sweeps/seeds: no sweep lies here", prepare=wrote(MANIFEST, "{}")),
    Case("a manifest with a key too few", "sweep status seeds",
         r"outputs/sweeps/seeds/manifest.json: damaged \(lacks typed, .*\); nothing of it is known",
         prepare=wrote(MANIFEST, '{"jobs": [], "name": "seeds"}')),
    Case("no such kind of jobs", "sweep resume SWEEP --only broken",
         "--only broken: expected failed or missing, or both with a comma", start="grid"),
    Case("a key to a sweep that has its own", "sweep resume SWEEP seed=1",
         "seed=1: dit-lab sweep takes paths.root=FOLDER, trusted_modules=", start="grid"),
)
