"""Which typed options a component has, by the class that its `_target_` names: the options classes
of all parts, which each part keeps beside its components."""

from __future__ import annotations

from dit_lab.codecs import options as codecs
from dit_lab.core.options import Component
from dit_lab.data import options as data
from dit_lab.evaluation import options as evaluation
from dit_lab.models import options as models
from dit_lab.objectives import options as objectives
from dit_lab.samplers import options as samplers
from dit_lab.training import options as training

PARTS = (models, objectives, training, samplers, data, codecs, evaluation)

COMPONENTS: dict[str, type[Component]] = {
    target: options for part in PARTS for target, options in part.COMPONENTS.items()
}

COMPONENT_GROUPS = (
    "model", "objective", "coupling", "sampler", "dataset", "codec", "optimizer", "schedule",
)  # fmt: skip

LISTS = ("metric",)
"""Groups of which several members are chosen, each a component under its own name."""

GIVEN_IN_CODE = {
    "objective": {"latent_shape"},
    "model": {"input_size", "in_channels", "num_classes", "learn_sigma", "generator"},
    "dataset": {"split", "seed"},
    "optimizer": {"params"},
}
"""Constructor arguments that the lab gives itself: they follow from the data and the run."""
