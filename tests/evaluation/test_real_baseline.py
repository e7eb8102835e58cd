"""Real-vs-real baselines are computed once, and depend on everything that determines them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dit_lab.evaluation import real_baseline
from dit_lab.evaluation.features.extractors import Features
from dit_lab.evaluation.real_baseline import RealBaseline


class Counted:
    """A metric that counts its calls; `module` is where it appears to be defined."""

    def __init__(self, module: str = "dit_lab.evaluation.metrics.components") -> None:
        self.calls, self.__module__ = 0, module

    def __call__(self, first: Features, second: Features) -> float:
        self.calls += 1
        return float(np.abs(first - second).mean() / 3)


def pairs(seed: int = 0) -> list[tuple[Features, Features]]:
    draw = np.random.default_rng(seed)
    drawn = draw.normal(size=(3, 2, 20, 4)).astype(np.float32)
    return [(first, second) for first, second in drawn]


def test_it_is_made_once_and_read_to_the_last_digit(tmp_path: Path) -> None:
    first, again = Counted(), Counted()
    made = RealBaseline(tmp_path, seed=0).floor("recall pixels", first, pairs())
    assert RealBaseline(tmp_path, seed=0).floor("recall pixels", again, pairs()) == made
    assert (first.calls, again.calls) == (3, 0)
    assert made == real_baseline.mean_and_deviation([Counted()(*pair) for pair in pairs()])


@pytest.mark.parametrize(
    "other", [{"metric": "precision pixels"}, {"seed": 1}, {"images": 1}], ids=str
)
def test_what_it_follows_from(tmp_path: Path, other: dict[str, object]) -> None:
    usual: dict[str, object] = {"metric": "recall pixels", "seed": 0, "images": 0}
    counted = Counted()
    for asked in (usual, {**usual, **other}):
        RealBaseline(tmp_path, seed=int(str(asked["seed"]))).floor(
            str(asked["metric"]), counted, pairs(int(str(asked["images"])))
        )
    assert counted.calls == 6


def test_other_code_makes_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted()
    RealBaseline(tmp_path, seed=0).floor("recall pixels", counted, pairs())
    monkeypatch.setattr(
        real_baseline, "code_files", lambda parts, trusted: {"metrics.py": "changed"}
    )
    RealBaseline(tmp_path, seed=0).floor("recall pixels", counted, pairs())
    assert counted.calls == 6


def test_somebody_elses_metric_is_not_kept(tmp_path: Path) -> None:
    counted = Counted("mylab.metrics")
    known = RealBaseline(tmp_path, seed=0)
    assert known.floor("mine", counted, pairs()) == known.floor("mine", counted, pairs())
    assert counted.calls == 3  # within a process it is
    assert not list(tmp_path.iterdir())
