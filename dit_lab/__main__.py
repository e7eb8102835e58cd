"""Entry point of `python -m dit_lab`, which is the same as `dit-lab`."""

import os
import sys

if sys.path and sys.path[0] in ("", os.getcwd()):  # -m puts it before the standard library
    sys.path.append(sys.path.pop(0))

from dit_lab.cli.main import command

if __name__ == "__main__":
    command()
