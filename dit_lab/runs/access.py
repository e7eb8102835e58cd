"""Read access to the weights of another user's run. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path

from dit_lab.core.files import Denied, denied
from dit_lab.runs.folder import RunFolder, newest_checkpoint


def refuse_unreadable(given: str, folder: RunFolder, checkpoint: Path | None) -> None:
    """Raise Denied if this user may not read a file of the checkpoint (None: the newest one).

    `given` is how the command names the run, such as `run=RUN`; the message begins with it.
    """
    try:
        chosen = folder.root if folder.is_exported else checkpoint or newest_checkpoint(folder)
        files = [] if chosen is None else [chosen, *chosen.rglob("*")]
        hidden = [file for file in files if not os.access(file, os.R_OK)]
    except PermissionError as error:
        hidden = [Path(error.filename)]
    if hidden:
        raise Denied(f"{given}: {denied(hidden[0])}")
