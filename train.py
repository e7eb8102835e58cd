"""python train.py == dit-lab train."""

import sys

from dit_lab.cli.main import end, main

if __name__ == "__main__":
    end(main(["train", *sys.argv[1:]]))
