"""Statistics of timings, and completeness of the parts of a step."""

from __future__ import annotations

import json
import random
import time
from dataclasses import astuple, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dit_lab.bench.device import Products, Ticks, stated_of
from dit_lab.bench.figures import Ratio, Timing, Turns, in_turn
from dit_lab.bench.loading import Loading
from dit_lab.bench.noise import with_data
from dit_lab.bench.parts import Stopwatch
from dit_lab.bench.record import Bench, checked, read_record
from dit_lab.bench.sampling import Drawing, Sampling
from dit_lab.bench.training import Step, training_of
from dit_lab.cli.bench import _rows
from dit_lab.config.compose import compose_train

CPU = torch.device("cpu")
QUICKSTART = ["experiment=quickstart", "model.depth=1", "training.global_batch_size=16"]


# ---- figures -------------------------------------------------------------------------------------


def test_a_spread_is_of_the_middle_four_fifths() -> None:
    assert Timing.of([100.0, *range(1, 20)]) == Timing(10.5, 3, 18, 20)
    assert Timing.of([2.0]) == Timing(2.0, 2.0, 2.0, 1)


def test_a_ratio_is_of_pairs_whatever_the_machine_does_meanwhile() -> None:
    """A machine that slows down gradually slows both."""
    firsts = [1.0 * 1.3**block for block in range(12)]
    found = Ratio.of(firsts, [0.8 * first for first in firsts])
    assert found.median == pytest.approx(0.8)
    assert found.interval == pytest.approx((0.8, 0.8))


@pytest.mark.parametrize(("blocks", "left_out"), [(6, 0), (8, 0), (9, 1), (12, 2), (20, 5)])
def test_the_interval_of_a_median(blocks: int, left_out: int) -> None:
    """As in tables of the sign test: with 6 to 8 values none is left out, with 12 two."""
    values = [float(number) for number in range(1, blocks + 1)]
    assert Ratio.of([1.0] * blocks, values).interval == (left_out + 1, blocks - left_out)


def test_few_blocks_have_no_interval() -> None:
    assert Ratio.of([1.0] * 5, [1.0] * 5).interval is None


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    """For skewed times: 2,000 intervals of 12, each wrong with a probability of 3.9%."""
    draw = random.Random(0)
    ends = [Ratio.of([1.0] * 12, [draw.expovariate(1) for _ in range(12)]) for _ in range(2000)]
    median = 0.6931  # of the exponential distribution
    missed = sum(not low <= median <= high for low, high in (one.interval for one in ends if one))
    assert 0.025 < missed / 2000 < 0.053  # 3 deviations of a share of 3.9%


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
    ],
)
def test_a_data_sheet_is_that_of_the_device(name: str, rate: float | None) -> None:
    assert stated_of(name) == rate


def test_costs_are_multiples_of_what_was_measured_beside_them() -> None:
    four, three = Turns(4.0, 4.0, 4.0), Turns(3.0, 3.0, 3.0)
    costs = {"training": four, "sampling": four, "loading": four, "first step": three}
    assert bench(startup=6.0).costs() == bench(startup=3.0, torch_import=1.0).costs() == costs


@pytest.mark.parametrize(
    ("now", "startup", "slower"),
    [
        (Turns(5.2, 4.6, 6.0), 6.0, {"training", "sampling", "loading"}),
        (Turns(5.2, 4.4, 6.0), 6.0, set()),  # may be noise: one turn took what one had taken
        (Turns(4.9, 4.6, 6.0), 6.0, set()),  # little
        (Turns(3.0, 2.0, 4.0), 7.6, {"first step"}),
    ],
)
def test_slower_is_much_and_at_every_turn(
    tmp_path: Path, now: Turns, startup: float, slower: set[str]
) -> None:
    file = tmp_path / "record.json"
    file.write_text(json.dumps(bench(cost=Turns(4.0, 3.5, 4.5)).to_json()))
    found = checked(read_record(file), bench(cost=now, startup=startup))
    assert {cost.name for cost in found if cost.is_slower} == slower


def test_two_in_turn() -> None:
    """The order alternates."""
    asked: list[str] = []

    def says(name: str, seconds: float) -> float:
        asked.append(name)
        return seconds

    found = in_turn(lambda: says("a", 2.0), lambda: says("b", 3.0))
    assert "".join(asked) == "abba" * 6
    assert (found.first.median, found.second.median, found.ratio.median) == (2.0, 3.0, 1.5)


def test_turns_are_by_what_was_measured_beside_them() -> None:
    """A machine that slows down gradually slows both."""
    speeds = [1.3**turn for turn in range(6)]
    steady = Turns.of(speeds, [2 * seconds for seconds in speeds])
    assert astuple(steady) == pytest.approx((2, 2, 2))
    assert Turns.of([1, 1, 2], [1, 5, 6]) == Turns(3, 1, 5)


def bench(
    *,
    cost: Turns = Turns(4.0, 4.0, 4.0),  # noqa: B008 - does not change
    startup: float = 6.0,
    torch_import: float = 2.0,
    seconds: float = 0.5,
    rate: float = 2e9,
) -> Bench:
    times = Timing(seconds, seconds, seconds, 1)
    return Bench(
        overrides=[],
        assumed=[],
        circumstances={},
        product_rate=rate,
        stated_rate=None,
        training=Step(times, 8, flops=5e8, of_products=cost, peak_memory_bytes=1, parts={}),
        sampling=Drawing(times, seconds, 32, 25, 25, 2.0, flops=4e8, of_products=cost),
        loading=Loading(times, images=8, workers=0, of_normals=cost),
        startup={"first training step": [startup], "torch's own import": [torch_import]},
    )


def test_rates_are_shares_of_what_was_measured_and_of_the_data_sheet() -> None:
    """5e8 FLOP in half a second are half of 2e9 FLOP/s, and a quarter of 4e9."""
    found = bench(seconds=0.5, rate=2e9, startup=5.0)
    circumstances = {"device": "GPU", "kind": "cuda", "versions": {"torch": "2.14"}}
    known = replace(found, stated_rate=4e9, circumstances=circumstances)
    (step, *_), (with_sheet, *_) = (list(_rows(one)) for one in (found, known))
    assert step[-2:] == ("1 G", "50.0%")
    assert with_sheet[-3:] == ("1 G", "50.0%", "25.0%")


# ---- what is measured ----------------------------------------------------------------------------


def test_ticks_are_between_moments() -> None:
    ticks = Ticks(CPU)
    for seconds in (0.02, 0.05):
        ticks.take()
        time.sleep(seconds)
    ticks.take()
    first, second = ticks.seconds()
    assert 0.02 <= first < 0.04 < 0.05 <= second


def test_the_rate_of_products_is_that_of_one() -> None:
    """Within a factor of two of one product, timed by hand."""
    matrix = torch.ones(1024, 1024)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    by_hand = 2 * 1024**3 / min(times)
    products = Products(CPU, bf16=False)
    assert by_hand / 2 < products.rate < 2 * by_hand
    assert by_hand / 2 < 1e9 / products.seconds(1e9) < 2 * by_hand


def test_a_section_is_less_what_is_inside_it() -> None:
    watch = Stopwatch(lambda: None)
    with watch.section("outer"):
        time.sleep(0.02)
        with watch.section("inner"):
            time.sleep(0.05)
        time.sleep(0.01)
    assert 0.03 <= watch.seconds["outer"] < 0.045
    assert 0.05 <= watch.seconds["inner"] < 0.065


@pytest.mark.parametrize("objective", ["rectified_flow", "shortcut"])
def test_the_parts_of_a_step_are_all_of_it(objective: str) -> None:
    """The parts sum to the time of the steps, and all of them are present."""
    config = compose_train([*QUICKSTART, f"objective={objective}"])
    with training_of(*with_data(config)[:2]) as training:
        start = time.perf_counter()
        parts = training.parts_of_a_step(20)
        whole = (time.perf_counter() - start) / 20
        assert set(parts) == {
            "embedding", "attention", "MLP", "modulation", "norms, gates, sums", "output layer",
            "the rest of the model", "loss", "backward", "optimizer", "EMA", "data", "logging",
            "the rest of the loop",
        }  # fmt: skip
        assert 0.95 * whole < sum(parts.values()) <= whole
        assert all(seconds > 0 for seconds in parts.values())


def test_what_was_watched_is_as_it_was() -> None:
    """No hook and no wrapper remains, and training continues from the same weights."""
    with training_of(*with_data(compose_train(QUICKSTART))[:2]) as training:
        before = {name: weight.clone() for name, weight in training.weights().items()}
        training.parts_of_a_step(3)
        assert any((before[name] != weight).any() for name, weight in training.weights().items())
        objects = training._objects
        for module in objects["model"].module.modules():
            assert not module._forward_hooks and not module._forward_pre_hooks
        for name, method in (("accelerator", "backward"), ("optimizer", "step")):
            assert method not in vars(objects[name])


def test_blocks_that_are_compiled_are_one_part() -> None:
    from dit_lab.bench.parts import _sections

    config, shapes, _ = with_data(compose_train(QUICKSTART))
    with training_of(config, shapes) as training:
        model: nn.Module = training._objects["model"].module
        names = [name for _, name in _sections(model, inside_blocks=False)]
        assert names.count("blocks") == 1 and "attention" not in names


def test_noise_is_trained_on_where_there_are_no_images() -> None:
    sizes = ["dataset.num_classes=10", "dataset.image_size=64", "model=pico", "patch=8"]
    sizes += ["precision=fp32", "training.global_batch_size=16"]
    config, shapes, assumed = with_data(compose_train(sizes))
    assert shapes.latent == (4, 8, 8)
    assert assumed[-1] == "random latents replace the data"
    with training_of(config, shapes) as training:
        data, labels = training.prepared()[0]
        assert data.shape == (16, 4, 8, 8) and set(labels.tolist()) <= set(range(10))
        assert training.steps(2)


def test_steps_at_which_the_model_rests_count_as_steps() -> None:
    """The model is evaluated at two steps, then at every fourth of the other eighteen.

    Each time it sees images with and without their label.
    """
    overrides = [*QUICKSTART, "sampler=ddim", "sampler.steps=20", "sampler.cache_interval=4"]
    config, shapes, _ = with_data(compose_train([*overrides, "guidance.scale=2"]))
    found = Sampling(config, shapes).measure(60, Products(CPU, bf16=False))
    assert found.measured_steps == 20
    assert found.evaluations == 2 * (2 + 18 // 4) / 20
    assert found.images_per_second == pytest.approx(found.images / (20 * found.mean_seconds))
    assert found.seconds.low < found.mean_seconds < found.seconds.high
