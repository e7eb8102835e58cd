"""The key reference: complete, with a help text per key, and an up-to-date page."""

from __future__ import annotations

import pytest

from dit_lab.cli.main import main
from dit_lab.config.compose import Composer
from dit_lab.config.keys import all_keys, search
from dit_lab.config.objects import to_tree
from dit_lab.runs.folder import flatten
from tests.keys_page import PAGE, page


def test_every_key_of_a_configuration_is_there_with_its_meaning() -> None:
    """Of defaults and of every optimizer, whose options differ most."""
    known = {key.name for key in all_keys()}
    for overrides in ([], ["objective=rectified_flow"], ["optimizer=muon"], ["coupling=reflow"]):
        tree = to_tree(Composer().compose(overrides).config)
        for key, _ in flatten(tree):
            name = key if not key.startswith("metric.") else f"metric.NAME.{key.split('.')[2]}"
            assert name in known or key.startswith("choices.") or key.endswith("._target_"), key
    assert all(key.meaning and key.takes for key in all_keys())


def test_the_page_is_as_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.keys_page`"


def test_one_key_or_all_with_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert [(key.default, key.of) for key in search("training.clip_norm")] == [("1.0", ())]
    assert {key.name for key in search("WARMUP_st")} == {"schedule.warmup_steps"}
    assert len(search("sampler.steps")) > 3  # by their defaults
    assert main(["describe", "--key", "training.clip_norm"]) == 0
    out = capsys.readouterr().out
    assert "a number above 0 or null" in out and "no clipping" in out
    assert main(["describe", "--key", "nonsense"]) == 2
    assert "--key nonsense: no key has this" in capsys.readouterr().err
