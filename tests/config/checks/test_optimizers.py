"""Errors for missing packages name the package and the install command."""

from __future__ import annotations

import pytest

from dit_lab.config import search_path
from dit_lab.config.checks.optimizers import check_optimizer_settings
from dit_lab.config.compose import compose_train
from dit_lab.core.errors import RequestError
from dit_lab.training.optimizers.options import MEMBERS, Prodigy

DIGITS = ["dataset=digits", "codec=identity", "model=pico", "objective=rectified_flow"]
EXTRA = r"needs no_such_package, which is not installed; pip install 'dit-lab\[optimizers\]'"


@pytest.mark.parametrize(
    "chosen",
    ["optimizer=prodigy", "optimizer.groups=[{match: '.*bias', optimizer: prodigy}]"],
)
def test_an_extra_that_is_missing(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_train([*DIGITS, chosen])
    check_optimizer_settings(config)
    monkeypatch.setattr(Prodigy, "package", "no_such_package")
    with pytest.raises(RequestError, match=f"^optimizer=prodigy: {EXTRA}"):
        check_optimizer_settings(config)
    check_optimizer_settings(compose_train(DIGITS))


def test_the_members_are_those_of_the_group() -> None:
    assert set(search_path.choices("optimizer", [])) == set(MEMBERS)
