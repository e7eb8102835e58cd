"""Contents of weight files become strings and numbers of a command, never expressions."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_lab.actions.inferred import InferredOption, as_overrides
from dit_lab.core.errors import RequestError


@pytest.mark.parametrize(
    "value", ["${oc.env:HOME}", "a b", "x,y", "[1]", "a=b", "", "x\n", "'x'", "\x1b[31m"]
)
def test_a_foreign_text_that_is_no_word_is_refused(value: str) -> None:
    chosen = [InferredOption("objective.prediction", value, "the format")]
    says = r"^objective\.prediction: the format says .*no word"
    with pytest.raises(RequestError, match=says) as refused:
        as_overrides(chosen, Path("made"), [])
    assert str(refused.value).isprintable()


def test_words_and_numbers_are_handed_over() -> None:
    chosen = [
        InferredOption("objective.prediction", "velocity", "the format"),
        InferredOption("objective.learn_sigma", True, "the shapes"),
        InferredOption("ema.decays", [0.9999], "the originals"),
    ]
    assert as_overrides(chosen, Path("made"), ["seed=1"]) == [
        "name=made", "objective.prediction=velocity", "objective.learn_sigma=true",
        "ema.decays=[0.9999]", "seed=1",
    ]  # fmt: skip
