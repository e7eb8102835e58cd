"""Commands in `--help` and documents are valid, their configs compose, and links resolve."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dit_lab.cli import main
from dit_lab.config.axes import asks_for_sweep
from dit_lab.config.checks.training import check_settings
from dit_lab.config.compose import compose_train
from dit_lab.core import trust
from dit_lab.reproduce.experiment import find_experiment
from dit_lab.sweeps.plan import plan_sweep

TRAINED = {"train", "describe", "bench"}
"""Verbs whose KEY=VALUE compose a training."""

UNKNOWN = re.compile(
    r"resume=|init_from=|NAME|RUN|FOLDER|HASH|hydra[/.]|beta2|config-dir|--key|trusted_modules"
)
"""What needs a run, a part of the reader's own or an extra."""

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "experiments/README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> list[str]:
    """Every command of the help texts, without what is said of it."""
    lines = [
        line.strip()
        for verb in main.VERBS
        for line in (main.module_of(verb).__doc__ or "").splitlines()
    ]
    shown = [re.split(r"  +", line)[0] for line in lines if line.startswith("dit-lab ")]
    return sorted(set(shown))


def of_documents() -> list[str]:
    """Return complete commands in code blocks of documents: without `...` or alternatives."""
    found = set()
    for page in PAGES:
        if page.name in ("extend.md", "first-comparison.md"):  # whose commands are run, with files
            continue
        for block in re.findall(
            r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M
        ):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["dit-lab"] and not re.search(r"\.\.\.|\w\|\w|\[-", line):
                    found.add(shlex.join(words))
    return sorted(found - set(commands()))


def test_every_verb_shows_how_it_is_typed() -> None:
    assert {command.split()[1] for command in commands()} == set(main.VERBS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in map(_anchor, titles), target


def _anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("command", [*commands(), *of_documents()])
def test_a_command_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments are valid, training configs compose and pass the checks, and sweeps are planned.

    Data are checked if they are available.
    """
    monkeypatch.chdir(tmp_path)
    _, verb, *words = shlex.split(command.replace("...", ""))
    given = main.parser_of(verb).parse_intermixed_args(trust.grant_from_arguments(words))
    if verb == "reproduce":
        assert find_experiment(given.experiment, given.overrides, num_seeds=given.seeds).configs
    elif verb in TRAINED and not UNKNOWN.search(command):
        overrides = [text for text in given.overrides if text != "official"]
        if getattr(given, "multirun", False):
            assert len(plan_sweep(overrides).manifest.jobs) > 1
        elif not asks_for_sweep(overrides):
            check_settings(compose_train(overrides))
