"""Devices without float64, such as Apple GPUs, which are not available here.

The stand-in is torch's `meta` device, which only computes shapes. During a test, it refuses float64
tensors with the error message of Apple GPUs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dit_lab.core.devices import widest_float
from dit_lab.core.interpolants import Linear
from dit_lab.core.types import Batch
from dit_lab.evaluation.metrics.straightness import path_deviation
from dit_lab.evaluation.validation import ValidationLoss
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.samplers.guidance import Guidance, predictor
from dit_lab.samplers.ode import RK4, Euler, Heun, Midpoint
from dit_lab.samplers.sde import EulerMaruyama
from dit_lab.training.ema import EMA, PowerAverage
from dit_lab.training.state import Window

PACKAGE = Path(__file__).resolve().parents[2] / "dit_lab"
META = torch.device("meta")


class WithoutFloat64(TorchDispatchMode):
    """Refuses float64 on `meta`. Copies from there to the host become zeros."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        to = torch.device(kwargs.get("device") or META)
        if func is torch.ops.aten._to_copy.default and args[0].device == META and to != META:
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        found = func(*args, **kwargs)
        for one in found if isinstance(found, tuple | list) else [found]:
            if isinstance(one, Tensor) and (one.device, one.dtype) == (META, torch.float64):
                raise TypeError(
                    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't "
                    "support float64. Please use float32 instead."
                )
        return found


@pytest.fixture
def without_float64() -> Iterator[None]:
    widest_float.cache_clear()
    with WithoutFloat64():
        yield
    widest_float.cache_clear()


def test_the_stand_in_refuses(without_float64: None) -> None:
    for make in (
        lambda: torch.zeros((), dtype=torch.float64, device=META),
        lambda: torch.zeros(3, device=META).double(),
        lambda: torch.zeros(3, dtype=torch.float64).to(META),
    ):
        with pytest.raises(TypeError, match="float64"):
            make()
    assert torch.zeros(3, device=META).cpu().double().tolist() == [0, 0, 0]
    assert torch.ones(3, dtype=torch.float64).sum() == 3


def test_the_widest_type_is_asked_of_the_device(without_float64: None) -> None:
    assert widest_float(torch.device("cpu")) == torch.float64
    assert widest_float(META) == torch.float32


def test_where_there_is_float64_nothing_changes() -> None:
    widest_float.cache_clear()
    assert widest_float(META) == torch.float64
    assert Window(torch.device("cpu"))._steps.dtype == torch.float64
    assert EMA({"a": torch.ones(2)}, decay=0.9, warmup=True).num_updates.dtype == torch.float64
    widest_float.cache_clear()


def test_means_and_averages(without_float64: None) -> None:
    window, applied = Window(META), torch.ones((), device=META)
    window.add({"loss": torch.ones((), device=META)}, applied=applied)
    weights = {"a": torch.ones(3, device=META)}
    for average in (
        EMA(weights, decay=0.9, warmup=True),
        EMA(weights, decay=0.9, warmup=False),
        PowerAverage(weights, std=0.1),
    ):
        average.update(weights, applied)
        assert average.num_updates.dtype == torch.float32
        assert average.shadow["a"].dtype == torch.float32


def halved(x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
    """A model of velocities."""
    return x / 2


@pytest.mark.parametrize(
    "sampler",
    [Euler(steps=2), Midpoint(steps=2), Heun(steps=2), RK4(steps=2), EulerMaruyama(steps=2)],
    ids=lambda sampler: type(sampler).__name__,
)
def test_drawing(sampler: Any, without_float64: None) -> None:
    """Times are float64 on the host, and do not promote tensors on the device."""
    predict = predictor(
        halved,
        RectifiedFlow(),
        torch.zeros(2, dtype=torch.long, device=META),
        null_label=10,
        guidance=Guidance(scale=2.0),
    )
    noise = torch.zeros(2, 1, 8, 8, device=META)
    drawn = sampler.sample(
        predict, noise, interpolant=Linear(), draw_noise=lambda step: torch.zeros_like(noise)
    )
    assert (drawn.device, drawn.dtype) == (META, torch.float32)
    deviation, length = path_deviation(predict, noise, Linear(), steps=2)
    assert deviation.dtype == length.dtype == torch.float32


def test_the_loss_on_held_out_images(without_float64: None) -> None:
    batch = Batch(
        sample_counter=torch.arange(2),
        data=torch.zeros(2, 1, 8, 8, device=META),
        labels=torch.zeros(2, dtype=torch.long, device=META),
        noise=torch.zeros(2, 1, 8, 8, device=META),
        time=torch.zeros(2, device=META),
        drop_label=torch.zeros(2, dtype=torch.bool, device=META),
    )
    loss = ValidationLoss(
        every_steps=1,
        batches=[lambda: batch],
        objective=RectifiedFlow(),
        check_stop=lambda: None,
    )
    assert loss.run(halved, 0).metrics["eval/loss"] == 0.0


ON_THE_HOST = {
    "evaluation/features/fidelity.py": "features, which are numpy's",
    "interop/official.py": "weights of a file",
    "training/coupling.py": "a batch that loader workers make",
}
"""Where tensors become float64 without a look at their device, and why they lie on the host."""


def test_no_other_place_makes_float64_on_a_device() -> None:
    """Finds `x.double()` without a copy to the host, and `float64` with a device."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            text, name = ast.unparse(node), node.func.attr
            doubled = name == "double" and not ast.unparse(node.func).endswith(".cpu().double")
            moved = name in ("to", "zeros", "ones", "tensor", "full") and "device" in text
            if doubled or (moved and "float64" in text):
                found.add(file.relative_to(PACKAGE).as_posix())
    assert found - {"core/devices.py"} == set(ON_THE_HOST)
