"""The meaning of source code, and which code determines a run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from dit_lab.runs.source_code import (
    DECIDING_CODE,
    EVALUATING_CODE,
    PACKAGE,
    code_files,
    code_hash,
    deciding_code,
    meaning,
)

QUICKSTART = (
    "dit_lab.models.dit.DiT",
    "dit_lab.objectives.rectified_flow.RectifiedFlow",
    "dit_lab.data.digits.Digits",
    "dit_lab.codecs.identity.Identity",
    "dit_lab.training.schedules.Cosine",
    "dit_lab.training.coupling.Independent",
    "torch.optim.AdamW",
)

SOURCE = b'''"""A module."""

from math import pi

SIZE: int = 3


class Net:
    """A net."""

    def grow(self, by: float = 1.5, *, name: str = "a") -> str:
        """Larger."""
        return f"{name}: {by * pi:.2f}" if by > 0 else f"{SIZE}"


def nothing() -> None:
    pass


def zero() -> int:
    return 0
'''

# ---- what code means -----------------------------------------------------------------------------


def test_the_meaning_of_a_module_is_the_same_everywhere() -> None:
    """A stored digest: another version of Python, or of the lab, gives the same."""
    assert meaning(SOURCE) == "b20e1bb75290"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"SIZE: int = 3", b"SIZE: int = 3  # how large\n# more\n"),
        (b'"""Larger."""', b'"""Grows.\n\n        By a factor.\n        """'),
        (b'"""A module."""\n', b""),
        (b"SIZE: int = 3", b'SIZE: int = 3\n"""How large it is."""'),
        (b'name: str = "a"', b"name: str = 'a'"),
        (b"return 0", b"return (\n        0\n    )"),
        (b"def nothing() -> None:\n    pass", b'def nothing() -> None:\n    """Does nothing."""'),
        (b"def grow", b"\n\n\n    def grow"),
    ],
)
def test_what_says_nothing_changes_nothing(old: bytes, new: bytes) -> None:
    assert SOURCE.count(old) == 1
    assert meaning(SOURCE.replace(old, new)) == meaning(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"SIZE: int = 3", b"SIZE: int = 4"),
        (b"SIZE: int = 3", b"SIZE: int = 3.0"),
        (b"SIZE: int = 3", b"SIZE: bool = 3"),
        (b"1.5", b"1.25"),
        (b'name: str = "a"', b'name: str = "b"'),
        (b"by * pi", b"by + pi"),
        (b":.2f}", b":.3f}"),
        (b"import pi", b"import tau as pi"),
        (b"from math", b"from numpy"),
        (b"self, by: float = 1.5, *, name", b"self, by: float = 1.5, name"),
        (b"    pass", b"    return 1"),
        (b"by > 0 else", b"by >= 0 else"),
        (b"def nothing", b"async def nothing"),
    ],
)
def test_what_means_something_changes_it(old: bytes, new: bytes) -> None:
    assert SOURCE.count(old) == 1
    assert meaning(SOURCE.replace(old, new)) != meaning(SOURCE)


def test_where_code_of_the_package_lies_is_not_its_meaning() -> None:
    before = b"from dit_lab.training.ema import Average\n\nAverage()\n"
    assert meaning(before.replace(b"training", b"averages")) == meaning(before)
    two = b"from dit_lab.core.rng import normal\nfrom dit_lab.training.ema import Average, Other\n"
    other = b"from dit_lab.averages import Other, Average\nfrom dit_lab.rng import normal\n"
    assert meaning(two) == meaning(other)
    assert meaning(before.replace(b"import Average", b"import Average, Other")) != meaning(before)


@pytest.mark.parametrize("source", [b"def (", b"\xff\xfe", b"a = 1\x00"])
def test_what_is_no_python_is_known_by_its_bytes(source: bytes) -> None:
    assert meaning(source) == meaning(source) != meaning(source + b" ")


# ---- which code decides --------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package's source."""
    return Path(
        shutil.copytree(
            PACKAGE, tmp_path / "dit_lab", ignore=shutil.ignore_patterns("*.pyc", "conf", "*.j2")
        )
    )


def hash_of(package: Path, targets: Sequence[str] = QUICKSTART) -> str:
    return code_hash(deciding_code(targets, {}, package=package))


def test_a_run_has_the_code_of_its_own_components() -> None:
    files = deciding_code(QUICKSTART, {})
    for place in ("models/dit.py", "models/layers.py", "objectives/flow.py", "training/loop.py",
                  "training/ema.py", "data/digits.py", "core/interpolants.py",
                  "core/rng.py"):  # fmt: skip
        assert f"dit_lab/{place}" in files, place
    for place in ("objectives/ddpm.py", "data/image_folder.py", "codecs/autoencoder.py",
                  "samplers/ode.py", "tracking/mlflow_run.py", "cli/train.py",
                  "data/latents.py", "data/torchvision_facts.py", "data/facts.py"):  # fmt: skip
        assert f"dit_lab/{place}" not in files, place
    ddpm = deciding_code([*QUICKSTART, "dit_lab.objectives.ddpm.DDPM"], {})
    assert {
        "dit_lab/objectives/ddpm.py",
        "dit_lab/core/discrete_diffusion.py",
    } <= ddpm.keys() - files.keys()


def test_comments_and_other_components_decide_nothing(package: Path) -> None:
    """A comment in the watchdog, another dataset's code, what only samples or shows."""
    before = hash_of(package)
    assert before == hash_of(PACKAGE)
    with (package / "training/watchdog.py").open("a") as file:
        file.write("\n# One more thought.\n")
    for place in ("data/image_folder.py", "objectives/ddpm.py", "samplers/ode.py", "cli/train.py"):
        with (package / place).open("a") as file:
            file.write("\nMORE = 1\n")
    assert hash_of(package) == before
    assert hash_of(package, [*QUICKSTART, "dit_lab.objectives.ddpm.DDPM"]) != hash_of(
        PACKAGE, [*QUICKSTART, "dit_lab.objectives.ddpm.DDPM"]
    )


@pytest.mark.parametrize(
    "place",
    [
        "training/ema.py",
        "models/layers.py",
        "core/rng.py",
        "objectives/flow.py",
        "actions/train.py",
    ],
)
def test_a_changed_constant_decides(package: Path, place: str) -> None:
    """Also in what the components import, and what that imports inside its functions."""
    before = deciding_code(QUICKSTART, {}, package=package)
    with (package / place).open("a") as file:
        file.write("\nMORE = 1\n")
    after = deciding_code(QUICKSTART, {}, package=package)
    assert {name for name in before if before[name] != after[name]} == {f"dit_lab/{place}"}
    assert code_hash(before) != code_hash(after)


def test_a_new_option_of_another_component_changes_nothing(package: Path) -> None:
    before = hash_of(package)
    with (package / "objectives/options.py").open("a") as file:
        file.write("\nMORE = 1\n")
    assert hash_of(package) == before
    assert not [name for name in code_files(EVALUATING_CODE, {}) if name.endswith("options.py")]


def test_a_file_that_moves_changes_nothing(package: Path) -> None:
    """With what imports it."""
    before = hash_of(package)
    (package / "training/ema.py").rename(package / "training/averages.py")
    for file in package.rglob("*.py"):
        text = file.read_text()
        file.write_text(text.replace("dit_lab.training.ema", "dit_lab.training.averages"))
    assert "dit_lab/training/averages.py" in deciding_code(QUICKSTART, {}, package=package)
    assert hash_of(package) == before


@pytest.mark.parametrize("part", [*DECIDING_CODE, *EVALUATING_CODE])
def test_every_part_is_there(part: str) -> None:
    assert code_files([part], {})


def test_the_users_own_files_count_all(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("a = 1\n")
    before = deciding_code([], {"mylab/mine.py": mine})
    assert before["mylab/mine.py"] == meaning(b"a = 1\n")
    mine.write_text("a = 2\n")
    after = deciding_code([], {"mylab/mine.py": mine})
    assert {name for name in after if after[name] != before[name]} == {"mylab/mine.py"}
