"""Probes detect small mistakes in training, evaluation and sampling.

Each mistake is made in the running package: one line of a function is replaced and its code object
exchanged, so that it takes effect everywhere. The slow tests of tests/integration/test_reproduce.py
do the same with the command.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from dit_lab.build.evaluation import load_reference
from dit_lab.build.parts import (
    _guidance,
    build_examples,
    validation_batches,
)
from dit_lab.build.trained import file_of
from dit_lab.config.checks.training import check_data
from dit_lab.config.compose import compose_train
from dit_lab.core.discrete_diffusion import DiscreteDiffusion
from dit_lab.evaluation.metrics.kernel import _squared_mmd
from dit_lab.evaluation.quality import ReferenceSet
from dit_lab.evaluation.validation import ValidationLoss, _with_labels
from dit_lab.objectives.ddpm import DDPM
from dit_lab.reproduce.expected import Value, judge_probes, recorded_probes
from dit_lab.reproduce.probes import probe
from dit_lab.samplers.ancestral import DDIMSampler, DDPMSampler
from dit_lab.samplers.guiding import away
from dit_lab.samplers.ode import Heun
from dit_lab.samplers.respacing import stride
from dit_lab.samplers.sde import EulerMaruyama
from dit_lab.sampling.generate import Generator
from dit_lab.training.ema import EMA, Running
from dit_lab.training.evaluations import Evaluations
from dit_lab.training.loop import train

TINY = [
    "dataset=digits", "codec=identity", "model=pico", "model.depth=1", "model.hidden_size=32",
    "model.num_heads=2", "patch=4", "precision=fp32", "ema.decays=[0.999,0.5]", "ema.warmup=true",
    "optimizer.lr=0.003", "training.total_steps=1000", "training.global_batch_size=16",
    "dataset.num_workers=0", "schedule.warmup_steps=5", "sampler.steps=2", "tracking=none",
]  # fmt: skip
FLOW = (*TINY, "objective=rectified_flow", "sampler=heun")
CHAIN = (*TINY, "objective=ddpm", "sampler=ddim")

Probes = dict[str, Value]


def probes_of(overrides: tuple[str, ...]) -> Probes:
    config = compose_train(list(overrides))
    return probe(config, check_data(config))


@pytest.fixture(scope="module")
def flow() -> Probes:
    return probes_of(FLOW)


@pytest.fixture(scope="module")
def chain() -> Probes:
    return probes_of(CHAIN)


def plant(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], before: str, after: str
) -> None:
    """Run a function as if its source had `after` in the place of `before`, which it has once."""
    function = inspect.unwrap(function)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(before) == 1, f"{function.__qualname__} has changed"
    found: dict[str, Any] = {}
    names = {**function.__globals__, **dict.fromkeys(("staticmethod", "property"), lambda f: f)}
    exec(source.replace(before, after), names, found)
    (made,) = found.values()
    monkeypatch.setattr(function, "__code__", inspect.unwrap(made).__code__)


def noticed(before: Probes, overrides: tuple[str, ...]) -> set[str]:
    """The probes that are no longer what they were, by the tolerances of a recording."""
    verdicts = judge_probes(recorded_probes(before), probes_of(overrides), kind="cpu")
    return {verdict.name for verdict in verdicts if not verdict.good}


AVERAGED = {"validation", "table"}

PLANTED: dict[str, tuple[Callable[..., Any], str, str, set[str]]] = {
    "another decay of the average": (
        EMA._current_decay, "self.decay)", "self.decay**1.01)", {"horizon"},
    ),
    "the counter of an average is lost": (
        Running.load, 'scalars["num_updates"]', "0", {"horizon"},
    ),
    "another warm-up of the average": (
        EMA._current_decay, "(10 + self.num_updates)", "(11 + self.num_updates)", {"lag"},
    ),
    "validation and samples by raw weights": (
        Evaluations.run, "self.average.shadow", "dict(self.model.module.named_parameters())",
        AVERAGED,
    ),
    "validation and samples by the last average": (
        train, "average=emas[0],\n", "average=emas[-1],\n", AVERAGED,
    ),
    "samples of a run by raw weights": (
        file_of, 'if weights == "raw"', 'if weights in ("raw", "ema")', {"sampled"},
    ),
    "held-out images taken from training": (
        build_examples, "build_dataset(parts.config, split", 'build_dataset(parts.config, "train"',
        {"validation", "fixed"},
    ),
    "fewer held-out images": (
        validation_batches, "min(parts", "min(64, parts", {"validation", "fixed"},
    ),
    "held-out images of a table taken from training": (
        load_reference, '"validation")', '"train")', {"table"},
    ),
    "validation without labels": (
        _with_labels, "batch.labels,", "torch.zeros_like(batch.labels),", {"fixed"},
    ),
    "validation that drops a tenth of the labels": (
        _with_labels, "batch.labels,", "batch.labels.where(batch.time > 0.1, 10),", {"fixed"},
    ),
    "a mean over batches, not images": (
        ValidationLoss.run, "len(batch.labels)", "1", {"validation", "fixed"},
    ),
    "validation noise of another seed": (
        validation_batches, '"validation")', '"train")', {"validation", "fixed"},
    ),
    "a guidance scale too large": (away, "scale * (output", "(scale + 1) * (output", {"guided"}),
    "guidance towards no label": (
        away, "other + scale * (output - other)", "output + scale * (other - output)", {"guided"},
    ),
    "guidance although none is asked for": (
        _guidance, "scale=options.scale", "scale=options.scale + 1", {"images", "evaluations"},
    ),
    "noise reused in every step": (
        Generator.latents, "{purpose}-{step}", "{purpose}-0", {"stochastic"},
    ),
    "noise of the start in every step": (
        Generator.latents, 'draw(f"{purpose}-{step}")', "draw(purpose)", {"stochastic"},
    ),
    "noise of half the size": (
        EulerMaruyama.sample, "math.sqrt(2 * rate * h)", "math.sqrt(rate * h)", {"stochastic"},
    ),
    "a last step that is none": (
        EulerMaruyama.sample, 'if self.last_step == "none"', "if True", {"stochastic"},
    ),
    "Euler's method in the place of Heun's": (
        Heun.advance, "(first + second)", "(first + first)", {"guided", "images"},
    ),
    "another grid of DDIM": (
        DDIMSampler._times, "interpolant.t_max)[:-1]", "interpolant.t_max - 0.01)[:-1]", {"ddim"},
    ),
    "a kernel distance with its bias": (
        _squared_mmd, "kernel.sum() - np.trace(kernel)", "kernel.sum()", {"table"},
    ),
    "samples of other classes": (
        ReferenceSet.labels, "labels[indices % len(labels)]", "0 * indices", {"table"},
    ),
}  # fmt: skip
"""What is wrong with a flow -> (function, text, what stands there instead, probes that notice)."""

PLANTED_IN_A_CHAIN: dict[str, tuple[Callable[..., Any], str, str, set[str]]] = {
    "timesteps from 1": (
        stride, "range(0, num_timesteps, strides[steps])",
        "range(1, num_timesteps, strides[steps])", {"ddim", "images", "times"},
    ),
    "noise at the last step": (
        DDPMSampler.sample, "if place == 0", "if place == -1", {"stochastic"},
    ),
    "no noise at the first step": (
        DDPMSampler.sample, "if place == 0", "if place in (0, 3)", {"stochastic"},
    ),
    "the two ends of a learned variance exchanged": (
        DiscreteDiffusion.log_variance, "return fraction",
        "fraction = 1 - fraction; return fraction",
        {"stochastic", "fixed"},
    ),
    "prediction and variance exchanged": (
        DDPM._split, "value, variance = ", "variance, value = ", {"stochastic", "ddim", "guided"},
    ),
    "noise reused in every step": (
        Generator.latents, "{purpose}-{step}", "{purpose}-0", {"stochastic"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", PLANTED)
def test_a_mistake_in_a_flow_is_noticed(
    wrong: str, flow: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, before, after, expected = PLANTED[wrong]
    plant(monkeypatch, function, before, after)
    assert expected <= noticed(flow, FLOW)


@pytest.mark.parametrize("wrong", PLANTED_IN_A_CHAIN)
def test_a_mistake_in_a_chain_is_noticed(
    wrong: str, chain: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, before, after, expected = PLANTED_IN_A_CHAIN[wrong]
    plant(monkeypatch, function, before, after)
    assert expected <= noticed(chain, CHAIN)


def test_without_a_mistake_nothing_is(flow: Probes, chain: Probes) -> None:
    """And a flow and a chain have the same probes."""
    assert noticed(flow, FLOW) == set() == noticed(chain, CHAIN)
    assert flow.keys() == chain.keys()
