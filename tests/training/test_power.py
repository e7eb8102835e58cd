"""Power-function averages: closed forms, the paper's numbers, and post-hoc reconstruction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from dit_lab.actions.ema import make_average
from dit_lab.core.errors import RequestError
from dit_lab.runs.folder import RunFolder, write_json
from dit_lab.training import checkpoint_store
from dit_lab.training.checkpoint import Checkpoint
from dit_lab.training.checkpoint_store import CheckpointNotWritten, CheckpointStore
from dit_lab.training.ema import PowerAverage
from dit_lab.training.post_hoc import average_file, open_averages, read_average
from dit_lab.training.power import WIDEST, Fit, Profile, fit, gamma_of, inner_products
from dit_lab.training.snapshots import Snapshots
from tests.records import IDENTITY

APPLIED, SKIPPED = torch.ones(()), torch.zeros(())
STEPS, EVERY = 800, 20
KEPT = (0.05, 0.1)

# ---- widths -------------------------------------------------------------------------------------


def test_the_exponents_of_the_paper() -> None:
    """Section 3.1: the widths of 5% and 10% have gamma near 16.97 and 6.94."""
    assert round(gamma_of(0.05), 2) == 16.97
    assert round(gamma_of(0.10), 2) == 6.94


def std_of(gamma: float) -> float:
    """The width of an exponent (appendix C.1)."""
    return float(np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))))


@pytest.mark.parametrize("std", [1e-4, 0.01, 0.05, 0.1, 0.2, 0.28, 0.2886])
def test_widths_and_exponents_belong_together(std: float) -> None:
    assert std_of(gamma_of(std)) == pytest.approx(std, rel=1e-9)


def test_the_width_is_a_standard_deviation() -> None:
    """Of tau / t under the profile, by a sum over a fine grid."""
    tau = (np.arange(100_000) + 0.5) / 100_000
    for std in (0.03, 0.1, 0.25):
        weight = tau ** gamma_of(std)
        weight /= weight.sum()
        mean = weight @ tau
        assert np.sqrt(weight @ (tau - mean) ** 2) == pytest.approx(std, rel=1e-6)
    assert std_of(0.0) == pytest.approx(WIDEST, rel=1e-15)


# ---- the average --------------------------------------------------------------------------------


def walk(steps: int, size: int = 200, *, start: float = 1.0) -> list[Tensor]:
    """Weights that wander away from where they began, by about a fifth of their size in the end."""
    draw = torch.Generator().manual_seed(0)
    first = start * torch.randn(size, generator=draw, dtype=torch.float64)
    moves = torch.randn(steps, size, generator=draw, dtype=torch.float64)
    return list(first + 0.2 * moves.cumsum(0) / steps**0.5)


def follow(average: PowerAverage, seen: Sequence[Tensor]) -> Tensor:
    for weights in seen:
        average.update({"w": weights}, APPLIED)
    return average.shadow["w"]


def weighted(seen: Sequence[Tensor], gamma: float) -> Tensor:
    """The product of (1 - 1/s) ** (gamma + 1) over s = i+1..t is (i / t) ** (gamma + 1), so that
    update i counts as the integral of the profile from i - 1 to i."""
    ends = torch.arange(len(seen) + 1, dtype=torch.float64) / len(seen)
    return torch.einsum("i,ij->j", (ends ** (gamma + 1)).diff(), torch.stack(list(seen)))


@pytest.mark.parametrize("std", [0.05, 0.1, 0.25])
@pytest.mark.parametrize("count", [1, 2, 5, 60])
def test_weights_count_as_a_power_of_their_update(std: float, count: int) -> None:
    seen = walk(count)
    average = PowerAverage({"w": torch.full((200,), 100.0)}, std=std)
    # float32; the first update takes 1 off 100, with an error of 4e-6 that fades
    torch.testing.assert_close(
        follow(average, seen).double(), weighted(seen, gamma_of(std)), rtol=0, atol=1e-5
    )


def test_a_skipped_update_changes_nothing() -> None:
    seen = walk(6)
    average = PowerAverage({"w": seen[0]}, std=0.1)
    before = follow(average, seen[:3]).clone()
    average.update({"w": seen[3] * 100}, SKIPPED)
    assert torch.equal(average.shadow["w"], before)
    assert average.num_updates.item() == 3
    plain = PowerAverage({"w": seen[0]}, std=0.1)
    assert torch.equal(follow(average, seen[3:]), follow(plain, seen))


def test_a_skipped_first_step_leaves_the_start() -> None:
    average = PowerAverage({"w": torch.ones(3)}, std=0.1)
    average.update({"w": torch.zeros(3)}, SKIPPED)
    assert average.shadow["w"].tolist() == [1, 1, 1]


def test_it_goes_on_from_a_checkpoint_in_the_same_bits(tmp_path: Path) -> None:
    seen = walk(20)
    straight = PowerAverage({"w": seen[0]}, std=0.05)
    follow(straight, seen[:12])
    saved = CheckpointStore(tmp_path, run="this", warn=pytest.fail).save(
        12, tensors={straight.name: straight.shadow}, state=straight.scalars()
    )
    resumed = PowerAverage({"w": seen[5]}, std=0.05)
    resumed.load(saved.tensors("power-0.05"), saved.state())
    assert torch.equal(follow(resumed, seen[12:]), follow(straight, seen[12:]))
    assert json.loads(json.dumps(straight.scalars())) == {"std": 0.05, "num_updates": 20.0}


# ---- profiles -----------------------------------------------------------------------------------


def density(profile: Profile, tau: np.ndarray) -> np.ndarray:
    g = profile.gamma
    inside = tau <= profile.updates
    return np.where(inside, (g + 1) * (tau / profile.updates) ** g / profile.updates, 0.0)


def test_inner_products_are_integrals() -> None:
    profiles = [Profile(t, gamma_of(std)) for t in (30, 70, 100) for std in (0.05, 0.1, 0.2)]
    tau = (np.arange(400_000) + 0.5) * 100 / 400_000  # ends of the profiles lie between points
    values = np.stack([density(profile, tau) for profile in profiles])
    expected = values @ values.T * 100 / 400_000
    np.testing.assert_allclose(inner_products(profiles, profiles), expected, rtol=1e-6)


def test_what_was_kept_is_itself() -> None:
    kept = [Profile(t, gamma_of(std)) for t in (100, 200, 300) for std in KEPT]
    found = fit(Profile(300, gamma_of(0.1)), kept)
    np.testing.assert_allclose(found.coefficients, [0, 0, 0, 0, 0, 1], atol=1e-12)
    assert found.relative_error < 1e-6  # the root of a difference of 1e-16 and less


@pytest.mark.parametrize("std", [0.02, 0.07, 0.15, 0.25])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_coefficients_add_up_to_one(std: float, count: int) -> None:
    found = of_width(std, count)
    assert sum(found.coefficients) == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize("std", [0.02, 0.07, 0.15, 0.25])
def test_more_snapshots_fit_better(std: float) -> None:
    errors = [of_width(std, count).relative_error for count in (2, 8, 32, 128)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]


def of_width(std: float, count: int) -> Fit:
    kept = [Profile(10 * n, gamma_of(one)) for n in range(1, count + 1) for one in KEPT]
    return fit(Profile(10 * count, gamma_of(std)), kept)


def test_the_error_is_that_of_the_sum() -> None:
    kept = [Profile(25 * n, gamma_of(one)) for n in range(1, 5) for one in KEPT]
    wanted = Profile(100, gamma_of(0.2))
    found = fit(wanted, kept)
    tau = (np.arange(400_000) + 0.5) * 100 / 400_000
    whole = density(wanted, tau)
    pairs = zip(found.coefficients, kept, strict=True)
    apart = sum(share * density(one, tau) for share, one in pairs) - whole
    error = np.linalg.norm(apart) / np.linalg.norm(whole)
    assert found.relative_error == pytest.approx(error, rel=1e-4)
    assert found.relative_error > 0.1  # or there would be nothing to compare


# ---- other widths -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen() -> list[Tensor]:
    return walk(STEPS)


@pytest.fixture(scope="module")
def kept(seen: list[Tensor], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The snapshots of a training whose weights walk at random; a tenth of its steps is skipped."""
    folder = recorded_run(tmp_path_factory.mktemp("run"))
    averages = [PowerAverage({"w": seen[0]}, std=std) for std in KEPT]
    store = CheckpointStore(folder.averages, run="0123456789ab", warn=pytest.fail)
    snapshots = Snapshots(store, averages=averages, every_steps=EVERY)
    for step, weights in enumerate(seen, start=1):
        for average in averages:
            average.update({"w": weights}, SKIPPED if step % 10 == 3 else APPLIED)
        if step % EVERY == 0:
            snapshots.save(step)
    snapshots.wait()
    return folder


def recorded_run(root: Path) -> RunFolder:
    folder = RunFolder(root)
    write_json(folder.identity, IDENTITY)
    return folder


@pytest.mark.parametrize(
    ("std", "step"), [(0.05, 800), (0.07, 800), (0.15, 800), (0.15, 400), (0.2, 800)]
)
def test_another_width_is_what_would_have_been_kept(
    kept: RunFolder, seen: list[Tensor], std: float, step: int
) -> None:
    """Float16 rounds by 2e-4 of a weight, in the mean (2 ** -11 / sqrt(12) to 2 ** -10 / sqrt(12)),
    and the fit adds a few 1e-5: 1.2e-4 to 2.1e-4 were measured. The average of width 0.1 is 1e-2 to
    4e-2 away from the others."""
    made = make_average(kept, std, step=step)
    applied = [weights for n, weights in enumerate(seen[:step], start=1) if n % 10 != 3]
    expected = follow(PowerAverage({"w": seen[0]}, std=std), applied)
    assert (made.step, made.snapshots) == (step, step // EVERY)
    found, at = average_file(kept, f"power:{std}", step=step)
    assert (found, at) == (made.file, step)
    tensors = read_average(kept, found)
    assert tensors.keys() == {"w"} and tensors["w"].dtype == torch.float32
    assert ((tensors["w"] - expected).norm() / expected.norm()).item() < 3e-4


def test_the_newest_is_taken_where_nothing_else_is_said(kept: RunFolder) -> None:
    for step in (200, 100):
        make_average(kept, 0.12, step=step)
    assert average_file(kept, "power:0.12")[1] == 200
    assert make_average(kept, 0.12).step == STEPS


def test_snapshots_are_small(kept: RunFolder) -> None:
    tensors = Checkpoint(kept.averages / "step-00000020").tensors("power-0.1")
    assert tensors["w"].dtype == torch.float16


def test_a_snapshot_that_the_disk_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training stops, and does not promise to go on from a snapshot."""
    full = SimpleNamespace(total=10, free=0)
    monkeypatch.setattr(checkpoint_store.shutil, "disk_usage", lambda folder: full)
    store = open_averages(recorded_run(tmp_path), warn=pytest.fail)
    average = PowerAverage({"w": torch.ones(3)}, std=0.1)
    snapshots = Snapshots(store, averages=[average], every_steps=1)
    snapshots.save(1)
    with pytest.raises(CheckpointNotWritten, match="which continues from its newest checkpoint"):
        snapshots.wait()


def test_a_training_that_has_done_no_step(tmp_path: Path) -> None:
    folder = recorded_run(tmp_path)
    averages = [PowerAverage({"w": torch.ones(3)}, std=std) for std in KEPT]
    store = CheckpointStore(folder.averages, run="0123456789ab", warn=pytest.fail)
    snapshots = Snapshots(store, averages=averages, every_steps=1)
    snapshots.save(1)
    snapshots.wait()
    with pytest.raises(RequestError, match="no optimizer step had been applied by then"):
        make_average(folder, 0.1)
