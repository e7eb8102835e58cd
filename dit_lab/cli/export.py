"""Export the weights of a run as one file, or in the format of another program.

  dit-lab export RUN model.safetensors                   one file, a RUN for sample and init_from
  dit-lab export RUN DiT-mine.pt --format dit             for the original code of DiT
  dit-lab export RUN SiT-mine.pt --format sit             for the original code of SiT
  dit-lab export RUN lightning.pt --format lightningdit   for the original code of LightningDiT
  dit-lab export RUN folder --format diffusers            a pipeline folder with pipeline.py
  dit-lab export RUN digits --format mlflow --register    a model `digits` in MLflow's registry

RUN is a run folder, one of its checkpoint folders, an exported file, or the id of its MLflow run.
A model that the format cannot represent is an error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dit_lab.cli.arguments import path
from dit_lab.config.checks.machine import check_new
from dit_lab.config.recorded import root_of
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.text import say, shell_line
from dit_lab.runs.access import refuse_unreadable
from dit_lab.runs.finding import find_run
from dit_lab.tracking.addresses import check_uri, shown

ENDINGS = {
    "safetensors": (".safetensors",),
    "dit": (".pt", ".safetensors"),
    "sit": (".pt", ".safetensors"),
    "lightningdit": (".pt", ".safetensors"),
    "diffusers": ("",),
    "mlflow": (),
}
"""Format -> allowed file endings of OUT; () if OUT is the name of an MLflow model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("out", type=path, metavar="OUT")
    parser.add_argument(
        "--format", choices=ENDINGS, default="safetensors", help="the format of OUT"
    )
    parser.add_argument(
        "--weights",
        default="ema",
        metavar="W",
        help="weights to export: ema, ema:0.9999, raw or power:0.1",
    )
    parser.add_argument(
        "--root",
        type=path,
        default=Path("outputs"),
        help="paths.root, where the id of an MLflow run is looked up",
    )
    parser.add_argument(
        "--uri", metavar="URI", help="MLflow store for --format mlflow (default that of the run)"
    )
    parser.add_argument(
        "--register",
        action="store_true",
        help="register it in MLflow's registry, as a version of OUT",
    )


def run(args: argparse.Namespace) -> int:
    out = args.out.absolute()
    if args.uri is not None:
        args.uri = trust.trust_store(args.uri)
        check_uri(args.uri)
    for option, given in (("--uri", args.uri), ("--register", args.register)):
        if given and args.format != "mlflow":
            raise RequestError(f"{option}: is for --format mlflow, not {args.format}")
    if args.format != "mlflow":
        _check_out(out, args.format)
    folder, checkpoint = find_run(args.run, root=args.root)
    refuse_unreadable(f"run={args.run}", folder, checkpoint)
    trust.trust_own_store(root_of(folder))

    from dit_lab.actions.export import Export  # torch: seconds

    export = Export(args.run, root=args.root, weights=args.weights)
    if args.format == "mlflow":
        address = export.to_mlflow(str(args.out), uri=args.uri, register=args.register)
        uri = args.uri or export.config.tracking.uri
        say(f"{'registered' if args.register else 'logged'} {export.told}: {address}")
        say(
            f"to serve it: MLFLOW_TRACKING_URI={shell_line(shown(uri))} "
            f"{shell_line('mlflow', 'models', 'serve', '-m', address)} "
            "--env-manager local --host 127.0.0.1 --port 5001"
        )
        return 0
    if args.format == "safetensors":
        export.to_safetensors(out)
    elif args.format == "diffusers":
        export.to_diffusers(out)
    else:
        export.to_original(out, args.format)
    say(f"exported {export.told}: {out}")
    return 0


def _check_out(out: Path, form: str) -> None:
    """Raise RequestError if OUT cannot be written, before anything is read."""
    endings = ENDINGS[form]
    if out.suffix not in endings:
        expected = " or ".join(f"NAME{ending}" for ending in endings)
        raise RequestError(f"OUT {out}: --format {form} writes {expected or 'a folder'}")
    check_new("OUT ", out)
