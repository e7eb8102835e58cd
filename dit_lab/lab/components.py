"""Which typed options a component has, by the class that its `_target_` names."""

from __future__ import annotations

from dit_lab.lab.component_options import (
    DDIM,
    DDPM,
    AdamW,
    Ancestral,
    Autoencoder,
    Component,
    Constant,
    Cosine,
    Dataset,
    DiT,
    Dopri5,
    DPMSolver,
    EulerMaruyama,
    FeatureMetric,
    FixedStep,
    FlowMatching,
    Frechet,
    ImageFolder,
    InceptionScore,
    LabelledList,
    Latents,
    Metric,
    Multistep,
    OptimalTransport,
    RectifiedFlow,
    Reflow,
    TorchvisionSet,
)

COMPONENTS: dict[str, type[Component]] = {
    "dit_lab.models.dit.DiT": DiT,
    "dit_lab.objectives.ddpm.DDPM": DDPM,
    "dit_lab.objectives.rectified_flow.RectifiedFlow": RectifiedFlow,
    "dit_lab.objectives.flow_matching.FlowMatching": FlowMatching,
    "dit_lab.training.coupling.Independent": Component,
    "dit_lab.training.coupling.OptimalTransport": OptimalTransport,
    "dit_lab.training.coupling.Reflow": Reflow,
    "dit_lab.samplers.ancestral.DDPMSampler": Ancestral,
    "dit_lab.samplers.ancestral.DDIMSampler": DDIM,
    "dit_lab.samplers.ode.Euler": FixedStep,
    "dit_lab.samplers.ode.Midpoint": FixedStep,
    "dit_lab.samplers.ode.Heun": FixedStep,
    "dit_lab.samplers.ode.RK4": FixedStep,
    "dit_lab.samplers.adaptive.Dopri5": Dopri5,
    "dit_lab.samplers.sde.EulerMaruyama": EulerMaruyama,
    "dit_lab.samplers.multistep.DPMSolver": DPMSolver,
    "dit_lab.samplers.multistep.UniPC": Multistep,
    "dit_lab.data.digits.Digits": Dataset,
    "dit_lab.data.labelled_list.LabelledList": LabelledList,
    "dit_lab.data.image_folder.ImageFolder": ImageFolder,
    "dit_lab.data.torchvision_sets.MNIST": TorchvisionSet,
    "dit_lab.data.torchvision_sets.FashionMNIST": TorchvisionSet,
    "dit_lab.data.torchvision_sets.CIFAR10": TorchvisionSet,
    "dit_lab.data.latents.Latents": Latents,
    "dit_lab.codecs.identity.Identity": Component,
    "dit_lab.codecs.autoencoder.Autoencoder": Autoencoder,
    "dit_lab.evaluation.metrics.TwoSample": FeatureMetric,
    "dit_lab.evaluation.metrics.PrecisionRecall": FeatureMetric,
    "dit_lab.evaluation.metrics.DensityCoverage": FeatureMetric,
    "dit_lab.evaluation.metrics.KernelDistance": FeatureMetric,
    "dit_lab.evaluation.metrics.Memorisation": FeatureMetric,
    "dit_lab.evaluation.metrics.Frechet": Frechet,
    "dit_lab.evaluation.metrics.InceptionScore": InceptionScore,
    "dit_lab.evaluation.metrics.ClassAccuracy": Metric,
    "torch.optim.AdamW": AdamW,
    "dit_lab.training.schedules.Constant": Constant,
    "dit_lab.training.schedules.Cosine": Cosine,
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
