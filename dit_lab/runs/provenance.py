"""Where a number comes from: the versions, the machine and the commit it was made with."""

from __future__ import annotations

import platform
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


def provenance() -> dict[str, str]:
    """Tags for a tracked run; the commit only where the command is typed in a checkout."""
    import torch  # seconds

    return {
        "dit_lab.host": platform.node(),
        "dit_lab.device": device_name(),
        "dit_lab.num_threads": str(torch.get_num_threads()),
        **{f"version.{name}": number for name, number in versions().items()},
        **_git(),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def device_name() -> str:
    """The GPU's name, or the processor's architecture."""
    import torch  # seconds

    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()


def _git() -> dict[str, str]:
    commit = _ask_git("rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"git.commit": commit, "git.dirty": str(bool(_ask_git("status", "--porcelain"))).lower()}


def _ask_git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
