"""One of several processes that encode together: `python -m dit_lab.cli.encode_part FOLDER`.

FOLDER/task.json holds the configuration that the command has composed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dit_lab.cli.main import answered, end


def run(folder: Path) -> int:
    """Encode what nobody else encodes; the exit code."""
    from dit_lab.cli.encode import encode
    from dit_lab.core.processes import end_with_the_parent
    from dit_lab.lab.data_checks import read_facts
    from dit_lab.runs.folder import read_json

    end_with_the_parent()
    config = read_json(folder / "task.json")
    return encode(config, read_facts(config))


if __name__ == "__main__":
    end(answered(lambda: run(Path(sys.argv[1]))))
