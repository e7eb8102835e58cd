"""A config printed with help comments is still the same config."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dit_lab.config.compose import Composer
from dit_lab.config.help import with_help
from dit_lab.config.objects import to_tree


def test_comments_stand_beside_their_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = Composer().compose(["experiment=quickstart", "metric=[fid,two_sample]"]).config
    text = with_help(config)
    assert yaml.safe_load(text) == to_tree(config)
    lines = {line.split("  # ")[0]: line.partition("  # ")[2] for line in text.splitlines()}
    assert lines["  time_grid: uniform"] == (
        "spacing of the steps over flow time; uniform, quadratic, shifted, given"
    )
    assert lines["    extractor: inception"].endswith("; pixels, classifier, inception, dinov2")
    assert lines["  final_factor: 0.0"] == "learning rate at the last step, as a fraction of lr"
    assert lines["seed: 0"] == "seed of all randomness in training"
