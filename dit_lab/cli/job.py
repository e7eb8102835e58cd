"""One job of a sweep, in a process of its own: `python -m dit_lab.cli.job FOLDER`.

The sweep starts it with the configuration that it composed, so that nothing is composed twice.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from dit_lab.cli.main import answered, end


def run(folder: Path) -> int:
    """Train what FOLDER/config.json describes, and measure it as that asks; the exit code."""
    from dit_lab.cli.train import work
    from dit_lab.core.processes import end_with_the_parent
    from dit_lab.lab.job import measure, read_task
    from dit_lab.training.stop import StopSignal

    end_with_the_parent()
    task = read_task(folder)
    code = work(task.config, overrides=task.job.overrides, tags=task.tags)
    if code == 0:
        with StopSignal() as stop:
            measure(task, check_stop=stop.check, on_message=partial(print, flush=True))
    return code


if __name__ == "__main__":
    end(answered(lambda: run(Path(sys.argv[1]))))
