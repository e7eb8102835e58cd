"""Descriptions of runs on MLflow's page: the user's own text, and below it the lab's.

Text that somebody enters on the page above the line is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dit_lab.runs.folder import RunFolder, read_status, read_tracked
from dit_lab.runs.records import Summary
from dit_lab.tracking.console import LEADING
from dit_lab.tracking.mlflow_page import place_of
from dit_lab.tracking.mlflow_store import TAG_CHARACTERS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NOTE = "mlflow.note.content"  # what MLflow's page shows as the description
COMMAND = "dit_lab.command"

LINE = "[//]: # (DiT Lab writes below this line)"  # a comment, which the page does not show
OWN_CHARACTERS = 3000  # of the user's text
COMMAND_CHARACTERS = 1000
ROOM = TAG_CHARACTERS - OWN_CHARACTERS - COMMAND_CHARACTERS - 100  # for a sweep's answer and table
MOST_NUMBERS = 12
OF_SAMPLES = re.compile(r"eval/\w+_n\d+")


def described(known: str, own: str, facts: str) -> str:
    """Return the description with new facts below the user's text.

    That is `own`, or else the text above the line in the `known` description.
    """
    words = (own or known.partition(LINE)[0]).strip()
    parts = [words[:OWN_CHARACTERS], f"{LINE}\n\n{facts}"]
    return "\n\n".join(filter(None, parts))[:TAG_CHARACTERS]


def describe(client: MlflowClient, run: Run, facts: str, *, own: str = "") -> None:
    """Write the description of a run if it has changed."""
    known = run.data.tags.get(NOTE, "")
    if (text := described(known, own, facts)) != known:
        client.set_tag(run.info.run_id, NOTE, text)


# ---- a training ---------------------------------------------------------------------------------


def describe_run(client: MlflowClient, run: Run, folder: RunFolder, *, anew: bool = False) -> None:
    """Describe a run by its results so far and the command that trains it.

    `anew` says that a command begins or resumes the run; its `note` then replaces the user's text.
    """
    told, results = read_tracked(folder), read_status(folder).get("results")
    own = told.get("note", "") if anew or NOTE not in run.data.tags else ""
    describe(client, run, facts_of(told.get("tags", {}), results or {}), own=own)


def facts_of(tags: Mapping[str, str], results: Mapping[str, float]) -> str:
    """Return the main metrics and the command of a run, as Markdown."""
    rows = "\n".join(f"| {name} | {value:.5g} |" for name, value in _main(results).items())
    table = f"| metric | value |\n| :-- | --: |\n{rows}" if rows else ""
    return "\n\n".join(filter(None, [table, command_of(tags)]))


def command_of(tags: Mapping[str, str]) -> str:
    """Return the command of a run or a sweep, to be pasted into a shell; "" if it is unknown."""
    command = tags.get(COMMAND, "")
    if not command or "```" in command:
        return ""
    cut = command[:COMMAND_CHARACTERS] + (" ..." if len(command) > COMMAND_CHARACTERS else "")
    return f"```\n{cut}\n```"


def _main(results: Mapping[str, float]) -> dict[str, float]:
    """Return the losses of evaluations, and the main metrics of samples."""
    measured = [name for name in results if name.startswith("eval")]
    names = [name for name in measured if not OF_SAMPLES.fullmatch(name) or LEADING.match(name)]
    return {name: results[name] for name in sorted(names)[:MOST_NUMBERS]}


# ---- a sweep ------------------------------------------------------------------------------------


def facts_of_sweep(summary: Summary, run: Run, files: Sequence[Path]) -> str:
    """Return the answer of a report, links to its files, and as many rows of its table as fit."""
    info = run.info
    places = {
        file.name: place_of(info.experiment_id, info.run_id, "artifacts", "report", file.name)
        for file in files
        if file.suffix in (".html", ".md", ".csv")
    }
    links = " · ".join(f"[{name}]({place.lstrip('/')})" for name, place in places.items())
    headings, rows = summary["table"][:2], summary["table"][2:]
    text = "\n\n".join([*summary["answer"], links, "\n".join(headings)])
    for number, row in enumerate(rows):
        rest = f"\n\n{len(rows) - number} more in the report."
        if len(text) + len(row) + len(rest) > ROOM:
            return text + rest
        text += f"\n{row}"
    return text
