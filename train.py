"""Same as `dit-lab train`."""

import sys

from dit_lab.cli.main import command

if __name__ == "__main__":
    command(["train", *sys.argv[1:]])
