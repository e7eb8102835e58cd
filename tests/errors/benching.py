"""What is asked of the measurement of speed."""

from __future__ import annotations

from pathlib import Path

from tests.errors.case import Area, Case
from tests.errors.starts import write, wrote

QUICK = "bench experiment=quickstart --seconds 0.1"


def checkout_that_lacks(folder: Path) -> None:
    write("DiT/models.py", "import timm_of_another_name\n", folder)
    write("DiT/train.py", "", folder)


AREA = Area(
    title="How fast it is",
    cases=(
        Case(
            title="a part that is not measured",
            command=f"{QUICK} --only trianing",
            says="--only trianing: no part 'trianing'; allowed: training, loading, sampling, start",
        ),
        Case(
            title="no time to measure",
            command="bench experiment=quickstart --seconds 0",
            says="--seconds 0: expected a number above 0, such as 6",
        ),
        Case(
            title="two configurations into one file",
            command=f"{QUICK} --json both.json --vs training.compile=true",
            says="--vs: writes and checks nothing; leave out --json and --check",
        ),
        Case(
            title="two configurations by several parts",
            command=f"{QUICK} --only training,sampling --vs training.compile=true",
            says="--only training,sampling: --vs compares one part, training or sampling",
        ),
        Case(
            title="a record of speed in a folder that is not there",
            command=f"{QUICK} --json there/speed.json",
            says="--json there/speed.json: the folder FOLDER/there does not exist; create it first",
        ),
        Case(
            title="a record of speed that is not there",
            command="bench --check speed.json",
            says="--check speed.json: does not exist; `dit-lab bench --json FILE` writes one",
        ),
        Case(
            title="a file that is no record of speed",
            command="bench --check some.json",
            prepare=wrote("some.json", '{"a": 1}\n'),
            says="--check some.json: no record of a bench; `dit-lab bench --json FILE` writes one",
        ),
        Case(
            title="the start of a training that cannot start",
            command=f"{QUICK} --only startup init_from=RUN",
            start="tiny",
            slow=True,
            says="init_from=.*: has model.hidden_size=16, here it is 64; choose the same model",
        ),
        Case(
            title="the original implementation without its place",
            command="bench official model=nano",
            says="bench official: give `dit-lab bench official --official-path FOLDER",
        ),
        Case(
            title="the original implementation into a file",
            command="bench official --official-path DiT --json speed.json",
            says="bench official: takes no --json; leave it out",
        ),
        Case(
            title="a folder that is not the original implementation",
            command="bench official --official-path DiT model=nano patch=8",
            slow=True,
            says="--official-path DiT: has no models.py and train.py; give a checkout of facebook",
        ),
        Case(
            title="an original implementation that lacks a library",
            command="bench official --official-path DiT model=nano patch=8",
            prepare=checkout_that_lacks,
            slow=True,
            says="--official-path DiT: cannot be imported .*timm_of_another_name.*; install what",
        ),
        Case(
            title="what the original implementation has not: layers",
            command="bench official --official-path DiT model=nano patch=8 model.rope=true",
            prepare=checkout_that_lacks,
            slow=True,
            says="bench official: model: only the original's layers",
        ),
        Case(
            title="what the original implementation has not: an objective",
            command="bench official --official-path DiT model=nano patch=8 "
            "objective=rectified_flow sampler=euler",
            prepare=checkout_that_lacks,
            slow=True,
            says="bench official: objective: the original has only objective=ddpm",
        ),
    ),
)
