"""docs/first-comparison.md does what it says: its programs run, its commands answer as printed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dit_lab.config.checks.training import check_settings
from dit_lab.config.compose import compose_train
from dit_lab.sweeps.plan import plan_sweep
from tests.conftest import Command

PAGE = (Path(__file__).parents[2] / "docs/first-comparison.md").read_text(encoding="utf-8")
MARKED = re.findall(r"<!-- (file|run): (\S+) -->\n```\w+\n(.*?)```", PAGE, flags=re.DOTALL)
FILES = {name: text for kind, name, text in MARKED if kind == "file"}
TYPED = {name: shlex.split(text)[1:] for kind, name, text in MARKED if kind == "run"}


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader's folder, with all files of the page and the pictures."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    exec(compile(FILES["pictures.py"], "pictures.py", "exec"), {})
    return tmp_path


def test_the_pictures_and_the_commands_are_as_described(pictures: Path) -> None:
    assert len(list(pictures.glob("pictures/*/*.png"))) == 1797
    check_settings(compose_train(TYPED["describe"][1:]))
    assert len(plan_sweep(TYPED["train"][2:]).manifest.jobs) == 6


@pytest.mark.slow
def test_the_page_from_top_to_bottom(pictures: Path, command_in: Command) -> None:
    """With few steps: what is described, trained, compared, drawn and plotted."""
    described = command_in(pictures, *TYPED["describe"]).stdout
    (shown,) = re.findall(r"```\n(data  .*?)```", PAGE, flags=re.DOTALL)
    lines = [" ".join(line.split()) for line in described.splitlines()]
    assert [" ".join(line.split()) for line in shown.splitlines()] == lines[:4]

    few = ["training.total_steps=4", "evaluation.num_images=50", "tracking=none"]
    done = command_in(pictures, *TYPED["train"], *few)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^report: .*report\.html$", done.stdout, re.MULTILINE)

    for program, figure in (("grid.py", "grid.png"), ("curves.py", "curves.png")):
        subprocess.run([sys.executable, program], cwd=pictures, check=True, timeout=120)
        assert (pictures / figure).stat().st_size > 5000
