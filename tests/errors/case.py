"""What a case of the error table is."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


def nothing(folder: Path) -> None:
    """The folder is as it is."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command that cannot do what it is asked, and what it has to say."""

    title: str  # what was wrong, as the page says it
    command: str  # as typed after `dit-lab`; FOLDER, RUN, SWEEP and PORT are filled in
    says: str  # a regular expression, found in the one line on standard error
    start: str = "empty"  # the folder it is typed in: a name in starts.STARTS
    prepare: Callable[[Path], object] = nothing  # what is changed in that folder before
    mount: Mapping[str, str] = field(default_factory=dict)  # folder in it -> options of a tmpfs
    code: int = 2  # 0: it goes on and says the line somewhere; 1: it failed while running
    slow: bool = False  # it is noticed by what needs torch; everything else must not import it
    leaves: tuple[str, ...] = ()  # patterns of the files that it may make, change or remove


def arguments(case: Case, values: Mapping[str, str]) -> list[str]:
    """The command line of a case, with its words filled in."""
    command = case.command
    for word, value in values.items():
        command = command.replace(word, value)
    return shlex.split(command)


@dataclass(frozen=True, kw_only=True)
class Area:
    """Cases under one heading of the page."""

    title: str
    cases: tuple[Case, ...]
