"""Logging of the warnings of libraries to train.log instead of the terminal. Torch-free."""

from __future__ import annotations

import logging
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_log = logging.getLogger("dit_lab")
_PACKAGES = ("site-packages", "dist-packages")
_HERE = Path(__file__).parents[1]


@contextmanager
def library_warnings_logged() -> Iterator[None]:
    """Context in which warnings of the package and of libraries are logged instead of shown.

    Warnings from files of the user are still shown. Nothing changes if the interpreter was started
    with `-W` or PYTHONWARNINGS.
    """
    if sys.warnoptions:
        yield
        return
    with warnings.catch_warnings():
        show = warnings.showwarning

        def log(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if _is_own(Path(filename)):
                show(message, category, filename, lineno, file, line)
            else:
                _log.info("%s: %s", category.__name__, " ".join(str(message).split()))

        warnings.showwarning = log
        yield


def _is_own(file: Path) -> bool:
    """Return whether a file belongs to the user: neither to this package nor to a library."""
    libraries = (_HERE, Path(sysconfig.get_paths()["stdlib"]))
    packaged = any(name in file.parts for name in _PACKAGES)
    return not packaged and not any(file.is_relative_to(folder) for folder in libraries)
