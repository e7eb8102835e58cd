"""A run keeps its recorded data: the order of classes, and which files are images."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_lab.config.checks.data import check_same_data, read_facts
from dit_lab.config.compose import compose_train
from dit_lab.config.identity import identity, run_folder
from dit_lab.config.objects import to_tree
from dit_lab.config.prepare import prepare
from dit_lab.config.schema import RunConfig
from dit_lab.config.yaml_files import to_yaml
from dit_lab.core.errors import RequestError
from dit_lab.core.types import Shapes
from dit_lab.data.split_folders import FIRST, NOW
from dit_lab.runs.folder import write_atomically, write_json
from dit_lab.runs.recorded import recorded_shapes
from tests.errors.starts import image

TYPED = [
    "experiment=own_images", "dataset.root=photos", "dataset.image_size=8", "model=pico",
    "patch=2", "evaluation.num_images=0", "tracking=none",
]  # fmt: skip


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A config of photographs in numbered class folders, with some TIFF scans."""
    monkeypatch.chdir(tmp_path)
    for folder in ("1", "2", "10"):
        for name in ("a.png", "b.png", "c.png"):
            image(tmp_path / "photos" / folder / name)
    image(tmp_path / "photos/2/scan.tif")
    return compose_train(TYPED)


def recorded_by_the_first_version(config: RunConfig) -> Shapes:
    """Write an unfinished run in the format of the first version, and return its shapes."""
    shapes = Shapes(read_facts(config, reading=FIRST), (3, 8, 8))
    folder = run_folder(config)
    checkpoint = folder.checkpoints / "step-00000001"
    checkpoint.mkdir(parents=True)
    write_json(checkpoint / "COMPLETE", {})
    write_json(folder.identity, identity(config, shapes, before={}, codec="identity"))
    write_atomically(folder.config, to_yaml(to_tree(config)))
    assert "reading" not in folder.identity.read_text()
    return shapes


def test_a_new_run_reads_as_today(config: RunConfig) -> None:
    found = prepare(config)
    assert found.shapes.data.class_names == ("1", "2", "10")
    assert found.identity["data"]["reading"] == NOW
    assert found.notes[0] == "3 classes: 1, 2, 10"


def test_an_old_run_goes_on_as_it_was_recorded(config: RunConfig) -> None:
    before = recorded_by_the_first_version(config)
    found = prepare(config)
    assert found.before and found.notes == ()
    assert found.shapes.data.class_names == before.data.class_names == ("1", "10", "2")
    assert found.identity["data_fingerprint"] == before.data.fingerprint
    assert found.identity["data"] == before.data.recorded()


def test_an_old_run_is_measured_against_what_it_was_trained_on(config: RunConfig) -> None:
    recorded_by_the_first_version(config)
    known = recorded_shapes(run_folder(config))
    assert check_same_data(config, known).class_names == ("1", "10", "2")
    (Path("photos/10") / "d.png").write_bytes(Path("photos/10/a.png").read_bytes())
    with pytest.raises(RequestError, match="not the data that the run was trained on"):
        check_same_data(config, known)


def test_what_goes_on_from_an_old_run_keeps_its_order(config: RunConfig) -> None:
    recorded_by_the_first_version(config)
    parent = run_folder(config).root
    longer = compose_train([f"resume=force:{parent}", "training.total_steps=4000"])
    assert prepare(longer).shapes.data.class_names == ("1", "10", "2")


def test_a_new_run_in_its_place_reads_as_today(config: RunConfig) -> None:
    recorded_by_the_first_version(config)
    anew = compose_train([*TYPED, "resume=never"])
    assert prepare(anew).shapes.data.class_names == ("1", "2", "10")


def test_doubtful_lists_begin_no_run_and_stop_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose data were accepted once can still be resumed."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        image(tmp_path / "data/images" / name)
    (tmp_path / "data/train_labels.txt").write_text("a.png 0\na.png 1\n")
    (tmp_path / "data/val_labels.txt").write_text("b.png 0\n")
    config = compose_train([
        "dataset=labelled_list", "dataset.root=data", "dataset.image_size=8", "codec=identity",
        "model=pico", "patch=2", "evaluation.num_images=0", "tracking=none",
    ])  # fmt: skip
    with pytest.raises(
        RequestError, match=r"line 2: a.png has class id 1, and 0 in .*line 1; keep"
    ):
        prepare(config)
    recorded_by_the_first_version(config)
    assert prepare(config).before
