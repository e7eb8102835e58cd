"""Training in bfloat16: only matrix products are computed in bfloat16.

A real `train` under Accelerate's bf16 on the CPU; hooks inside the model record dtypes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim import AdamW

from dit_lab.core.process_group import SINGLE_PROCESS
from dit_lab.core.types import Batch, EvaluationResult, LabelledCall, ModelCall, Objective
from dit_lab.models.dit import DiT
from dit_lab.objectives.ddpm import DDPM
from dit_lab.objectives.rectified_flow import RectifiedFlow
from dit_lab.training.batches import Draws, TrainingBatches
from dit_lab.training.checkpoint_store import CheckpointStore
from dit_lab.training.ema import EMA
from dit_lab.training.loop import LoopSettings, train
from dit_lab.training.optimizers.state import optimizer_tensors
from dit_lab.training.parallel import Whole
from dit_lab.training.schedules import Constant
from dit_lab.training.snapshots import Snapshots

STEPS = 3
FLOAT, BFLOAT = torch.float32, torch.bfloat16


@pytest.fixture(autouse=True)
def _other_precision() -> Iterator[None]:
    """Accelerate keeps one precision for the whole process; other tests have theirs."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Typed(Objective):
    """An objective that keeps the number types of what it is given and what it returns."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self.learn_sigma = objective.learn_sigma
        self.given: set[torch.dtype] = set()
        self.terms: dict[str, set[torch.dtype]] = {}

    def loss(self, predict: ModelCall, batch: Batch) -> dict[str, Tensor]:
        def typed(x: Tensor, time: Tensor) -> Tensor:
            output = predict(x, time)
            self.given |= {x.dtype, output.dtype}
            return output

        terms = self._objective.loss(typed, batch)
        for name, term in terms.items():
            self.terms.setdefault(name, set()).add(term.dtype)
        return terms


@dataclass
class Probe:
    """An evaluator that keeps what the averaged model says."""

    every_steps: int = 0
    outputs: list[Tensor] = field(default_factory=list)

    def run(self, model: LabelledCall, step: int) -> EvaluationResult:
        self.outputs.append(model(*probe_inputs()))
        return EvaluationResult()


def probe_inputs() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    return x, torch.tensor([0.0, 936, 937, 999]), torch.arange(4)


@dataclass
class Trained:
    """One training in bfloat16 and all that was seen of it."""

    model: DiT
    objective: Typed
    optimizer: AdamW
    ema: EMA
    probe: Probe
    types: dict[str, set[torch.dtype]]  # of inputs and outputs inside the model


def watch(model: nn.Module, types: dict[str, set[torch.dtype]]) -> None:
    """Keep the number types of every part's first input and of its output."""

    def keep(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            types.setdefault(f"{name} input", set()).add(inputs[0].dtype)
            types.setdefault(f"{name} output", set()).add(output.dtype)

        return hook

    for name, part in model.named_modules():
        part.register_forward_hook(keep(name))


@pytest.fixture(params=[RectifiedFlow, DDPM], ids=["flow", "ddpm"])
def trained(
    request: pytest.FixtureRequest,
    make_model: Callable[..., DiT],
    make_batches: Callable[..., TrainingBatches],
    tmp_path: Path,
) -> Trained:
    objective = Typed(request.param())
    model = make_model(perturbed=True, learn_sigma=objective.learn_sigma)
    types: dict[str, set[torch.dtype]] = {}
    watch(model, types)
    optimizer = AdamW([w for w in model.parameters() if w.requires_grad], lr=0.01, fused=True)
    ema = EMA(dict(model.named_parameters()), decay=0.9, warmup=True)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    probe = Probe()
    draws = Draws(
        seed=0,
        purpose="train",
        latent_shape=(1, 8, 8),
        time_from_uniform=request.param().time_from_uniform,
        label_drop_prob=0.25,
    )
    train(
        accelerator=accelerator,
        process_group=SINGLE_PROCESS,
        model=Whole(model, accelerator),
        null_label=10,
        objective=objective,
        batches=make_batches(draws=draws),
        optimizer=optimizer,
        schedule=Constant(warmup_steps=0),
        emas=[ema],
        snapshots=Snapshots(None, averages=[], every_steps=0),
        checkpoints=CheckpointStore(tmp_path, run="abc", ancestors=(), warn=pytest.fail),
        resume_from=None,
        evaluators=[probe],
        hooks=[],
        settings=LoopSettings(
            total_steps=STEPS,
            clip_norm=1.0,
            log_every_steps=1,
            checkpoint_every_steps=0,
            max_skipped_in_a_row=3,
            images_per_epoch=1437,
        ),
        check_stop=lambda: None,
    )
    return Trained(model, objective, optimizer, ema, probe, types)


def test_matrix_products_are_in_bfloat16(trained: Trained) -> None:
    """Or none of these tests would mean anything."""
    for name in ("x_embedder", "blocks.0.attn.qkv", "blocks.0.mlp.fc2", "final_layer.linear"):
        assert trained.types[f"{name} output"] == {BFLOAT}, name


def test_the_time_is_embedded_in_float32(trained: Trained) -> None:
    """From the number that the model is given to the end of the MLP behind the sinusoids."""
    for name in ("t_embedder", "t_embedder.mlp.0", "t_embedder.mlp.2"):
        assert trained.types[f"{name} input"] == {FLOAT}, name
        assert trained.types[f"{name} output"] == {FLOAT}, name


def test_norms_and_the_residual_stream_are_in_float32(trained: Trained) -> None:
    for name in ("blocks.0", "blocks.0.norm1", "blocks.0.norm2", "final_layer.norm_final"):
        assert trained.types[f"{name} input"] == {FLOAT}, name
        assert trained.types[f"{name} output"] == {FLOAT}, name


def test_losses_are_in_float32(trained: Trained) -> None:
    """What the objective is given and every term that it returns."""
    assert trained.objective.given == {FLOAT}
    names = {"loss", "mse", "vb"} if trained.objective.learn_sigma else {"loss"}
    assert trained.objective.terms == {name: {FLOAT} for name in names}


def test_weights_averages_and_optimizer_stay_in_float32(trained: Trained) -> None:
    """And learn by less than bfloat16 could hold: its numbers near 0.1 are 0.0005 apart."""
    names = {weight: name for name, weight in trained.model.named_parameters()}
    state = optimizer_tensors(trained.optimizer, names)
    for tensors in (dict(trained.model.named_parameters()), trained.ema.shadow, state):
        assert tensors
        assert {tensor.dtype for tensor in tensors.values()} == {FLOAT}
    for tensors in (trained.ema.shadow, {n: w.detach() for w, n in names.items()}):
        weight = tensors["blocks.0.attn.qkv.weight"]
        assert not torch.equal(weight, weight.bfloat16().float())


@torch.no_grad()
def test_neighbouring_times_are_told_apart(trained: Trained) -> None:
    """936 and 937 are one number in bfloat16. Under autocast, as without."""
    model = trained.model
    times = torch.tensor([936.0, 937.0])
    assert times[0].bfloat16() == times[1].bfloat16()
    with torch.autocast("cpu", BFLOAT):
        first, second = model.t_embedder(times)
    assert not torch.equal(first, second)
    assert torch.equal(torch.stack([first, second]), model.t_embedder(times))


@torch.no_grad()
def test_evaluations_in_training_are_those_afterwards(trained: Trained) -> None:
    """In every bit what `dit-lab evaluate` computes: the averaged weights under autocast."""
    later = deepcopy(trained.model)
    later.__dict__.pop("forward", None)  # what Accelerate put around it
    later.load_state_dict(trained.ema.shadow)
    with torch.autocast("cpu", BFLOAT):
        expected = later.eval()(*probe_inputs()).float()
    (found,) = trained.probe.outputs
    assert found.dtype == FLOAT
    assert torch.equal(found, expected)
    assert not torch.equal(found, later(*probe_inputs()))  # which float32 would not give
