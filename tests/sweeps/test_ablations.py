"""Common ablations, each in one line, from the quickstart and across three objectives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from dit_lab.sweeps.plan import plan_sweep

LINE = [
    "experiment=quickstart", "objective=ddpm,rectified_flow,flow_matching",
    "sweep.on_refusal=drop_option",
]  # fmt: skip

ABLATED = {
    "time sampling": ("objective.time_sampling=uniform,logit_normal,cosmap", 1, 3, 3),
    "time shift": ("objective.time_shift=1,2", 1, 2, 2),
    "noise schedule": ("objective.beta_schedule=linear,scaled_linear,cosine", 3, 1, 1),
    "path": ("objective.path=linear,trigonometric,vp", 1, 1, 3),
    "learned sigma": ("objective.learn_sigma=true,false", 2, 2, 2),
    "loss": ("objective.loss=squared,huber", 2, 2, 2),
    "weighting by SNR": ("objective.min_snr_gamma=null,5", 2, 2, 2),
    "EMA decays": ("ema.decays=[0.99],[0.999]", 2, 2, 2),
    "guidance": ("guidance.scale=1,1.5,2", 3, 3, 3),
    "patch": ("patch=1,2", 2, 2, 2),
    "size": ("model=pico,nano", 2, 2, 2),
    "depth": ("model.depth=4,6", 2, 2, 2),
    "width": ("model.hidden_size=64,96", 2, 2, 2),
    "heads": ("model.num_heads=2,4", 2, 2, 2),
    "class dropout": ("model.class_dropout_prob=0.1,0.2", 2, 2, 2),
    "optimizer": ("optimizer=adamw,muon,sgd,schedule_free_adamw", 4, 4, 4),
    "rate": ("optimizer.lr=0.001,0.003", 2, 2, 2),
    "betas": ("optimizer.betas=[0.9,0.95],[0.9,0.999]", 2, 2, 2),
    "weight decay": ("optimizer.weight_decay=0,0.01", 2, 2, 2),
    "batch": ("training.global_batch_size=64,128", 2, 2, 2),
    "precision": ("precision=fp32,bf16", 2, 2, 2),
    "schedule": ("schedule=constant,cosine", 2, 2, 2),
    "warm-up": ("schedule.warmup_steps=0,50", 2, 2, 2),
    "clipping": ("training.clip_norm=1,null", 2, 2, 2),
}
"""What -> the axis, and the jobs of each objective."""


@pytest.mark.parametrize("what", ABLATED)
def test_an_ablation_is_one_line(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    axis, *expected = ABLATED[what]
    plan = plan_sweep([*LINE, axis])
    jobs = Counter(job.overrides[0] for job in plan.manifest.jobs)
    assert list(jobs.values()) == expected
