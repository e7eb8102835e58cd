"""python -m dit_lab == dit-lab."""

import os
import sys

if sys.path and sys.path[0] in ("", os.getcwd()):  # put there by -m, before the standard library
    sys.path.append(sys.path.pop(0))

from dit_lab.cli.main import command

if __name__ == "__main__":
    command()
