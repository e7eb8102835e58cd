"""`dit-lab reflow`: pairs drawn from a run, a second run trained on them, both evaluated."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from dit_lab.actions import reflow
from dit_lab.build.parts import build_batches, build_examples, build_generator
from dit_lab.build.trained import Trained, load
from dit_lab.config.prepare import prepare_for_run
from dit_lab.config.schema import RunConfig, SampleConfig
from dit_lab.config.yaml_files import read_yaml
from dit_lab.core import rng
from dit_lab.core.errors import RequestError
from dit_lab.data import pairs as pairs_module
from dit_lab.data.pair_facts import PairFacts, pair_noise, read_pair_facts
from dit_lab.data.pairs import Pairs

Command = Callable[..., "subprocess.CompletedProcess[str]"]
RunIn = Callable[..., Any]

PAIRS = 70  # two chunks and a bit of a third one; the last 7 are held out
SEED = 0  # the run's own
SHORT = ["tracking=none", "patch=4", "optimizer.lr=0.01", "training.total_steps=8",
         "training.sample_every_steps=0", "training.validate_every_steps=0"]  # fmt: skip
ASKED = [f"pairs.sample.num_images={PAIRS}", "training.total_steps=6"]


class Done(NamedTuple):
    """The run that pairs were drawn from, the run trained on them, and the output."""

    folder: Path
    teacher: Path
    student: Path
    out: str


@pytest.fixture(scope="module")
def teacher(
    tmp_path_factory: pytest.TempPathFactory, forked_in: Command, tiny: list[str], run_in: RunIn
) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    done = forked_in(folder, "train", *tiny, *SHORT)
    assert done.returncode == 0, done.stderr
    return run_in(folder).root


@pytest.fixture(scope="module")
def reflowed(teacher: Path, forked_in: Command, run_in: RunIn) -> Done:
    folder = teacher.parents[3]
    done = forked_in(folder, "reflow", f"run={teacher}", *ASKED)
    assert done.returncode == 0, done.stderr
    return Done(folder, teacher, run_in(folder, "tiny-reflow").root, done.stdout)


def pairs_of(student: Path) -> Path:
    """Return the folder of pairs that a run was trained on."""
    return Path(read_yaml(student / "config.yaml")["coupling"]["pairs"])


def test_pairs_are_drawn_and_trained_on(reflowed: Done) -> None:
    assert f"drawn: {PAIRS} of {PAIRS} pairs" in reflowed.out
    folder = pairs_of(reflowed.student)
    assert folder.parent == reflowed.teacher / "pairs"
    facts = read_pair_facts(folder)
    assert folder.name == facts.fingerprint
    assert list(files_of(folder)) == ["pairs-00000.safetensors", "pairs.json"]
    assert (facts.train_pairs, facts.held_out_pairs, facts.seed) == (63, 7, SEED)
    assert (facts.latent_shape, facts.num_classes, facts.dtype) == ([1, 8, 8], 10, "float32")
    assert facts.drawn_by == f"{reflowed.teacher.name} at step 8, ema-0.9"
    assert (facts.sampler["_target_"], facts.sampler["steps"]) == ("dit_lab.samplers.ode.Euler", 2)
    status = json.loads((reflowed.student / "status.json").read_text())
    assert (status["status"], status["step"]) == ("FINISHED", 6)
    assert 0 < status["results"]["eval/loss"] < 5
    identity = json.loads((reflowed.student / "identity.json").read_text())
    assert identity["pairs_fingerprint"] == facts.fingerprint
    assert reflowed.student.name != reflowed.teacher.name


def test_straightness_of_both_is_kept(reflowed: Done) -> None:
    found = json.loads((reflowed.student / "straightness.json").read_text())
    assert found.keys() == {"paths", "before", "after"}
    assert found["before"]["run"] == f"{reflowed.teacher.name} at step 8, ema-0.9"
    assert found["after"]["run"] == f"{reflowed.student.name} at step 6, ema-0.9"
    before, after = (found[when]["straightness"] for when in ("before", "after"))
    assert before > 0 and after > 0 and before != after
    assert reflowed.out.splitlines()[-1] == (
        f"straightness of 256 paths: {before:.4f} before, {after:.4f} after (0 is straight)"
    )


def test_the_same_command_says_what_is_there(reflowed: Done, forked_in: Command) -> None:
    def contents() -> dict[Path, bytes]:
        files = (path for root in (reflowed.teacher, reflowed.student) for path in root.rglob("*"))
        return {path: path.read_bytes() for path in files if path.is_file()}

    before = contents()
    done = forked_in(reflowed.folder, "reflow", f"run={reflowed.teacher}", *ASKED)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, *_ = done.stdout.splitlines()
    assert first == f"the {PAIRS} pairs are there already"
    assert second.startswith(f"already finished: {reflowed.student} ")
    assert done.stdout.splitlines()[-1] == reflowed.out.splitlines()[-1]
    assert contents() == before


def pairs_below(reflowed: Done) -> set[str]:
    return {path.name for path in (reflowed.teacher / "pairs").iterdir()}


def test_other_pairs_are_not_taken_for_these(reflowed: Done, forked_in: Command) -> None:
    """The run of this name was trained on other pairs, and is not changed."""
    before = (reflowed.student / "identity.json").read_bytes()
    other = ["pairs.sampler.steps=3"]
    done = forked_in(reflowed.folder, "reflow", f"run={reflowed.teacher}", *ASKED, *other)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "other pairs" in line
    assert (reflowed.student / "identity.json").read_bytes() == before


def test_what_is_refused_is_not_drawn(reflowed: Done, forked_in: Command) -> None:
    """The refusal comes before any pair is drawn."""
    before = pairs_below(reflowed)
    other = ["pairs.sampler.steps=4"]
    done = forked_in(reflowed.folder, "reflow", f"run={reflowed.teacher}", *ASKED, *other)
    assert (done.returncode, pairs_below(reflowed)) == (2, before)


def test_few_pairs_are_refused_or_some_of_them_held_out(reflowed: Done, forked_in: Command) -> None:
    few = ["pairs.sample.num_images=9", "training.total_steps=1", "name=few"]
    done = forked_in(reflowed.folder, "reflow", f"run={reflowed.teacher}", *few)
    assert done.returncode == 2 or "eval/loss nan" not in done.stdout


# ---- what was drawn -----------------------------------------------------------------------------


def carried(trained: Trained, noise: Tensor, first: int) -> Tensor:
    """Sample from a whole chunk of noise, from number `first`, with the run's own sampler."""
    generator = build_generator(trained.parts, check_stop=lambda: None)
    labels = generator.labels(torch.arange(first, first + len(noise)), None)
    predict = generator.predictor(trained.labelled(trained.parts.config), labels)
    return generator.sampler.sample(
        predict,
        noise,
        interpolant=generator.objective.interpolant,
        draw_noise=lambda step: torch.empty(0),
    )


def trained_on(student: Path) -> dict[int, tuple[Tensor, Tensor, int]]:
    """Return the pairs of the first epoch by number: (noise, data, label) as in the batches."""
    trained = load(student)
    dataset, codec = build_examples(trained.parts, "train")
    batches = build_batches(
        trained.parts,
        dataset=dataset,
        codec=codec,
        process_index=0,
        num_processes=1,
    )
    found: dict[int, tuple[Tensor, Tensor, int]] = {}
    for (batch,) in islice(batches.from_step(0), 4):  # 64 images of 63 pairs
        numbers = batches.order.indices(batch.sample_counter).tolist()
        fields = zip(batch.noise.clone(), batch.data.clone(), batch.labels.tolist(), strict=True)
        found |= dict(zip(numbers, fields, strict=True))
    return found


def test_batches_hold_what_the_teacher_made_of_the_noise(reflowed: Done) -> None:
    """Exactly, pair by pair: sampling from a batch's noise again gives its data.

    Tests numbers 0 to 31 and 32 to 62; the rest of the last chunk is held out or discarded.
    """
    found, teacher = trained_on(reflowed.student), load(reflowed.teacher)
    assert sorted(found) == list(range(63))
    purpose = pair_noise(teacher.name)
    for first, last in ((0, 32), (32, 63)):
        numbers = range(first, last)
        rest = rng.normal(SEED, purpose, torch.arange(last, first + 32), (1, 8, 8))
        noise = torch.cat([torch.stack([found[number][0] for number in numbers]), rest])
        data = torch.stack([found[number][1] for number in numbers])
        assert torch.equal(carried(teacher, noise, first)[: len(numbers)], data)
    assert [found[number][2] for number in range(63)] == [number % 10 for number in range(63)]
    images = torch.stack([found[number][1] for number in range(63)])
    assert images.flatten(1).unique(dim=0).shape[0] == 63  # they are not all alike


def test_held_out_pairs_are_the_last_ones(reflowed: Done) -> None:
    held_out = Pairs(pairs_of(reflowed.student), split="validation")
    indices = torch.arange(7)
    data, labels = held_out.fetch(indices, None)
    teacher = load(reflowed.teacher)
    noise = rng.normal(SEED, pair_noise(teacher.name), torch.arange(96), (1, 8, 8))
    assert torch.equal(held_out.noise(indices), noise[63:70])
    ends = torch.cat([carried(teacher, noise[first : first + 32], first) for first in (32, 64)])
    assert torch.equal(data, ends[63 - 32 : 70 - 32])
    assert labels.tolist() == [3, 4, 5, 6, 7, 8, 9]


def test_a_reflowed_run_is_a_run(reflowed: Done, forked_in: Command) -> None:
    """It draws images, and is measured against the data, which it has not seen itself."""
    student = f"run={reflowed.student}"
    done = forked_in(reflowed.folder, "sample", student, "out=student.png", "sampler.steps=1")
    assert done.returncode == 0, done.stderr
    measured = [student, "evaluation.num_images=30"]
    done = forked_in(reflowed.folder, "evaluate", *measured, few_trees=True)
    assert done.returncode == 0, done.stderr
    (evaluation,) = (reflowed.student / "evaluations").iterdir()
    card = json.loads(evaluation.read_text())["card"]
    assert card["reference"]["training_images"] == 1437


def rows(noise: Tensor) -> set[tuple[float, ...]]:
    """Each noise as what tells it from all others."""
    return {tuple(one) for one in noise.flatten(1).tolist()}


def test_noise_that_was_trained_on_is_met_nowhere(reflowed: Done) -> None:
    """By samples of any seed, including that of the pairs, or by pairs drawn from the new run."""
    trained = rows(torch.stack([noise for noise, _, _ in trained_on(reflowed.student).values()]))
    assert len(trained) == 63
    for seed in range(20):
        drawn = rng.normal(seed, rng.SAMPLE_NOISE, torch.arange(128), (1, 8, 8))
        assert not rows(drawn) & trained
    again = draw(copy_of(reflowed.student, reflowed.folder / "again"))
    assert read_pair_facts(again).seed == SEED
    for split in ("train", "validation"):
        pairs = Pairs(again, split=split)
        assert not rows(pairs.noise(torch.arange(len(pairs)))) & trained


def test_a_run_trained_on_old_pairs_refuses_their_seed(reflowed: Done, forked_in: Command) -> None:
    """In every command that samples from it, wherever a range of seeds starts."""
    student = Path(shutil.copytree(reflowed.student, reflowed.folder / "old"))
    pairs = Path(shutil.copytree(pairs_of(student), reflowed.folder / "old-pairs"))
    facts = read_pair_facts(pairs)
    old = {**asdict(facts), "seed": 3}
    del old["noise"]
    (pairs / "pairs.json").write_text(json.dumps(old))
    config = student / "config.yaml"
    config.write_text(config.read_text().replace(str(pairs_of(student)), str(pairs)))
    measured = ["evaluate", f"run={student}", "evaluation.num_images=30"]
    for command in (
        ["sample", f"run={student}", "out=old.png", "sample.seed=3"],
        [*measured, "sample.seed=3"],
        [*measured, "evaluation.num_seeds=4"],
        [*measured, "sample.seed=2", "evaluation.num_seeds=2"],
        [*measured, "-m", "sample.seed=2,3"],
        ["reflow", f"run={student}", *ASKED, "pairs.sample.seed=3"],
    ):
        done = forked_in(reflowed.folder, *command)
        assert done.returncode == 2, command
        assert "the pairs were drawn with seed 3" in done.stderr, command
    with pytest.raises(RequestError, match="the pairs were drawn with seed 3"):
        load(student).sample(seed=3)
    images, _ = load(student).sample(seed=2)
    assert len(images) == 10
    shutil.rmtree(pairs)  # then nothing says which seed it was
    assert len(load(student).sample(seed=3)[0]) == 10


# ---- interrupted --------------------------------------------------------------------------------


def copy_of(teacher: Path, folder: Path) -> Path:
    """Of the run without pairs that other tests drew."""
    return Path(shutil.copytree(teacher, folder, ignore=shutil.ignore_patterns("pairs")))


def asked_of(folder: Path) -> RunConfig:
    """What `dit-lab reflow run=folder pairs.sample.num_images=70 ...` composes for drawing."""
    found = prepare_for_run(
        SampleConfig,
        [f"run='{folder}'", f"sample.num_images={PAIRS}", f"sample.seed={SEED}",
         "sampler.steps=20"],
    )  # fmt: skip
    return found.config


def draw(folder: Path, **options: Callable[..., None]) -> Path:
    """All pairs of a run, in files of 32."""
    trained, settings = load(folder), asked_of(folder)
    facts: PairFacts = reflow.facts_of(trained, settings)
    told = {"check_stop": lambda: None, "on_message": lambda text: None}
    return reflow.draw_pairs(trained, facts, settings, **{**told, **options})


def _draw_slowly(folder: Path, tell: Connection) -> None:
    """Body of a process that says when a file is whole, and takes a second for each."""
    draw(folder, check_stop=lambda: time.sleep(0.05), on_message=tell.send)


def files_of(folder: Path) -> Mapping[str, bytes]:
    """By name, without the lease that a writer leaves behind."""
    files = sorted(path for path in folder.iterdir() if path.name != "lease")
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.slow
def test_killed_while_drawing_and_rerun_has_the_same_pairs(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first of three files: complete files are kept, the rest is drawn.

    Every byte equals that of an uninterrupted drawing.
    """
    for module in (reflow, pairs_module):
        monkeypatch.setattr(module, "SHARD_PAIRS", 32)
    killed, straight = (copy_of(teacher, tmp_path / name) for name in ("one", "two"))
    context = multiprocessing.get_context("fork")  # which keeps the small files
    listen, tell = context.Pipe(duplex=False)
    process = context.Process(target=_draw_slowly, args=(killed, tell))
    process.start()
    tell.close()
    assert listen.recv() == f"drawn: 32 of {PAIRS} pairs"
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (folder,) = (killed / "pairs").iterdir()
    left = files_of(folder)
    assert left.keys() == {"pairs-00000.safetensors"}  # and it does not say that it is whole
    half_written = folder / "pairs-00001.writing"
    half_written.write_bytes(b"half")
    changed = (folder / "pairs-00000.safetensors").stat().st_mtime_ns
    said: list[str] = []
    assert draw(killed, on_message=said.append) == folder
    assert said == [f"drawn: {count} of {PAIRS} pairs" for count in (32, 64, 70)]
    assert (folder / "pairs-00000.safetensors").stat().st_mtime_ns == changed
    expected = draw(straight)
    assert expected.name == folder.name
    assert files_of(folder) == files_of(expected)
    assert files_of(folder).keys() == {*(f"pairs-0000{n}.safetensors" for n in range(3)),
                                       "pairs.json"}  # fmt: skip
    together = [Pairs(folder, split=split) for split in ("train", "validation")]
    assert [len(part) for part in together] == [63, 7]
    data = torch.cat([part.fetch(torch.arange(len(part)), None)[0] for part in together])
    assert data.flatten(1).unique(dim=0).shape[0] == PAIRS


def test_pairs_do_not_depend_on_the_files_that_they_lie_in(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, many = (copy_of(teacher, tmp_path / name) for name in ("one", "many"))
    whole = Pairs(draw(one), split="train")
    for module in (reflow, pairs_module):
        monkeypatch.setattr(module, "SHARD_PAIRS", 32)
    cut = Pairs(draw(many), split="train")
    every = torch.arange(63)
    for found, expected in zip(cut.fetch(every, None), whole.fetch(every, None), strict=True):
        assert torch.equal(found, expected)
