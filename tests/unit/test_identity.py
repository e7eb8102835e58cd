"""Which folder a configuration means, and when what lies there is not the same run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dit_lab.data.facts import digits_facts
from dit_lab.lab.checks import Shapes
from dit_lab.lab.identity import identity, recorded_shapes, refuse_foreign, run_folder, set_aside
from dit_lab.runs import Lease, RunFolder, train_hash, write_json
from dit_lab.types import RequestError

SHAPES = Shapes(digits_facts(), (1, 8, 8))
Config = dict[str, Any]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return {
        "name": "mine",
        "seed": 0,
        "resume": "auto",
        "paths": {"root": str(tmp_path)},
        "trusted_modules": [],
        "model": {"depth": 2},
    }


@pytest.fixture
def folder(config: Config) -> RunFolder:
    """A run that this configuration has made."""
    made = run_folder(config)
    (made.checkpoints / "step-00000005" / "optimizer").mkdir(parents=True)
    (made.checkpoints / "step-00000005" / "optimizer" / "state.safetensors").write_bytes(
        b"\x00\x01"
    )
    made.metrics.write_text("{}\n")
    write_json(made.identity, identity(config, SHAPES))
    return made


def test_a_name_and_what_decides_the_weights_make_the_folder(config: Config) -> None:
    folder = run_folder(config)
    assert folder.root == Path(config["paths"]["root"]) / "runs" / "mine" / train_hash(config)
    assert not folder.root.parent.exists()
    assert run_folder({**config, "seed": 1}).root != folder.root
    assert run_folder({**config, "name": "other"}).root.name == folder.root.name


def test_the_recorded_shapes_are_those_that_were_there(config: Config, folder: RunFolder) -> None:
    assert recorded_shapes(folder) == SHAPES


def test_a_folder_without_identity_has_no_shapes(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"identity\.json: missing"):
        recorded_shapes(RunFolder(tmp_path))


def changed_identity(config: Config, key: str) -> dict[str, Any]:
    return {**identity(config, SHAPES), key: "something else"}


def test_the_same_run_is_not_foreign(config: Config, folder: RunFolder) -> None:
    refuse_foreign(folder, config, identity(config, SHAPES))
    for harmless in ("train_hash", "latent_shape"):  # the folder's name and the codec say these
        refuse_foreign(folder, config, changed_identity(config, harmless))


@pytest.mark.parametrize(
    ("key", "what"), [("code_hash", "other source code"), ("data_fingerprint", "other data")]
)
def test_other_code_or_data_is_refused(
    config: Config, folder: RunFolder, key: str, what: str
) -> None:
    now = changed_identity(config, key)
    with pytest.raises(RequestError) as refused:
        refuse_foreign(folder, config, now)
    text = str(refused.value)
    assert what in text
    assert f"({identity(config, SHAPES)[key]}, now something else)" in text
    assert "resume=never" in text
    assert "resume=force" in text
    assert "\n" not in text


@pytest.mark.parametrize("resume", ["force", "never"])
def test_who_has_answered_the_question_is_not_asked(
    config: Config, folder: RunFolder, resume: str
) -> None:
    for key in ("code_hash", "data_fingerprint"):
        refuse_foreign(folder, {**config, "resume": resume}, changed_identity(config, key))


def test_an_empty_folder_is_not_foreign(config: Config) -> None:
    refuse_foreign(run_folder(config), config, identity(config, SHAPES))


# ---- the user's own code ------------------------------------------------------------------------


@pytest.fixture
def trust(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes the package `mylab_under_test`, trusts it, and returns the code hash."""
    package = tmp_path / "code" / "mylab_under_test"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(package.parent)

    def write(text: str) -> str:
        (package / "deep" / "objective.py").write_text(text)
        trusting = {**config, "trusted_modules": ["mylab_under_test"]}
        return identity(trusting, SHAPES)["code_hash"]

    return write


def test_the_code_hash_covers_trusted_packages(config: Config, trust: Callable[[str], str]) -> None:
    first, second = trust("a = 1\n"), trust("a = 2\n")
    assert len({first, second, identity(config, SHAPES)["code_hash"]}) == 3
    assert trust("a = 1\n") == first


@pytest.mark.parametrize("name", ["nowhere_to_be_found", "nowhere_to_be_found.objectives"])
def test_a_trusted_package_that_is_not_there_is_refused(config: Config, name: str) -> None:
    with pytest.raises(RequestError, match=f"trusted_modules={name}: no such package"):
        identity({**config, "trusted_modules": [name]}, SHAPES)


# ---- starting anew ------------------------------------------------------------------------------


def contents(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_setting_aside_keeps_everything(folder: RunFolder) -> None:
    before = contents(folder.root)
    aside = set_aside(folder)
    assert not folder.root.exists()
    assert aside.parent == folder.root.parent
    assert aside.name.startswith(f"{folder.root.name}.before-")
    after = contents(aside)
    after.pop("lease")
    assert after == before


def test_a_run_in_progress_is_not_set_aside(folder: RunFolder) -> None:
    with Lease(folder):
        before = contents(folder.root)
        with pytest.raises(RequestError, match="has been writing here"):
            set_aside(folder)
        assert contents(folder.root) == before


def test_nothing_here_imports_torch() -> None:
    """A finished run is shown, and a foreign one refused, before torch is imported."""
    check = "import sys, dit_lab.lab.identity; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
