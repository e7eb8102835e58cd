"""Output to closed or full destinations, and foreign characters in it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dit_lab.cli.main import main
from dit_lab.config.search_path import own_choices
from tests.conftest import ENVIRONMENT, Command
from tests.errors.lab import ROOT
from tests.errors.starts import class_folders, write

HERE = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
LAB = f"{shlex.quote(sys.executable)} -m dit_lab"
HOSTILE = (
    "[/b]",
    "[red]cats[/red]",
    "\x1b[31mred",
    "a\nb",
    "<script>",
    "a|b",
    "\u202eback",
    ":dog:",
)


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = f"set -o pipefail; {line}"
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=HERE, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f"{LAB} experiments | head -1", 0),
        (f"{LAB} experiments quickstart | head -1", 0),  # a table of Rich's
        (f"{LAB} experiments >&-", 0),
        (f"{LAB} experiments quickstart >&-", 0),
        (f"{LAB} --help >&-", 0),
        (f"{LAB} trainn 2>&- >&- <&-", 2),
        (f"{LAB} experiments >/dev/full", 1),
    ],
)
def test_no_output_is_no_traceback(line: str, code: int, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert len(done.stderr.splitlines()) == (1 if code == 1 else 0)


def test_what_is_written_is_not_put_into_a_file_of_the_lab(tmp_path: Path) -> None:
    """A file that is opened takes the number of a stream that is closed."""
    line = f"{LAB} check dataset=image_folder dataset.root=images dataset.image_size=8 out=out.json"
    class_folders(tmp_path)
    assert shell(f"{line} >&-", tmp_path).returncode == 0
    first = (tmp_path / "out.json").read_text()
    assert shell(line, tmp_path).returncode == 0
    assert (tmp_path / "out.json").read_text() == first


def test_letters_that_a_terminal_lacks(tmp_path: Path) -> None:
    done = shell(f"PYTHONIOENCODING=ascii {LAB} experiments quickstart", tmp_path)
    assert done.returncode == 0
    assert r"\xb1" in done.stdout


def test_class_names_are_shown_as_they_are(tmp_path: Path, command_in: Command) -> None:
    """In a table of Rich's and in plain lines, by commands that read class folders."""
    names = [name for name in HOSTILE if "/" not in name]
    for name in names:
        for number in range(3):
            class_folders(tmp_path / "made", classes=1, each=1)
            write(
                f"images/{name}/{number}.png",
                (tmp_path / "made/images/0/0.png").read_bytes(),
                tmp_path,
            )
    data = ["dataset=image_folder", "dataset.root=images", "dataset.image_size=8"]
    given = ["codec=identity", "model=pico", "--flops-per-second", "1e12"]
    done = command_in(tmp_path, "describe", *data, *given)
    assert done.returncode == 0, done.stderr
    found = " ".join(done.stdout.split())
    for shown in (r"\x1b[31mred", r"a\nb", "<script>", "a|b", r"\u202eback", ":dog:"):
        assert shown in found
    assert "\x1b" not in done.stdout
    done = command_in(tmp_path, "check", *data)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and r"images/\x1b[31mred" in done.stdout


def test_tables_interpret_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    from dit_lab.tracking.screen import Screen, pairs, styled, table

    screen = Screen()
    for text in HOSTILE:
        screen.print(text)
        screen.print(styled(text, "bold"))
        screen.print(table([text, "number"], [(text, styled(text, "dim"))], left=[True, False]))
        screen.print(pairs([(text, text)]))
    lines = capsys.readouterr().out
    assert "\x1b" not in lines and "\u202e" not in lines
    for shown in ("[/b]", "[red]cats[/red]", r"\x1b[31mred", r"a\nb", ":dog:"):
        assert lines.count(shown) == 7


def test_a_printed_command_can_be_pasted(tmp_path: Path) -> None:
    """From a folder whose name a shell and Hydra both read otherwise."""
    from dit_lab.config.overrides import option
    from dit_lab.core.text import key_value, shell_line

    root = tmp_path / "bob's lab, [1] $(x)"
    line = shell_line("dit-lab", "ui", key_value("paths.root", root))
    done = shell(f"printf '%s\\n' {line.removeprefix('dit-lab ')}", tmp_path)
    assert option(done.stdout.splitlines(), "paths.root") == str(root)


def test_groups_of_a_folder_with_a_quote(tmp_path: Path, command_in: Command) -> None:
    folder = tmp_path / "bob's lab"
    write("conf/model/mine.yaml", "defaults: [pico]\ndepth: 1\n", folder)
    done = command_in(folder, "train", "experiment=quickstart", "model=mine", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "depth: 1" in done.stdout and done.stderr == ""


def test_groups_of_the_current_folder_are_said(tmp_path: Path, command_in: Command) -> None:
    write("conf/model/mine.yaml", "defaults: [pico]\ndepth: 1\n", tmp_path)
    write("conf/model/s.yaml", "defaults: [pico]\ndepth: 1\n", tmp_path)
    quickstart = (ROOT / "experiments/quickstart/recipe.yaml").read_text()
    write("experiments/quickstart/recipe.yaml", quickstart, tmp_path)
    describe = ["describe", "experiment=quickstart", "--flops-per-second", "1e12"]
    done = command_in(tmp_path, *describe, "model=mine")
    assert done.returncode == 0
    assert done.stderr == (
        "dit-lab: using conf/ of this folder: adds model=mine; replaces model=s of the lab; "
        "experiments/ of this folder replaces quickstart of the lab\n"
    )
    assert command_in(ROOT, *describe).stderr == ""
    refused = command_in(tmp_path, *describe, "model=mine", "seed=-1")
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1


def test_help_lists_what_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Groups with two members or one of the user's own; folders that are no group are not."""

    def listed() -> dict[str, str]:
        assert main(["--help"]) == 0
        _, _, text = capsys.readouterr().out.partition("config groups and their members:\n")
        lines = text.partition("\n\n")[0].splitlines()
        return {
            group.strip(): names.strip() for group, _, names in (t.partition("=") for t in lines)
        }

    monkeypatch.chdir(tmp_path)
    labs = listed()
    assert "hook" not in labs and "evaluation" not in labs
    for group in ("hook", "evaluation", "samplers"):
        write(f"conf/{group}/mine.yaml", "_target_: mylab.Mine\n", tmp_path)
    found = listed()
    assert found == {**labs, "hook": "mine", "evaluation": "default, mine"}
    assert own_choices() == (
        "using conf/ of this folder: adds evaluation=mine, hook=mine; ignores samplers (no such "
        "group)"
    )
    assert main(["train", "samplers=mine"]) == 2
    assert "no such group or key; did you mean sampler=NAME?" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes there")
def test_mlflow_keeps_runs_in_folders_with_odd_names(tmp_path: Path) -> None:
    from dit_lab.core import trust
    from dit_lab.core.text import store_uri
    from dit_lab.tracking.mlflow_store import open_client, prepare_store

    root = tmp_path / "a b#c;d@e'f\"g%h [ä]"
    uri = trust.trust_store(store_uri(root / "mlflow.db"))
    experiment = prepare_store(uri, experiment="e", artifact_root=root / "mlartifacts")
    client = open_client(uri)
    run = client.create_run(experiment).info.run_id
    client.log_artifact(run, __file__)
    assert [found.path for found in client.list_artifacts(run)] == [Path(__file__).name]
    assert list(root.glob(f"mlartifacts/{run}/artifacts/*")) != []
    assert [path.name for path in tmp_path.iterdir()] == [root.name]
