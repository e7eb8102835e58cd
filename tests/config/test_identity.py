"""The run folder of a config, and when a folder holds a different run."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired, get_origin, get_type_hints

import pytest

from dit_lab.config import identity as identity_module
from dit_lab.config.compose import compose_train
from dit_lab.config.identity import (
    as_hashed,
    move_aside,
    parent_run,
    refuse_foreign,
    run_folder,
    train_hash,
)
from dit_lab.config.objects import to_tree
from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component
from dit_lab.core.trust import trust_modules
from dit_lab.core.types import Shapes
from dit_lab.data.digits_facts import digits_facts
from dit_lab.runs.folder import NOT_DECIDING, RunFolder, digest, flatten, read_json, write_json
from dit_lab.runs.lock import Lease
from dit_lab.runs.recorded import deciding, difference, recorded_shapes, recorded_training
from dit_lab.runs.records import Identity
from tests.records import HEADER, IDENTITY, write_header

SHAPES = Shapes(digits_facts(), (1, 8, 8))
Config = dict[str, Any]
DIGITS = ["dataset=digits", "codec=identity", "model=pico"]


def identity(
    config: RunConfig, before: Config | None = None, codec: str | None = "pixels"
) -> Config:
    return identity_module.identity(config, SHAPES, before=before or {}, codec=codec)


# ---- the hash -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def composed() -> RunConfig:
    return compose_train([*DIGITS, "name=here"])


@pytest.fixture(scope="module")
def tree(composed: RunConfig) -> Config:
    return to_tree(composed)


def hash_of(tree: Config) -> str:
    """Return the data behind train_hash for a run with random initial weights."""
    return digest(deciding(as_hashed(tree)))


def changed(config: Config, path: str) -> Config:
    """Return the config with another value at one leaf, which may be new."""
    other = copy.deepcopy(config)
    *parents, leaf = path.split(".")
    node = other
    for parent in parents:
        node = node.setdefault(parent, {})
    node[leaf] = "never" if path == "resume" else f"not {node.get(leaf)}"
    return other


WATCHING = [
    "choices.model",
    "name",
    "resume",
    "paths.root",
    "tracking.uri",
    "tracking.backend",
    "tags.topic",
    "note",
    "distributed.num_processes",
    "sampler._target_",
    "sampler.steps",
    "guidance.scale",
    "sample.seed",
    "evaluation.loss_images",
    "evaluation.num_images",
    "metric.two_sample._target_",
    "metric.two_sample.every_steps",
    "hook.mine._target_",
    "hook.mine.every_steps",
    "dataset.root",
    "dataset.images_root",
    "dataset.num_workers",
    "codec.path",
    "codec.chunk_images",
    "coupling.pairs",
    "model.activation_checkpointing",
    "ema.power_stds",
    "ema.snapshot_every_steps",
    "training.accumulation",
    "training.compile",
    "training.log_every_steps",
    "training.checkpoint_every_steps",
    "training.keep_last",
    "training.keep_every_steps",
    "training.keep_finished",
    "training.sample_every_steps",
    "training.validate_every_steps",
    "training.evaluate_every_steps",
    "training.hang_after_seconds",
    "training.system_metrics",
]
LACKING = ("dataset.root", "dataset.images_root", "codec.path", "codec.chunk_images",
           "coupling.pairs", "hook", "tags")  # fmt: skip
"""What a training of digits does not have."""

DECIDING = [
    "seed",
    "dataset._target_",
    "dataset.image_size",
    "codec._target_",
    "model.depth",
    "model.class_dropout_prob",
    "objective._target_",
    "objective.time_sampling",
    "optimizer.lr",
    "schedule._target_",
    "schedule.warmup_steps",
    "training.total_steps",
    "training.global_batch_size",
    "training.clip_norm",
    "training.max_skipped_in_a_row",
    "precision.mixed_precision",
    "ema.decays",
    "ema.warmup",
    # not to be taken for their neighbours above
    "model.name",
    "names",
    "sample_order",
    "dataset.roots",
    "codec.paths",
    "training.accumulation_dtype",
    "something.nobody.thought_of",
]


@pytest.mark.parametrize("path", WATCHING)
def test_how_a_run_is_watched_does_not_change_its_hash(
    composed: RunConfig, tree: Config, path: str
) -> None:
    assert hash_of(changed(tree, path)) == train_hash(composed)
    assert path not in deciding(tree)


@pytest.mark.parametrize("path", DECIDING)
def test_what_decides_the_weights_changes_the_hash(tree: Config, path: str) -> None:
    assert hash_of(changed(tree, path)) != hash_of(tree)


def test_the_two_lists_are_all_there_is(tree: Config) -> None:
    """Each entry is a key of the composed configuration, and has its line in this file."""
    keys = {key for key, _ in flatten(tree)}
    for entry in NOT_DECIDING:
        lines = [*WATCHING, "init_from"]  # what lies there decides: the next test
        assert any(key == entry or key.startswith(f"{entry}.") for key in lines), entry
        if entry not in LACKING:
            assert any(key == entry or key.startswith(f"{entry}.") for key in keys), entry


def test_weights_to_begin_with_count_by_what_they_are(composed: RunConfig, tmp_path: Path) -> None:
    """The same weights at two paths give the same hash, other weights another."""
    hashes = []
    for place, run, step in (("a", "1", 4), ("b", "1", 4), ("c", "1", 8), ("d", "2", 4)):
        file = tmp_path / f"{place}.safetensors"
        write_header(file, {**HEADER, "identity": {**IDENTITY, "train_hash": run}, "step": step})
        hashes.append(train_hash(replace(composed, init_from=str(file))))
    assert hashes[0] == hashes[1]
    assert len({train_hash(composed), *hashes}) == 4


# ---- the folder ---------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return compose_train([*DIGITS, "name=mine", f"paths.root={tmp_path}"])


@pytest.fixture
def folder(config: RunConfig) -> RunFolder:
    """A run folder of this config."""
    made = run_folder(config)
    (made.checkpoints / "step-00000005" / "optimizer").mkdir(parents=True)
    (made.checkpoints / "step-00000005" / "optimizer" / "state.safetensors").write_bytes(
        b"\x00\x01"
    )
    made.metrics.write_text("{}\n")
    write_json(made.identity, identity(config))
    return made


def test_a_name_and_what_decides_the_weights_make_the_folder(config: RunConfig) -> None:
    folder = run_folder(config)
    assert folder.root == Path(config.paths.root) / "runs" / "mine" / train_hash(config)
    assert not folder.root.parent.exists()
    assert run_folder(replace(config, seed=1)).root != folder.root
    assert run_folder(replace(config, name="other")).root.name == folder.root.name


def test_the_recorded_shapes_are_those_that_were_there(
    config: RunConfig, folder: RunFolder
) -> None:
    assert recorded_shapes(folder) == SHAPES


def changed_identity(config: RunConfig, key: str) -> Config:
    return {**identity(config), key: "something else"}


def refusal(folder: RunFolder, config: RunConfig, now: Config) -> str:
    """Return the one-line error that explains why a folder holds another run."""
    with pytest.raises(RequestError) as refused:
        refuse_foreign(folder, config, now)
    text = str(refused.value)
    assert text.startswith(f"{folder.root}: ")
    assert "resume=never" in text
    assert "resume=force" in text
    assert "\n" not in text
    return text


def test_the_same_run_is_not_foreign(config: RunConfig, folder: RunFolder) -> None:
    refuse_foreign(folder, config, identity(config))
    for harmless in ("train_hash", "latent_shape"):  # the folder's name and the codec say these
        refuse_foreign(folder, config, changed_identity(config, harmless))


@pytest.mark.parametrize(
    ("key", "what"), [("code_hash", "other source code"), ("data_fingerprint", "other data")]
)
def test_other_code_or_data_is_refused(
    config: RunConfig, folder: RunFolder, key: str, what: str
) -> None:
    text = refusal(folder, config, changed_identity(config, key))
    assert f"made with {what} ({identity(config)[key][:12]}, now something el)" in text


def test_another_codec_is_refused_once_it_is_known(config: RunConfig, folder: RunFolder) -> None:
    write_json(folder.identity, identity(config, codec="first"))
    refuse_foreign(folder, config, identity(config, codec="first"))
    refuse_foreign(folder, config, identity(config, codec=None))  # not loaded yet
    text = refusal(folder, config, identity(config, codec="second"))
    assert "made with other codec (first, now second)" in text


@pytest.mark.parametrize("left", ["status", "checkpoint"])
def test_a_run_whose_identity_is_lost_is_refused(
    config: RunConfig, folder: RunFolder, left: str
) -> None:
    folder.identity.unlink()
    if left == "status":
        (folder.checkpoints / "step-00000005").rename(folder.root / "elsewhere")
        write_json(folder.status, {"status": "FINISHED", "step": 5, "updated": 0.0})
    assert "identity.json is missing" in refusal(folder, config, identity(config))


NEEDED = [
    key
    for key, kind in get_type_hints(Identity, include_extras=True).items()
    if get_origin(kind) is not NotRequired
]


@pytest.mark.parametrize("key", NEEDED)
def test_an_identity_that_lacks_something_is_refused(
    config: RunConfig, folder: RunFolder, key: str
) -> None:
    """The file is of an older version or was edited; the error is explicit, not a KeyError."""
    found = read_json(folder.identity)
    assert found.keys() == {*NEEDED, "code_hash_of"}
    del found[key]
    write_json(folder.identity, found)
    lacks = rf"identity\.json: damaged \(lacks {key}\); resume=never trains anew"
    with pytest.raises(RequestError, match=lacks):
        refuse_foreign(folder, config, identity(config))
    with pytest.raises(RequestError, match=lacks):
        recorded_shapes(folder)
    refuse_foreign(folder, replace(config, resume="never"), identity(config))


def test_what_was_forced_is_remembered(config: RunConfig, folder: RunFolder) -> None:
    """Recorded once per change, also if the same command is repeated."""
    first = read_json(folder.identity)
    assert first["forced_over"] == []
    moved = {**first, "data_fingerprint": "elsewhere"}
    second = identity(config, moved)
    assert second["forced_over"] == [
        f"this run was made with other data (elsewhere, now {first['data_fingerprint'][:12]})"
    ]
    assert identity(config, second)["forced_over"] == second["forced_over"]
    third = identity(config, {**second, "code_hash": "before"})
    assert third["forced_over"][:1] == second["forced_over"]
    assert len(third["forced_over"]) == 2


def test_a_run_from_before_code_had_a_meaning_goes_on_with_a_note(
    config: RunConfig, folder: RunFolder
) -> None:
    """Its hash is of file bytes. Extended runs do not inherit the note."""
    old = {**read_json(folder.identity), "code_hash": "of bytes", "code_files": {"a.py": "b"}}
    del old["code_hash_of"]
    write_json(folder.identity, old)
    now = identity(config, old)
    refuse_foreign(folder, config, now)
    assert now["predates"] == "of bytes" and now["forced_over"] == []
    assert now["code_hash"] == identity(config)["code_hash"]
    again = identity(config, now)
    assert again["predates"] == "of bytes" and again["code_hash"] == now["code_hash"]
    write_json(folder.identity, now)
    refuse_foreign(folder, config, again)
    assert "other source code" in refusal(folder, config, {**again, "code_hash": "changed"})
    child = identity(replace(config, resume=str(folder.root)))
    assert "predates" not in child and child["forced_over"] == []
    data = {**old, "data_fingerprint": "elsewhere"}
    write_json(folder.identity, data)
    assert "other data" in refusal(folder, config, identity(config, data))


@pytest.mark.parametrize("resume", ["force", "never"])
def test_who_has_answered_the_question_is_not_asked(
    config: RunConfig, folder: RunFolder, resume: str
) -> None:
    for key in ("code_hash", "data_fingerprint"):
        refuse_foreign(folder, replace(config, resume=resume), changed_identity(config, key))


def test_what_was_never_trained_with_may_change(config: RunConfig, folder: RunFolder) -> None:
    """The run has no trained weights yet, whatever status its start has left."""
    (folder.checkpoints / "step-00000005").rename(folder.root / "elsewhere")
    write_json(folder.status, {"status": "FAILED", "step": 0, "updated": 0.0})
    for key in ("code_hash", "data_fingerprint"):
        refuse_foreign(folder, config, changed_identity(config, key))
    folder.identity.unlink()
    refuse_foreign(folder, config, identity(config))
    assert recorded_training(folder) == {}


def test_an_empty_folder_is_not_foreign(config: RunConfig) -> None:
    refuse_foreign(run_folder(config), config, identity(config))


# ---- the user's own code ------------------------------------------------------------------------


def _own(config: RunConfig) -> RunConfig:
    """With an objective of the user's own."""
    name = "mylab_under_test.deep.objective.Own"
    return replace(config, objective=replace(config.objective, _target_=name))


@pytest.fixture
def trust(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """Writes the package `mylab_under_test`, trusts it, and returns the code hash."""
    package = tmp_path / "code" / "mylab_under_test"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(package.parent)
    trust_modules(["mylab_under_test"])

    def write(text: str) -> str:
        (package / "deep" / "objective.py").write_text(text)
        return identity(_own(config))["code_hash"]

    return write


def test_what_decides_no_weights_is_not_in_the_code_hash(
    config: RunConfig, trust: Callable[[str], str], tmp_path: Path
) -> None:
    """A hook, a metric and a sampler in the same package; imports of the objective count."""
    package = tmp_path / "code/mylab_under_test"
    first = trust("from . import helper\nfrom ..shared.sums import total\n")
    (package / "metrics.py").write_text("a = 1\n")
    (package / "deep/helper.py").write_text("a = 1\n")
    watched = Component(_target_="mylab_under_test.metrics.Mine")
    own = replace(_own(config), hook={"mine": watched}, metric={"mine": watched}, sampler=watched)
    files = identity(own)["code_files"]
    assert "mylab_under_test/deep/helper.py" in files
    assert "mylab_under_test/metrics.py" not in files
    assert identity(own)["code_hash"] != first
    (package / "shared").mkdir()
    for name in ("__init__", "sums"):
        (package / f"shared/{name}.py").write_text("a = 1\n")
    reached = {"mylab_under_test/shared/__init__.py", "mylab_under_test/shared/sums.py"}
    assert identity(own)["code_files"].keys() - files.keys() == reached


def test_a_run_that_recorded_every_file_of_a_package_is_the_same_run(
    config: RunConfig, trust: Callable[[str], str]
) -> None:
    """As earlier versions did."""
    trust("a = 1\n")
    now = identity(_own(config))
    files = now["code_files"]
    before = {**now, "code_hash": "of more", "code_files": {**files, "mylab_under_test/m.py": "0"}}
    assert difference(before, now) == ""
    other = {**before["code_files"], "mylab_under_test/deep/objective.py": "0"}
    assert "deep/objective.py" in difference({**before, "code_files": other}, now)
    of_the_lab = {**files, "dit_lab/training/gone.py": "0"}
    assert "gone.py" in difference({**before, "code_files": of_the_lab}, now)


def test_the_code_hash_covers_trusted_packages(
    config: RunConfig, trust: Callable[[str], str]
) -> None:
    first, second = trust("a = 1\n"), trust("a = 2\n")
    assert len({first, second, identity(config)["code_hash"]}) == 3
    assert trust("a = 1\n") == first


def test_a_refusal_names_the_files_that_changed(
    config: RunConfig, trust: Callable[[str], str]
) -> None:
    with_trust = _own(config)
    trust("a = 1\n")
    before = identity(with_trust)
    folder = run_folder(with_trust)
    (folder.checkpoints / "step-00000005").mkdir(parents=True)
    write_json(folder.identity, before)
    trust("a = 2\n")
    text = refusal(folder, with_trust, identity(with_trust))
    assert "other source code (mylab_under_test/deep/objective.py changed)" in text
    files = before["code_files"]
    moved = {name.replace("training/ema", "training/averages"): of for name, of in files.items()}
    write_json(folder.identity, {**before, "code_files": moved})  # is the same, elsewhere
    assert text == refusal(folder, with_trust, identity(with_trust))
    names = ["dit_lab/codecs/identity.py", "dit_lab/core/rng.py", "dit_lab/types_that_are_gone.py"]
    write_json(folder.identity, {**before, "code_files": files | dict.fromkeys(names, "0")})
    assert f"({', '.join(names)} and 1 more changed)" in refusal(
        folder, with_trust, identity(with_trust)
    )


# ---- the run that is extended -------------------------------------------------------------------


def extending(config: RunConfig, folder: RunFolder, force: bool = False) -> RunConfig:
    """Return the config of a longer run that extends the run in a folder."""
    longer = replace(config.training, total_steps=config.training.total_steps + 1)
    resume = f"{'force:' if force else ''}{folder.root}"
    return replace(config, training=longer, resume=resume)


def make(config: RunConfig) -> RunFolder:
    folder = run_folder(config)
    folder.root.mkdir(parents=True)
    write_json(folder.identity, identity(config))
    return folder


def test_words_are_no_runs(config: RunConfig, folder: RunFolder) -> None:
    for word in ("auto", "never", "force"):
        assert parent_run(replace(config, resume=word)) is None
    for resume in (f"{folder.root}", f"force:{folder.root}"):
        assert parent_run(replace(config, resume=resume)) == folder


def test_an_extension_is_the_run_of_that_length(config: RunConfig, folder: RunFolder) -> None:
    longer = extending(config, folder)
    assert train_hash(longer) == train_hash(replace(longer, resume="auto"))
    ancestors = [train_hash(config)]
    assert (identity(longer)["ancestors"], identity(longer)["forced_over"]) == (ancestors, [])
    longest = extending(longer, make(longer))
    assert identity(longest)["ancestors"] == [train_hash(longer), *ancestors]
    assert train_hash(longest) == train_hash(replace(longest, resume="auto"))


def test_what_is_forced_to_go_on_never_meets_the_run_of_that_length(
    config: RunConfig, folder: RunFolder
) -> None:
    forced = extending(config, folder, force=True)
    other_parent = make(replace(config, seed=1))
    hashes = [
        train_hash(longer)
        for longer in (
            replace(forced, resume="auto"),
            forced,
            extending(config, other_parent, force=True),
        )
    ]
    assert len(set(hashes)) == 3
    assert identity(forced)["forced_over"] == [f"goes on from {train_hash(config)} by force"]


@pytest.mark.parametrize("how", ["extended by force", "forced on in its folder"])
def test_nor_does_what_goes_on_from_there(config: RunConfig, folder: RunFolder, how: str) -> None:
    """Its bits differ from those of an uninterrupted run too, and it says why."""
    parent_config = extending(config, folder, force=how == "extended by force")
    parent = make(parent_config)
    if how != "extended by force":
        now = identity(parent_config, {**read_json(parent.identity), "code_hash": "before"})
        write_json(parent.identity, now)
    longest = extending(parent_config, parent)
    assert train_hash(longest) != train_hash(replace(longest, resume="auto"))
    assert identity(longest)["forced_over"] == read_json(parent.identity)["forced_over"] != []


# ---- starting anew ------------------------------------------------------------------------------


def contents(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_setting_aside_keeps_everything(folder: RunFolder) -> None:
    before = contents(folder.root)
    aside = move_aside(folder)
    assert not folder.root.exists()
    assert aside.parent == folder.root.parent
    assert aside.name.startswith(f"{folder.root.name}.before-")
    after = contents(aside)
    after.pop("lease")
    assert after == before


def test_a_run_in_progress_is_not_set_aside(folder: RunFolder) -> None:
    with Lease(folder.lease):
        before = contents(folder.root)
        with pytest.raises(RequestError, match="has been writing here"):
            move_aside(folder)
        assert contents(folder.root) == before


def test_nothing_here_imports_torch() -> None:
    """Finished runs are shown, and others refused, before torch is imported."""
    check = "import sys, dit_lab.config.identity; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
