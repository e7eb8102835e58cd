"""A case: a command that is refused or fails."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path


def nothing(folder: Path) -> None:
    """Leave the folder as it is."""


@dataclass(frozen=True)
class Case:
    """A command that cannot do what it is asked, and what it has to say."""

    title: str
    command: str  # as typed after `dit-lab`; FOLDER, RUN, SWEEP and PORT are filled in
    says: str  # a regular expression, found in the one line on standard error
    _: KW_ONLY
    start: str = "empty"  # the folder it is typed in: a name in starts.STARTS
    prepare: Callable[[Path], object] = nothing  # what is changed in that folder before
    mount: Mapping[str, str] = field(default_factory=dict)  # folder in it -> options of a tmpfs
    code: int = 2  # 0: it goes on and says the line somewhere; 1: it failed while running
    slow: bool = False  # it is noticed by what needs torch; everything else must not import it
    leaves: tuple[str, ...] = ()  # patterns of the files that it may make, change or remove


heavy = partial(Case, slow=True)


def arguments(case: Case, values: Mapping[str, str]) -> list[str]:
    """The command line of a case, with its words filled in."""
    command = case.command
    for word, value in values.items():
        command = command.replace(word, value)
    return shlex.split(command)
