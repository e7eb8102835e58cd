"""Provenance of results: a repository's configuration is never executed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dit_lab.runs.provenance import provenance

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")

Configure = Callable[[Path, Path], None]


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def repository(folder: Path) -> Path:
    """A checkout with a committed file of each kind."""
    folder.mkdir()
    git(folder, "init", "--quiet")
    for name in ("a.py", "b.bin", "c.txt"):
        (folder / name).write_text("one\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def touched(folder: Path) -> None:
    """Git has to look into the files again: they are newer than its index."""
    for file in folder.glob("[a-z]*.*"):
        file.write_text(file.read_text())


# ---- what a repository can configure -------------------------------------------------------------


def fsmonitor(folder: Path, marker: Path) -> None:
    git(folder, "config", "core.fsmonitor", f"touch {marker}; false")


def hook(folder: Path, marker: Path) -> None:
    program = folder / ".git/hooks/post-index-change"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    touched(folder)


def hooks_elsewhere(folder: Path, marker: Path) -> None:
    hook(folder, marker)
    (folder / ".git/hooks").rename(folder / ".git/others")
    git(folder, "config", "core.hooksPath", ".git/others")


def filtered(name: str, key: str = "clean") -> Configure:
    def configure(folder: Path, marker: Path) -> None:
        (folder / ".git/info/attributes").write_text(f'"*.bin" filter={name}\n')
        git(folder, "config", f"filter.{name}.{key}", f"touch {marker}; cat")
        git(folder, "config", f"filter.{name}.required", "true")
        touched(folder)

    return configure


def included(folder: Path, marker: Path) -> None:
    """The filter is in a file that the configuration includes."""
    filtered("x")(folder, marker)
    (folder / ".git/config").rename(folder / ".git/more")
    (folder / ".git/config").write_text("[include]\n\tpath = more\n")


def in_a_submodule(folder: Path, marker: Path) -> None:
    other = repository(folder.parent / "other")
    git(folder, "submodule", "--quiet", "add", str(other), "part")
    git(folder, "commit", "--quiet", "-m", "second")
    fsmonitor(folder / "part", marker)


def missing_objects(folder: Path, marker: Path) -> None:
    """A partial clone: what is missing is fetched by the command that the configuration names."""
    git(folder, "config", "extensions.partialClone", "origin")
    git(folder, "config", "core.repositoryFormatVersion", "1")
    git(folder, "config", "remote.origin.url", "ssh://nowhere.invalid/x")
    git(folder, "config", "remote.origin.promisor", "true")
    git(folder, "config", "core.sshCommand", f"touch {marker}; false")
    tree = git(folder, "rev-parse", "HEAD^{tree}")
    (folder / ".git/objects" / tree[:2] / tree[2:]).unlink()


WAYS: dict[str, Configure] = {
    "fsmonitor": fsmonitor,
    "hook": hook,
    "hooks elsewhere": hooks_elsewhere,
    "clean filter": filtered("x"),
    "process filter": filtered("x", "process"),
    "name with dots": filtered("a.b.clean"),
    "name in capitals": filtered("ABC"),
    "name with =": filtered("a=b"),
    "included": included,
    "submodule": in_a_submodule,
    "missing objects": missing_objects,
}
UNKNOWN = ("name with =", "missing objects")  # whether files differ is not said then


@pytest.fixture
def tags(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, str]]:
    def read(folder: Path) -> dict[str, str]:
        monkeypatch.chdir(folder)
        return {key: value for key, value in provenance().items() if key.startswith("git.")}

    return read


@pytest.mark.parametrize("way", WAYS)
def test_nothing_configured_is_run(
    tmp_path: Path, tags: Callable[[Path], dict[str, str]], way: str
) -> None:
    folder, marker = repository(tmp_path / "checkout"), tmp_path / "was-run"
    WAYS[way](folder, marker)
    marker.unlink(missing_ok=True)  # of preparing it
    commit = git(folder, "rev-parse", "HEAD")
    clean = tags(folder)
    assert not marker.exists()
    if way in UNKNOWN:
        assert clean == {"git.commit": commit}
    else:
        assert clean == {"git.commit": commit, "git.dirty": "false"}
        (folder / "a.py").write_text("two\n")
        assert tags(folder) == {"git.commit": commit, "git.dirty": "true"}
    assert not marker.exists()
    touched(folder)
    subprocess.run(["git", "status", "--porcelain"], cwd=folder, check=False, capture_output=True)
    assert marker.exists(), "git as it is runs nothing of this either"


def test_files_that_are_new_or_gone_are_changes(
    tmp_path: Path, tags: Callable[[Path], dict[str, str]]
) -> None:
    folder = repository(tmp_path / "checkout")
    assert tags(folder)["git.dirty"] == "false"
    (folder / "new.py").write_text("")
    assert tags(folder)["git.dirty"] == "true"
    (folder / "new.py").unlink()
    (folder / "c.txt").unlink()
    assert tags(folder)["git.dirty"] == "true"


def test_no_checkout_has_no_tags(tmp_path: Path, tags: Callable[[Path], dict[str, str]]) -> None:
    assert tags(tmp_path) == {}
