"""Comparison with recorded results: tolerances, verdicts, and error rates of verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dit_lab.reproduce.expected import (
    ONE,
    TOLERANCES,
    Value,
    Verdict,
    judge_metrics,
    judge_probes,
    read_expected,
    recorded_metrics,
    recorded_probes,
    write_expected,
)

PROBES: dict[str, Value] = {
    "losses": [1.5, 1.25, 0.123456789],
    "order": "0123456789ab",
    "dropped": 0.1,
    "evaluations": 50.0,
}


def judged(kind: str = "cpu", **changes: Any) -> dict[str, Verdict]:
    verdicts = judge_probes(recorded_probes(PROBES), {**PROBES, **changes}, kind=kind)
    return {verdict.name: verdict for verdict in verdicts}


def test_the_same_numbers_are_reproduced() -> None:
    assert all(verdict.good for verdict in judged().values())


@pytest.mark.parametrize(
    ("name", "value", "kind", "good"),
    [
        ("losses", [1.5, 1.2513, 0.123456789], "cpu", True),  # a thousandth of 1.5 is 0.0015
        ("losses", [1.5, 1.2516, 0.123456789], "cpu", False),
        ("losses", [1.5, 1.2516, 0.123456789], "cuda", True),
        ("losses", [1.5, 1.25], "cpu", False),  # a step is missing
        ("losses", [1.5, float("nan"), 0.123456789], "cpu", False),
        ("order", "ba9876543210", "cpu", False),
        ("dropped", 0.1002, "cpu", False),
        ("evaluations", 51.0, "cpu", False),
        ("evaluations", 51.0, "cuda", False),
    ],
)
def test_a_difference_beyond_the_tolerance_is_named(
    name: str, value: Any, kind: str, good: bool
) -> None:
    found = judged(kind, **{name: value})
    assert found[name].good == good
    assert all(verdict.good for other, verdict in found.items() if other != name)


def test_a_probe_that_did_not_come_out_is_not_reproduced() -> None:
    verdicts = judge_probes(recorded_probes(PROBES), {"dropped": 0.1}, kind="cpu")
    assert {verdict.name: verdict.good for verdict in verdicts} == {
        "losses": False, "order": False, "dropped": True, "evaluations": False,
    }  # fmt: skip


def test_a_probe_that_came_later_is_neither_reproduced_nor_wrong() -> None:
    new = judged(new=1.0)["new"]
    assert (new.recorded, new.obtained, new.good, new.word) == ("-", "1", True, "not recorded")
    assert all(verdict.word == "reproduced" for name, verdict in judged().items() if name != "new")


def test_of_a_list_the_worst_is_shown() -> None:
    found = judged(losses=[1.5, 1.25, 0.2])["losses"]
    assert (found.recorded, found.obtained) == ("#3: 0.123457", "#3: 0.2")
    assert found.difference == pytest.approx(0.2 - 0.1234568)


def test_every_probe_has_a_tolerance_on_every_device() -> None:
    assert all(tolerance.keys() == {"cpu", "cuda"} for tolerance in TOLERANCES.values())


# ---- metrics -------------------------------------------------------------------------------------


def recorded(values: dict[str, list[float]]) -> dict[str, Any]:
    """What is recorded of one configuration, of which each metric was measured by these seeds."""
    seeds = [dict(zip(values, of, strict=True)) for of in zip(*values.values(), strict=True)]
    return recorded_metrics({ONE: seeds})[ONE]


def test_a_change_of_many_deviations_is_found() -> None:
    known = recorded({"eval/m0": [0.48, 0.5, 0.52], "eval/m1": [0.48, 0.5, 0.52]})
    verdicts = judge_metrics(known, [{"eval/m0": 0.53, "eval/m1": 0.9}])
    assert [verdict.good for verdict in verdicts] == [True, False]


def test_shares_of_few_images_may_differ_by_three_of_them() -> None:
    known = recorded({"eval/exact_copies_bytes_n100": [0.0] * 3, "eval/loss": [0.5] * 3})
    copies, loss = (metric["tolerance"] for metric in known.values())
    assert 0.03 <= copies < 0.2
    assert loss == 0.0
    found = judge_metrics(known, [{"eval/exact_copies_bytes_n100": 0.03, "eval/loss": 0.5001}])
    assert [verdict.good for verdict in found] == [True, False]


def test_a_metric_that_was_not_measured_is_not_reproduced() -> None:
    known = recorded({"eval/loss": [0.4, 0.5, 0.6]})
    (verdict,) = judge_metrics(known, [{}])
    assert (verdict.obtained, verdict.good) == ("not measured", False)


# ---- the file ------------------------------------------------------------------------------------


def content() -> dict[str, Any]:
    return {
        "recorded": {
            "date": "2026-11-28",
            "device": "x86_64",
            "num_threads": 1,
            "versions": {},
            "code": "0123456789ab",
            "train_hashes": {ONE: "0123456789ab"},
            "seeds": [0, 1, 2],
            "minutes": 1.5,
        },
        "probes": {ONE: recorded_probes(PROBES)},
        "measured": {ONE: recorded({"eval/loss": [0.5] * 3})},
    }


def test_what_is_written_is_read_and_what_is_published_stays(tmp_path: Path) -> None:
    file = write_expected(tmp_path, content())
    assert read_expected(tmp_path) == {**content(), "published": []}
    known = [{"metric": "fid_inception_n50000", "values": {ONE: 2.27}, "source": "arXiv"}]
    file.write_text(file.read_text().replace("published: []", f"published: {known}"))
    write_expected(tmp_path, content())
    assert read_expected(tmp_path)["published"] == known
