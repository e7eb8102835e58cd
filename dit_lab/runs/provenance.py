"""Provenance of results: package versions, machine and git commit."""

from __future__ import annotations

import getpass
import os
import platform
import re
import subprocess
from importlib.metadata import version

PACKAGES = (
    "dit-lab",
    "torch",
    "accelerate",
    "diffusers",
    "mlflow",
    "hydra-core",
    "numpy",
    "scikit-learn",
)

NOTHING_RUN = ("--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
"""Options that disable programs that a repository's git config would start; filters are disabled
one by one (`_no_filters`)."""

UNASKED = ("--untracked-files=normal", "--ignore-submodules=dirty", "--no-renames")
"""Options of `git status` that run nothing in submodules and skip the search for renamed files."""

NOTHING_FETCHED = {
    "GIT_OPTIONAL_LOCKS": "0",  # the index is not rewritten either
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_TERMINAL_PROMPT": "0",
}

_FILTER = re.compile(r"(filter\..*)\.\w+", re.DOTALL)


def provenance() -> dict[str, str]:
    """Return the tags of a tracked run; with a commit if the working directory is a checkout."""
    import torch  # seconds

    return {
        "dit_lab.host": platform.node(),
        "dit_lab.device": device_name(),
        "dit_lab.num_threads": str(torch.get_num_threads()),
        **{f"version.{name}": number for name, number in versions().items()},
        **origin(),
    }


def origin() -> dict[str, str]:
    """Return the tags of user and commit for a tracked run or sweep, by MLflow's own names."""
    user = _user()
    return {
        "mlflow.source.name": "dit-lab",
        "mlflow.source.type": "LOCAL",
        **({"mlflow.user": user} if user else {}),
        **_git(),
    }


def _user() -> str:
    """Return the name of the user, or "" if the system has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user id without a name, as in some containers
        return ""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def device_name() -> str:
    """Return the name of the GPU, or else the architecture of the CPU."""
    import torch  # seconds

    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()


def _git() -> dict[str, str]:
    """Return the tags of the commit and of uncommitted changes; {} outside of a checkout."""
    commit, filters = _ask_git("rev-parse", "HEAD"), _no_filters()
    if commit is None:
        return {}
    changes = None
    if filters is not None:
        changes = _ask_git(*filters, "status", "--porcelain", *UNASKED)
    if changes is None:
        return {"git.commit": commit, "mlflow.source.git.commit": commit}
    dirty = str(bool(changes)).lower()
    return {
        "git.commit": commit,
        "git.dirty": dirty,
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.dirty": dirty,
    }


def _no_filters() -> list[str] | None:
    """Return git options that disable all configured filters, or None if that is impossible.

    Without filters, a file that a filter converts counts as changed once its timestamp differs.
    """
    names = _ask_git("config", "--list", "--null", "--name-only")
    if names is None:
        return None
    found = {match[1] for name in names.split("\0") if (match := _FILTER.fullmatch(name))}
    if any("=" in name for name in found):
        return None
    off = [f"{name}.{key}=" for name in sorted(found) for key in ("clean", "smudge", "process")]
    off += [f"{name}.required=false" for name in sorted(found)]
    return [word for setting in off for word in ("-c", setting)]


def _ask_git(*arguments: str) -> str | None:
    """Return git's output, or None if it fails; runs no program that the repository configures."""
    try:
        done = subprocess.run(
            ["git", *NOTHING_RUN, *arguments],
            env={**os.environ, **NOTHING_FETCHED},
            capture_output=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return os.fsdecode(done.stdout).strip()
