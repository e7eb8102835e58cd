"""Errors for values of the wrong type or out of range."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dit_lab.config.compose import Composer
from dit_lab.core.errors import RequestError

COMPOSER = Composer()  # which chooses the members of groups once for all of them

REFUSED = {
    "training.total_steps=1.5": "expected a whole number at least 1",
    "training.total_steps=": "expected a whole number",
    "training.total_steps=null": "expected a whole number",
    "optimizer.lr=fast": "expected a number above 0",
    "ema.warmup=maybe": "expected true or false",
    "ema.decays=0.9": "expected a list",
    "ema.decays=[0.9,slow]": r"ema.decays[1]=slow: expected a list such as [1, 2] (a number each)",
    "seed=[1,2]": "seed=[1, 2]: expected a whole number",
    "seed=-1": "expected a whole number",
    "objective.time_sampling=normal": "expected one of uniform, logit_normal, cosmap",
    "model.norm=batch": "expected one of layer, rms",
    "model.class_dropout_prob=1": "expected a number at least 0 and below 1",
    "sampler.eta=0.5": "sampler.eta: no such key",
    # ---- containers
    "sample.labels=[[1]]": "expected a list such as [1, 2] (a whole number or text each) or null",
    "sample.labels={a:1}": "expected a list such as [1, 2] (a whole number or text each) or null",
    "optimizer.betas=[[0.9],0.9]": "expected a list such as [1, 2] (a number each)",
    "ema.decays=[[1]]": "expected a list such as [1, 2] (a number each)",
    # ---- numbers that are none, or that nothing can hold
    "guidance.scale=inf": "expected a number at least 0 or null, finite and below 2^63",
    "guidance.scale=nan": "expected a number at least 0",
    "guidance.interval=[0,inf]": "expected a list such as [1, 2] (a number each), finite",
    "optimizer.lr=inf": "optimizer.lr=inf: expected a number above 0, finite",
    "ema.power_stds=[nan,0.1]": "expected a list such as [1, 2] (a number each), finite",
    "model.mlp_ratio=inf": "model.mlp_ratio=inf: expected a number above 0, finite",
    "training.clip_norm=inf": "expected a number above 0 or null, finite",
    "training.hang_after_seconds=inf": "above 0 and at most 10,000,000 or null",
    "seed=9223372036854775808": "expected a whole number at least 0, finite and below 2^63",
    "training.total_steps=99999999999999999999": "at least 1, finite and below 2^63",
    "sample.seed=-1": "expected a whole number at least 0",
    "sample.num_images=1e11": "expected a whole number at least 1 and at most 100,000,000",
    "sample.num_images=100000000000": "expected a whole number at least 1 and at most 100,000,000",
    "sampler.steps=1000000000000": "expected a whole number at least 1 and at most 100,000",
    "dataset.num_workers=100000": "expected a whole number at least 0 and at most 1,024",
    "model.hidden_size=100000000000": "expected a whole number at least 4 and at most 65,536",
    # ---- sizes of images
    **{
        f"dataset.image_size={size}": "give the pixels of a square's side, 1 to 16,384, or [height"
        for size in ("16.0", "1e1", "true", "8.5", "a", "0", "-8", "20000", "[8]", "[8,8.0]",
                     "[8,true]", "[8,8,8]", "{a:1}", "inf")
    },
}  # fmt: skip


@pytest.mark.parametrize("override", REFUSED)
def test_a_value_is_refused(override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=re.escape(REFUSED[override])) as refusal:
        COMPOSER.compose(["experiment=quickstart", override])
    assert str(refusal.value).startswith(override.partition("=")[0])


def test_images_of_files_have_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other datasets know their own, and may leave it out."""
    monkeypatch.chdir(tmp_path)
    COMPOSER.compose(["experiment=quickstart", "dataset.image_size=null"])
    COMPOSER.compose(["experiment=own_images", "dataset.root=x", "dataset.image_size=[8,16]"])
    with pytest.raises(RequestError, match="image_size=null: give the pixels of a square"):
        COMPOSER.compose(["experiment=own_images", "dataset.root=x", "dataset.image_size=null"])
