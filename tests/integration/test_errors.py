"""Every refusal by the real command: one line, exit code, no files left, no slow imports.

The cases are data in tests/errors. Each runs in its own folder and in its own process, forked from
one that has done the imports; some also run as a new process and are compared. Cases that need
torch are in test_errors_of_runs.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.errors.cases import CASES
from tests.errors.lab import Lab
from tests.errors.sites import LIBRARY_ONLY, sites

TYPED = (
    "no such key",
    "a command of the system, in your own file",
    "`torch.load` as the recorded codec: evaluate",
    "a changed byte, in the newest checkpoint: sample",
    "an objective that fails while it trains",
)


@pytest.mark.parametrize("title", [title for title, case in CASES.items() if not case.slow])
def test_said_in_one_line(title: str, lab: Lab) -> None:
    outcome = lab.outcome(CASES[title])
    if outcome.could_not:
        pytest.skip(outcome.could_not)
    outcome.check(CASES[title])


@pytest.mark.parametrize("title", TYPED)
def test_typed_as_people_do(title: str, lab: Lab) -> None:
    case = CASES[title]
    expected, found = lab.outcome(case), lab.typed(case)
    assert (found.code, found.err) == (expected.code, expected.err)


@pytest.mark.parametrize("key", ["training.compile", "sample.compile"])
def test_compiled_blocks_without_a_compiler(key: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dit_lab", "train", "experiment=quickstart", f"{key}=true"],
        cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"dit-lab: {key}=true: torch.compile needs a C++ compiler")


def test_help_imports_nothing_slow(tmp_path: Path) -> None:
    code = (
        "import sys; from dit_lab.cli.main import main; main(['--help']); "
        "print([n for n in ('torch','hydra','omegaconf','rich','mlflow','numpy') "
        "if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    verbs = ("train", "sample", "evaluate", "describe", "experiments", "ui", "doctor")
    for word in (*verbs, "quickstart", "rectified_flow"):
        assert word in done.stdout


@pytest.mark.timeout(900)
def test_every_refusal_in_the_package_is_a_case(lab: Lab) -> None:
    """From the last to the first: what another process types meanwhile is not typed here."""
    outcomes = [lab.outcome(case) for case in reversed(CASES.values())]
    if any(outcome.could_not for outcome in outcomes):
        pytest.skip("some cases cannot be run on this machine")
    made = {tuple(place) for outcome in outcomes for place in outcome.raised}
    unreached = [site for site in sites() if not any(site.made(*place) for place in made)]
    left = [str(site) for site in unreached if not site.is_for_the_library]
    assert not left, "\n".join(left)
    excuses = sum(len(places) for places in LIBRARY_ONLY.values())
    assert sum(site.is_for_the_library for site in unreached) == excuses  # none is stale
