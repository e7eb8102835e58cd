"""Extension of runs: allowed and refused changes, and the contents of the new folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dit_lab.actions.extension import take_over
from dit_lab.config.checks.runs import check_extension, newest_checkpoint
from dit_lab.config.compose import compose_train
from dit_lab.config.identity import identity, run_folder
from dit_lab.config.objects import to_config, to_tree
from dit_lab.config.recorded import read_recorded
from dit_lab.config.schema import RunConfig
from dit_lab.config.yaml_files import to_yaml
from dit_lab.core.errors import RequestError
from dit_lab.core.trust import trust_modules
from dit_lab.core.types import Shapes
from dit_lab.data.digits_facts import digits_facts
from dit_lab.runs.folder import RunFolder, read_json, write_json
from dit_lab.runs.metrics import MetricsRow, read_metrics, write_metrics

SHAPES = Shapes(digits_facts(), (1, 8, 8))
END = "training.total_steps"
CONSTANT = {"_target_": "dit_lab.training.schedules.Constant", "warmup_steps": 0}
COSINE = {
    "_target_": "dit_lab.training.schedules.Cosine", "warmup_steps": 0, "final_factor": 0.0
}  # fmt: skip
Config = dict[str, Any]
Make = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def composed() -> RunConfig:
    return compose_train(
        ["dataset=digits", "codec=identity", "model=pico", "objective=ddpm", f"{END}=40"]
    )


def changed(config: RunConfig, changes: Config) -> RunConfig:
    """Return the config with other values at dotted keys."""
    other = to_tree(config)
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        node = other
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return to_config(RunConfig, other)


@pytest.fixture
def make(composed: RunConfig, tmp_path: Path) -> Make:
    """Record a run of 40 steps with checkpoints at 20 and 40, with all that an extension reads."""

    def record(changes: Config | None = None, *, steps: tuple[int, ...] = (20, 40)) -> RunFolder:
        config = changed(composed, {"paths.root": str(tmp_path), **(changes or {})})
        folder = run_folder(config)
        folder.checkpoints.mkdir(parents=True)
        folder.config.write_text(to_yaml(to_tree(config)))
        write_json(folder.identity, identity(config, SHAPES, before={}, codec="pixels"))
        for step in steps:
            checkpoint = folder.checkpoints / f"step-{step:08d}"
            (checkpoint / "optimizer").mkdir(parents=True)
            for name in ("optimizer/state.safetensors", "state.json", "COMPLETE"):
                (checkpoint / name).write_text(f"{name} of {step}")
        return folder

    return record


def check(parent: RunFolder, changes: Config, *, force: bool = False) -> RunConfig:
    """Run the checks of `dit-lab train resume=RUN ...` and return its config."""
    resume = f"{'force:' if force else ''}{parent.root}"
    config = changed(read_recorded(parent), {"resume": resume, **changes})
    check_extension(config, identity(config, SHAPES, before={}))
    return config


def refusal(parent: RunFolder, changes: Config, *, force: bool = False) -> str:
    with pytest.raises(RequestError) as refused:
        check(parent, changes, force=force)
    text = str(refused.value)
    assert text.startswith(f"resume={parent.root}: ")
    assert "\n" not in text
    return text.removeprefix(f"resume={parent.root}: ")


def test_what_extends_nothing_is_not_looked_at(composed: RunConfig) -> None:
    for word in ("auto", "never", "force"):
        config = replace(composed, resume=word)
        check_extension(config, identity(config, SHAPES, before={}))


def test_more_steps_of_the_same_are_all_it_takes(make: Make) -> None:
    parent = make()
    config = check(parent, {END: 60})
    assert run_folder(config) == run_folder(replace(config, resume="auto"))
    # how it is watched may change
    watching = {"training.log_every_steps": 7, "evaluation.num_images": 0, "name": "longer"}
    check(parent, {END: 60, **watching})


def test_fewer_steps_are_refused(make: Make) -> None:
    parent = make()
    for total in (30, 40):
        expected = f"is at step 40; give training.total_steps above that, not {total}"
        assert refusal(parent, {END: total}) == expected
        assert refusal(parent, {END: total}, force=True) == expected  # nobody can go backwards


def test_an_unfinished_run_can_be_extended_from_where_it_is(make: Make) -> None:
    parent = make(steps=(20,))
    check(parent, {END: 30})  # a constant schedule does not mind
    assert "is at step 20" in refusal(parent, {END: 20})


def test_a_run_without_a_checkpoint_is_refused(make: Make) -> None:
    parent = make(steps=(20,))
    (parent.checkpoints / "step-00000020/COMPLETE").unlink()
    for force in (False, True):
        assert refusal(parent, {END: 60}, force=force) == "has no checkpoint to go on from"


def test_another_training_is_named_and_refused(make: Make) -> None:
    parent = make()
    on = f"; resume=force:{parent.root} goes on regardless"
    assert refusal(parent, {END: 60, "seed": 1}) == f"seed was 0 and is 1 here{on}"
    two = refusal(parent, {END: 60, "seed": 1, "optimizer.lr": 0.5})
    assert two == f"optimizer.lr was 0.0001 and is 0.5 here (and 1 more keys){on}"
    schedule = refusal(parent, {END: 60, "schedule": COSINE})  # has a key that the other has not
    assert schedule.startswith(f"schedule._target_ was {CONSTANT['_target_']} and is ")
    for changes in ({"seed": 1}, {"schedule": COSINE}):
        check(parent, {END: 60, **changes}, force=True)


def test_a_schedule_that_depends_on_the_end_is_refused(make: Make) -> None:
    cosine = {"schedule": COSINE, "choices.schedule": "cosine"}
    parent = make(cosine)
    assert refusal(parent, {END: 60}) == (
        "schedule=cosine depends on training.total_steps, so a run of 60 steps is not one of 40 "
        f"steps with more after it; resume=force:{parent.root} goes on regardless"
    )
    forced = check(parent, {END: 60}, force=True)
    assert run_folder(forced) != run_folder(replace(forced, resume="auto"))
    check(make({**cosine, END: 60}, steps=(40,)), {END: 60})  # the end stays where it was


@pytest.mark.parametrize(
    ("key", "what"),
    [("code_hash", "source code"), ("data_fingerprint", "data")],
)
def test_other_code_or_data_is_refused(make: Make, key: str, what: str) -> None:
    parent = make()
    write_json(parent.identity, {**read_json(parent.identity), key: "0123456789ab"})
    text = refusal(parent, {END: 60})
    assert text.startswith(f"this run was made with other {what} (0123456789ab")
    check(parent, {END: 60}, force=True)


OWN_SCHEDULES = """
class Silent:
    def factor(self, step: int, total_steps: int) -> float:
        return 1.0

class Honest(Silent):
    depends_on_end = False
"""


def test_a_schedule_of_ones_own_has_to_say_that_it_can_be_extended(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "schedules_under_test.py").write_text(OWN_SCHEDULES)
    trust_modules(["schedules_under_test"])
    for name, refused in (("Silent", True), ("Honest", False)):
        own = {"schedule": {"_target_": f"schedules_under_test.{name}"}, "choices.schedule": name}
        parent = make(own)
        if refused:
            assert f"schedule={name} depends on" in refusal(parent, {END: 60})
        else:
            check(parent, {END: 60})


# ---- what the new folder gets -------------------------------------------------------------------


def files(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(params=["same disk", "other disk"])
def heir(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunFolder]:
    """An empty run folder, on file systems with and without shared files."""
    if request.param == "same disk":
        root = tmp_path / "heir"
    else:
        memory = Path("/dev/shm")
        if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is no second disk")
        root = Path(tempfile.mkdtemp(dir=memory, prefix="dit-lab-"))
    folder = RunFolder(root)
    folder.checkpoints.mkdir(parents=True)
    yield folder
    shutil.rmtree(root)


def test_the_newest_complete_checkpoint_is_where_a_run_is(make: Make) -> None:
    parent = make(steps=(20, 40, 100))
    assert newest_checkpoint(parent) == parent.checkpoints / "step-00000100"
    (parent.checkpoints / "step-00000100/COMPLETE").unlink()
    assert newest_checkpoint(parent) == parent.checkpoints / "step-00000040"
    assert newest_checkpoint(RunFolder(parent.root / "nowhere")) is None


def test_the_heir_gets_one_checkpoint_and_the_rows_up_to_there(make: Make, heir: RunFolder) -> None:
    parent = make()
    rows = [MetricsRow(step, 1.0, {"train/loss": 0.5}) for step in (10, 20, 30, 40)]
    write_metrics(parent.metrics, rows)
    before = files(parent.root)
    leftover = heir.checkpoints / ".writing-step-00000020"  # of a take-over that was killed
    leftover.mkdir()
    (leftover / "half.safetensors").write_text("half")
    take_over(parent, heir, parent.checkpoints / "step-00000020")
    assert [path.name for path in heir.checkpoints.iterdir()] == ["step-00000020"]
    given = parent.checkpoints / "step-00000020"
    assert files(heir.checkpoints / "step-00000020") == files(given)
    assert read_metrics(heir.metrics) == rows[:2]
    assert files(parent.root) == before


def test_the_heir_may_remove_and_replace_what_it_got(make: Make, heir: RunFolder) -> None:
    """Shared files are never modified: a checkpoint is replaced atomically."""
    parent = make()
    before = files(parent.root)
    take_over(parent, heir, parent.checkpoints / "step-00000040")
    shutil.rmtree(heir.checkpoints / "step-00000040")
    assert files(parent.root) == before
