"""Import weights of another program as a run, for sample, evaluate and init_from.

  dit-lab import DiT-XL-2-256x256.pt --out dit-xl codec.path=sd-vae-ft-ema
  dit-lab import SiT-XL-2-256.pt --out sit-xl objective.time_scale=1
  dit-lab import lightningdit-xl-imagenet256-800ep.pt --out lightning codec.path=va-vae
  dit-lab import dit-diffusers-folder --out imported
  dit-lab import 0400000.pt --out mine --format dit model.num_heads=6

The architecture is inferred from the shapes of the tensors, the objective from the format. All
inferred keys are shown, and KEY=VALUE overrides them. Pickled files are read without executing
code.
"""

from __future__ import annotations

import argparse

from dit_lab.cli.arguments import add_config_dir, path, say_own_choices
from dit_lab.config.checks.machine import check_new
from dit_lab.core.errors import RequestError
from dit_lab.core.text import say

SHOWS_CHOICES = False
FORMATS = ("auto", "dit", "sit", "repa", "lightningdit", "diffusers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=path, metavar="FILE_OR_FOLDER")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    parser.add_argument(
        "--out", type=path, required=True, metavar="RUN", help="the run folder to create"
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="auto", help="the format of the weights"
    )
    add_config_dir(parser)


def run(args: argparse.Namespace) -> int:
    source, out = args.source, args.out.absolute()
    check_new("--out ", out)
    if not source.exists():
        raise RequestError(
            f"{source}: does not exist; give a file of weights or a diffusers folder"
        )
    if source.is_file() and source.stat().st_size == 0:
        raise RequestError(f"{source}: is empty; fetch it again")

    from dit_lab.actions.import_weights import import_weights  # torch: seconds

    made = import_weights(
        source, out, asked=args.format, overrides=args.overrides, config_dirs=args.config_dir
    )
    say_own_choices(args)
    width = max(len(item.key) for item in made.told)
    for item in made.told:
        say(f"  {item.key:<{width}}  {item.value!s:<16} {item.source}")
    if made.skipped:
        say(f"  skipped: {', '.join(made.skipped)}")
    say(f"imported {made.parameters / 1e6:,.1f} million parameters: {made.folder.root}")
    return 0
