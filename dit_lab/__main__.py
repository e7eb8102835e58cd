"""python -m dit_lab == dit-lab."""

import sys

from dit_lab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
