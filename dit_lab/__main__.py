"""python -m dit_lab == dit-lab."""

from dit_lab.cli.main import command

if __name__ == "__main__":
    command()
