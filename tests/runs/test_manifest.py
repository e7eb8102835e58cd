"""The sweep folder: written and read back, found by every name, one for each start."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dit_lab.core.errors import RequestError
from dit_lab.runs.manifest import Job, Manifest, SweepFolder, all_sweeps, find_sweep, new_sweep
from tests.synthetic import SETTINGS


def manifest(**changes: object) -> Manifest:
    jobs = [
        Job(number=number, overrides=[f"seed={number}"], config_hash=f"{number:012x}",
            run=f"runs/tiny/{number:012x}")
        for number in range(3)
    ]  # fmt: skip
    given = {
        "name": "seeds",
        "typed": ["seed=0,1,2"],
        "config_dirs": [],
        "identity": "0" * 12,
        "axes": {"seed": ["0", "1", "2"]},
        "settings": SETTINGS,
        "tracking": {"backend": "none", "uri": None, "experiment": "seeds"},
        "jobs": jobs,
    }
    return Manifest(**(given | changes))  # type: ignore[arg-type]


def made(root: Path, **changes: object) -> SweepFolder:
    return new_sweep(root, manifest(**changes), [{"seed": n} for n in range(3)])


def test_read_as_it_was_written(tmp_path: Path) -> None:
    folder = made(tmp_path, created=1e9)
    assert folder.read() == manifest(created=1e9)
    changed = folder.read()
    changed.jobs[1].status, changed.jobs[1].error = "FAILED", "why"
    folder.write(changed)
    assert folder.read() == changed
    assert changed.counts() == {"FAILED": 1, "PENDING": 2}


ARMS = {"base": {"from": None, "overrides": []},
        "wide": {"from": "base", "overrides": ["model=nano", "optimizer.lr=0.1"]}}  # fmt: skip


def test_arms_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert made(tmp_path, arms=ARMS).read().arms == ARMS


def test_axes_and_arms_keep_the_order_in_which_they_were_typed(tmp_path: Path) -> None:
    axes = {"seed": ["1", "0"], "model.norm": ["rms", "layer"], "arm": ["wide", "base"]}
    arms = {name: ARMS[name] for name in ("wide", "base")}
    found = made(tmp_path, axes=axes, arms=arms).read()
    assert list(found.axes.items()) == list(axes.items())
    assert list(found.arms) == ["wide", "base"]


def test_a_manifest_of_before_there_were_arms(tmp_path: Path) -> None:
    folder = made(tmp_path)
    content = json.loads(folder.manifest.read_text())
    assert content.pop("arms") == {}
    folder.manifest.write_text(json.dumps(content))
    assert folder.read().arms == {}


@pytest.mark.parametrize(
    ("arm", "why"),
    [
        ({"from": 1, "overrides": []}, r"arms\.base\.from: expected text, found 1"),
        ({"from": None}, r"arms\.base: lacks overrides"),
    ],
)
def test_arms_of_another_form(tmp_path: Path, arm: object, why: str) -> None:
    folder = made(tmp_path, arms={"base": arm})
    with pytest.raises(RequestError, match=why):
        folder.read()


def test_what_a_job_is_lies_in_its_folder(tmp_path: Path) -> None:
    folder = made(tmp_path)
    job = folder.read().jobs[2]
    assert folder.job(job).name == "02-000000000002"
    assert json.loads(folder.job_config(job).read_text()) == {"seed": 2}
    run = folder.run(job).root
    assert run == tmp_path / "runs/tiny/000000000002"
    run.mkdir(parents=True)
    assert (folder.job(job) / "run").resolve() == run


def test_it_may_be_moved(tmp_path: Path) -> None:
    folder = made(tmp_path / "outputs")
    job = folder.read().jobs[0]
    folder.run(job).root.mkdir(parents=True)
    shutil.move(tmp_path / "outputs", tmp_path / "kept")
    moved = find_sweep(folder.root.name, root=tmp_path / "kept")
    assert (moved.job(job) / "run").resolve() == moved.run(job).root
    assert moved.run(job).root.is_dir()


def test_starts_in_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(20) as pool:
        folders = list(pool.map(lambda _: made(tmp_path, created=1e9), range(20)))
    assert len({folder.root for folder in folders}) == 20
    assert len(all_sweeps(tmp_path)) == 20


def test_found_by_folder_name_and_tracked_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = made(tmp_path, parent_run_id="abc"), made(tmp_path)
    for name in (str(folder.root), folder.root.name, "abc"):
        assert find_sweep(name, root=tmp_path).root == folder.root.resolve()
    monkeypatch.chdir(folder.root.parent)
    assert find_sweep(other.root.name, root=Path("nowhere")).root == other.root.resolve()
    with pytest.raises(RequestError, match=f"the newest are .*{other.root.name}"):
        find_sweep("abd", root=tmp_path)


def test_found_by_its_name_if_no_other_has_it(tmp_path: Path) -> None:
    folder = made(tmp_path)
    name = folder.read().name
    assert find_sweep(name, root=tmp_path).root == folder.root.resolve()
    other = made(tmp_path)
    with pytest.raises(RequestError, match=f"{name}: 2 sweeps have this name; .*{other.root.name}"):
        find_sweep(name, root=tmp_path)


@pytest.mark.parametrize("text", ["{}", '{"jobs": [{}]}', '{"jobs": []}', "[", "\x00"])
def test_a_damaged_one_is_refused(tmp_path: Path, text: str) -> None:
    folder = made(tmp_path)
    folder.manifest.write_text(text)
    with pytest.raises(RequestError, match=str(folder.root)):
        folder.read()
