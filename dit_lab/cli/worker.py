"""One of several processes that work together: `python -m dit_lab.cli.worker FOLDER`.

FOLDER/task.json says what: {"verb": ..., "config": ..., and what else the verb was given}. The verb
is a module of this package, which has a function `work`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from dit_lab.cli.main import answered, end


def run(folder: Path) -> int:
    """Do what FOLDER/task.json describes; the exit code."""
    from dit_lab.core.processes import end_with_the_parent
    from dit_lab.runs.folder import read_json

    end_with_the_parent()
    task = read_json(folder / "task.json")
    verb = importlib.import_module(f"dit_lab.cli.{task.pop('verb')}")
    return verb.work(**task)


if __name__ == "__main__":
    end(answered(lambda: run(Path(sys.argv[1]))))
