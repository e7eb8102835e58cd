"""What a value of the wrong type or out of its range is refused with."""

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
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_value_is_refused(override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=re.escape(REFUSED[override])) as refusal:
        COMPOSER.compose(["experiment=quickstart", override])
    assert str(refusal.value).startswith(override.partition("=")[0])
