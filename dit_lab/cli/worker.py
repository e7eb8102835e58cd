"""One of several processes that train together: `python -m dit_lab.cli.worker FOLDER`.

FOLDER/task.json holds the configuration that the command has composed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dit_lab.cli.main import answered


def run(folder: Path) -> int:
    """Train what FOLDER/task.json describes; the exit code."""
    from dit_lab.cli.train import train_or_show
    from dit_lab.processes import end_with_the_parent
    from dit_lab.runs import read_json

    end_with_the_parent()
    task = read_json(folder / "task.json")
    return train_or_show(task["config"], overrides=task["overrides"], tags=task["tags"])


if __name__ == "__main__":
    sys.exit(answered(lambda: run(Path(sys.argv[1]))))
