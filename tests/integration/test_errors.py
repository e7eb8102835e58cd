"""Every refusal, by the real command: one line, the exit code, nothing left, and as docs/errors.md.

The cases are data in tests/errors. Each is typed in a folder of its own in a process of its own
(forked from one that has done its imports); some are also typed as people do, and compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch

import pytest

from tests.errors import table
from tests.errors.cases import AREAS, CASES
from tests.errors.lab import Lab
from tests.errors.sites import LIBRARY_ONLY, sites

TYPED = (
    "no such key",
    "a command of the system, in your own file",
    "`torch.load` as the recorded codec: evaluate",
    "a changed byte, in the newest checkpoint: sample",
    "an objective that fails while it trains",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Where commands are typed; what it makes for one case is kept for the next."""
    with Lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.mark.parametrize("title", CASES)
def test_said_in_one_line(title: str, lab: Lab) -> None:
    case = CASES[title]
    outcome = lab.outcome(case)
    if outcome.could_not:
        pytest.skip(outcome.could_not)
    assert outcome.code == case.code, outcome
    lines = outcome.err.splitlines()
    assert len(lines) <= 1
    if case.code:
        (line,) = lines
        assert line.startswith("dit-lab: ")
    assert table.said(case, outcome), f"nothing like {case.says!r} in {outcome}"
    assert "Traceback" not in outcome.out + outcome.err
    unexpected = [
        name
        for name in outcome.changed
        if not any(fnmatch(name, pattern) for pattern in case.leaves)
    ]
    assert unexpected == []
    assert case.slow or outcome.imported == ()
    row = table.row(case, outcome)
    otherwise = "docs/errors.md says otherwise; python -m tests.errors.table writes it anew"
    assert row == table.rows().get(title), otherwise


def test_the_page_has_every_case_in_order_and_nothing_else() -> None:
    assert list(table.rows()) == list(CASES)
    assert table.PAGE.read_text(encoding="utf-8") == table.page(
        lambda case: table.rows()[case.title]
    )


@pytest.mark.parametrize("title", TYPED)
def test_typed_as_people_do(title: str, lab: Lab) -> None:
    case = CASES[title]
    expected, found = lab.outcome(case), lab.typed(case)
    assert (found.code, found.err) == (expected.code, expected.err)


def test_every_refusal_in_the_package_is_a_case(lab: Lab) -> None:
    outcomes = [lab.outcome(case) for area in AREAS for case in area.cases]
    if any(outcome.could_not for outcome in outcomes):
        pytest.skip("some cases cannot be run on this machine")
    made = {place for outcome in outcomes for place in outcome.raised}
    unreached = [site for site in sites() if not any(site.made(*place) for place in made)]
    assert [str(site) for site in unreached if not site.is_for_the_library] == []
    excuses = sum(len(places) for places in LIBRARY_ONLY.values())
    assert sum(site.is_for_the_library for site in unreached) == excuses  # none is stale


def test_what_a_failed_run_leaves(lab: Lab) -> None:
    """Its log and the checkpoint before, nothing of the one that it failed to write."""
    full = lab.outcome(CASES["a disk that is full at the second checkpoint"])
    if full.could_not:
        pytest.skip(full.could_not)
    run = "outputs/runs/tiny/HASH/"
    left = {name.removeprefix(run) for name in full.changed if name.startswith(run)}
    assert {"train.log", "checkpoints/step-00000002/COMPLETE"} <= left
    assert {name.split("/")[1] for name in left if "checkpoints/" in name} == {"step-00000002"}


def test_training_goes_on_without_the_tracker(lab: Lab) -> None:
    away = lab.outcome(CASES["a server that does not answer"])
    assert "outputs/runs/tiny/HASH/metrics.jsonl" in away.changed
    assert "outputs/runs/tiny/HASH/checkpoints/step-00000004/COMPLETE" in away.changed
    assert away.out.count("does not take what is sent") == 1
    assert "result: eval/loss" in away.out
