"""Errors of `dit-lab bench`."""

from __future__ import annotations

from pathlib import Path

from tests.errors.case import Case, heavy
from tests.errors.starts import write, wrote

QUICK = "bench experiment=quickstart --seconds 0.1"


def checkout_that_lacks(folder: Path) -> None:
    write("DiT/models.py", "import timm_of_another_name\n", folder)
    write("DiT/train.py", "", folder)


# fmt: off
CASES = (
    Case("a part that is not measured", f"{QUICK} --only trianing",
         "--only trianing: no part 'trianing'; allowed: training, loading, sampling, start"),
    Case("no time to measure", "bench experiment=quickstart --seconds 0",
         "--seconds 0: expected a number above 0, such as 6"),
    Case("two configurations into one file", f"{QUICK} --json both.json --vs training.compile=true",
         "--vs: writes and checks nothing; leave out --json and --check"),
    Case("two configurations by several parts",
         f"{QUICK} --only training,sampling --vs training.compile=true",
         "--only training,sampling: --vs compares one part, training or sampling"),
    Case("a record of speed in a folder that is not there", f"{QUICK} --json there/speed.json",
         "--json there/speed.json: the folder FOLDER/there does not exist; create it first"),
    Case("a record of speed that is not there", "bench --check speed.json",
         "--check speed.json: does not exist; `dit-lab bench --json FILE` writes one"),
    Case("a file that is no record of speed", "bench --check some.json",
         r"--check some.json: no record of a bench \(lacks overrides, costs\); `dit-lab bench",
         prepare=wrote("some.json", '{"a": 1}\n')),
    heavy("the start of a training that cannot start", f"{QUICK} --only startup init_from=RUN",
         "init_from=.*: has model.hidden_size=16, here it is 64; choose the same model",
         start="tiny"),
    Case("the original implementation without its place", "bench official model=nano",
         "bench official: give `dit-lab bench official --official-path FOLDER"),
    Case("the original implementation into a file",
         "bench official --official-path DiT --json speed.json",
         "bench official: takes no --json; leave it out"),
    heavy("a folder that is not the original implementation",
         "bench official --official-path DiT model=nano patch=8",
         "--official-path DiT: has no models.py and train.py; give a checkout of facebook"),
    heavy("an original implementation that lacks a library",
         "bench official --official-path DiT model=nano patch=8",
         "--official-path DiT: cannot be imported .*timm_of_another_name.*; install what",
         prepare=checkout_that_lacks),
    heavy("what the original implementation has not: layers",
         "bench official --official-path DiT model=nano patch=8 model.rope=true",
         "bench official: model: only the original's layers", prepare=checkout_that_lacks),
    heavy("what the original implementation has not: an objective",
         "bench official --official-path DiT model=nano patch=8 objective=rectified_flow "
         "sampler=euler", "bench official: objective: the original has only objective=ddpm",
         prepare=checkout_that_lacks),
)
