"""Small real components shared by tests: the digits, a tiny model, training batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # torch takes seconds, and tests of commands do without
    from dit_lab.data.digits import Digits
    from dit_lab.models.dit import DiT
    from dit_lab.training.batches import TrainingBatches

CLASSES = 10


@pytest.fixture(scope="session")
def digits() -> Digits:
    """The 1,437 training digits."""
    from dit_lab.data.digits import Digits

    return Digits(split="train")


@pytest.fixture(scope="session")
def held_out_digits() -> Digits:
    """The 360 validation digits."""
    from dit_lab.data.digits import Digits

    return Digits(split="validation")


@pytest.fixture(scope="session")
def make_model() -> Callable[..., DiT]:
    """Builds a DiT of width 16 for the digits, the same weights at every call.

    `perturbed` moves every weight off its start, where the model is the zero function.
    """
    import torch

    from dit_lab.models.dit import DiT

    def make(*, perturbed: bool = False, **changes: Any) -> DiT:
        draw = torch.Generator().manual_seed(0)
        options = {
            "input_size": (8, 8),
            "patch_size": 4,
            "in_channels": 1,
            "hidden_size": 16,
            "depth": 1,
            "num_heads": 2,
            "num_classes": CLASSES,
            "learn_sigma": False,
            "generator": draw,
        }
        model = DiT(**(options | changes))
        if perturbed:
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(0.1 * torch.randn(weight.shape, generator=draw))
        return model

    return make


@pytest.fixture(scope="session")
def make_batches(digits: Digits) -> Callable[..., TrainingBatches]:
    """Builds the training batches of one process; a global batch is 16 digits."""
    import torch

    from dit_lab.codecs.identity import Identity
    from dit_lab.data.order import SampleOrder
    from dit_lab.objectives.rectified_flow import RectifiedFlow
    from dit_lab.training.batches import Draws, TrainingBatches
    from dit_lab.training.coupling import Independent

    def make(*, label_drop_prob: float = 0.25, **changes: Any) -> TrainingBatches:
        options = {
            "dataset": digits,
            "order": SampleOrder(0, len(digits)),
            "draws": Draws(
                seed=0,
                purpose="train",
                latent_shape=(1, 8, 8),
                time_from_uniform=RectifiedFlow().time_from_uniform,
                label_drop_prob=label_drop_prob,
            ),
            "codec": Identity(),
            "coupling": Independent(),
            "device": torch.device("cpu"),
            "global_batch_size": 16,
            "accumulation": 1,
            "process_index": 0,
            "num_processes": 1,
            "num_workers": 0,
        }
        return TrainingBatches(**(options | changes))

    return make
