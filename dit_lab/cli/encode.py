"""Encode a dataset into latents, which `dataset=latents` reads for training.

  dit-lab encode dataset.root=imagenet_dataset codec.path=sd-vae-ft-ema out=latents
  dit-lab encode dataset=image_folder dataset.root=photos dataset.image_size=256 out=latents
  dit-lab encode --verify latents
  dit-lab train dataset=latents dataset.root=latents codec.path=sd-vae-ft-ema

After an interruption, the same command resumes. It may run on several machines at once that share
the folder. docs/data.md has sizes and times.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dit_lab.actions.workers import run_together
from dit_lab.cli.arguments import add_config_dir, path, say_own_choices
from dit_lab.config.checks.data import check_encoding, encoded_facts
from dit_lab.config.checks.machine import check_folder
from dit_lab.config.compose import compose_data
from dit_lab.config.objects import to_tree
from dit_lab.config.schema import EncodeConfig
from dit_lab.core.errors import RequestError, StopRequested
from dit_lab.core.processes import threads_each
from dit_lab.core.text import counted, say
from dit_lab.data.latent_facts import FACTS, read_manifest
from dit_lab.runs.folder import write_json
from dit_lab.training.stop import StopSignal

if TYPE_CHECKING:
    from dit_lab.core.types import DataFacts

CONFIG = EncodeConfig
SHOWS_CHOICES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    parser.add_argument(
        "--verify", type=path, metavar="FOLDER", help="check the checksums of all shards"
    )
    add_config_dir(parser)


def run(args: argparse.Namespace) -> int:
    if args.verify:
        if args.overrides:
            raise RequestError(f"--verify {args.verify}: takes no {args.overrides[0]}")
        return _verify(args.verify)

    config = compose_data(EncodeConfig, args.overrides, config_dirs=args.config_dir)
    facts = check_encoding(config)
    out = Path(config.out)
    if (data := getattr(config.dataset, "root", None)) and out.is_relative_to(data):
        raise RequestError(f"out={out}: lies inside dataset.root={data}; choose another folder")
    check_folder("out", out)
    say_own_choices(args)
    try:
        code = _encode_together(config) if config.num_processes > 1 else _encode(config, facts)
    except StopRequested:
        say("stopped: what is written is kept; the same command goes on from there")
        raise
    if code == 0 and (out / FACTS).exists():
        manifest = read_manifest(out)
        size = sum(shard["bytes"] for shard in manifest.shards.values())
        say(f"written: {out}, {size / 1e6:,.1f} MB, manifest {manifest.fingerprint[:12]}")
    elif code == 0:
        say(f"{out}: other processes encode the remaining shards; the last one writes the manifest")
    return code


def work(config: EncodeConfig) -> int:
    """Encode missing shards as one of several processes; return the exit code."""
    return _encode(config, encoded_facts(config))


def _encode(config: EncodeConfig, facts: DataFacts) -> int:
    from dit_lab.actions.encode import Encoding

    with StopSignal() as stop:
        encoding = Encoding(config, facts, on_message=say)
        encoding.run(stop.check)
        encoding.finish()
    return 0


def _encode_together(config: EncodeConfig) -> int:
    """Encode in `num_processes` processes; return the exit code of the first to fail, or 0."""
    count = config.num_processes
    threads = {"OMP_NUM_THREADS": str(threads_each(count)), **os.environ}
    with tempfile.TemporaryDirectory(prefix="dit-lab-") as place, StopSignal() as stop:
        write_json(Path(place) / "task.json", {"verb": "encode", "config": to_tree(config)})
        codes = run_together(
            Path(place),
            environments=[{**threads, "LOCAL_RANK": str(rank)} for rank in range(count)],
            outputs=[None] * count,
            stopping=lambda: stop.requested,
        )
        failed = next(filter(None, codes.values()), 0)
        if failed:
            stop.check()
    return failed


def _verify(folder: Path) -> int:
    from dit_lab.actions.encode import verify

    say(f"{folder}: {counted(verify(folder), 'shard')}, all checksums match")
    return 0
