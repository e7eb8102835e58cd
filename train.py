"""python train.py == dit-lab train."""

import sys

from dit_lab.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
