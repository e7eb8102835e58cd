"""Show size, compute, memory and training time of a configuration, without training it.

  dit-lab describe experiment=quickstart
  dit-lab describe model=xl patch=2 dataset=digits codec=identity
  dit-lab describe --devices 8 --flops-per-second 989e12 --utilisation 0.4 --price-per-device-hour 2
  dit-lab describe dataset=image_folder dataset.root=photos codec=identity --picture batch.png
  dit-lab describe experiment=dit        a named sweep: a row for each model that it trains
  dit-lab describe --key warmup          document config keys, found by name or by a word

The numbers are computed by formulas for DiT. A user-defined model is built to count its parameters.
If data or autoencoder are not on this machine, their declared sizes are used.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dit_lab.actions.describe import described_shapes, different_trainings
from dit_lab.build.cost import device_memory, in_bf16, model_cost, training_images
from dit_lab.cli.arguments import add_config_dir, path, say_own_choices
from dit_lab.config.axes import asks_for_sweep
from dit_lab.config.checks.machine import check_file, with_processes
from dit_lab.config.compatibility import active_methods
from dit_lab.config.compose import compose_train
from dit_lab.config.keys import search
from dit_lab.config.prepare import check_request
from dit_lab.config.schema import RunConfig
from dit_lab.core.communication_cost import traffic
from dit_lab.core.cost import Cost
from dit_lab.core.errors import RequestError
from dit_lab.core.text import counted, say
from dit_lab.core.types import DataFacts, Shapes
from dit_lab.tracking.console import duration
from dit_lab.tracking.screen import Screen, pairs, table

if TYPE_CHECKING:
    from dit_lab.actions.preview import Parameters

SHOWS_CHOICES = True
SHOWN_CLASSES = 10
NOT_COUNTED = "not counted: FLOPs and memory are known only for the built-in DiT"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    parser.add_argument(
        "--flops-per-second",
        type=float,
        default=None,
        help="sustained rate of one device; measured here by matrix products if left out",
    )
    parser.add_argument(
        "--utilisation",
        type=float,
        default=None,
        metavar="SHARE",
        help="fraction of that rate that training reaches, such as 0.4",
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=None,
        metavar="N",
        help="number of devices (default distributed.num_processes)",
    )
    parser.add_argument(
        "--price-per-device-hour",
        type=float,
        default=None,
        metavar="PRICE",
        help="price in any currency; shows the cost of the training",
    )
    parser.add_argument(
        "--picture", type=path, metavar="FILE.png", help="write a grid of the first training images"
    )
    parser.add_argument(
        "--key", metavar="KEY", help="document the config keys with KEY in their name or meaning"
    )
    add_config_dir(parser)


def run(args: argparse.Namespace) -> int:
    if args.key is not None:
        if args.overrides:
            raise RequestError(f"{args.overrides[0]}: --key describes keys alone; leave it out")
        return _describe_key(args.key)
    _check_options(args)
    if asks_for_sweep(args.overrides, args.config_dir):
        return _describe_sweep(args)
    notes: list[str] = []
    config = compose_train(args.overrides, config_dirs=args.config_dir, on_note=notes.append)
    if args.devices is None:
        config = with_processes(config)
    return _describe(config, args, notes)


def _describe(config: RunConfig, args: argparse.Namespace, notes: Sequence[str]) -> int:
    shapes, assumed = check_request(config, look=described_shapes)
    if args.picture:
        check_file("--picture ", args.picture)
    if args.picture and not shapes.data.train_images:
        raise RequestError(f"--picture: {assumed[0].partition(':')[0]}; give dataset.root=FOLDER")
    rows = [*(("assumed", said) for said in assumed), *_rows(config, shapes, args)]
    say_own_choices(args, notes)
    Screen(width=None, soft_wrap=False).print(pairs(rows))
    if args.picture:
        from dit_lab.actions.preview import write_preview  # torch: seconds

        count = write_preview(config, shapes.data, args.picture)
        say(f"written: {args.picture}, the first {counted(count, 'image')} of the training")
    return 0


def _describe_key(text: str) -> int:
    found = search(text)
    if not found:
        raise RequestError(
            f"--key {text}: no key has this in its name or meaning; try a shorter word"
        )
    rows = [(key.name, key.takes, key.default, key.meaning, ", ".join(key.of)) for key in found]
    headings = ("key", "type", "default", "meaning", "only for")
    Screen().print(table(headings, rows, left=[True] * len(headings)))
    return 0


def _describe_sweep(args: argparse.Namespace) -> int:
    """Print a table with a row for each model that a named sweep trains."""
    rows: list[tuple[str, ...]] = []
    remarks: dict[str, None] = {}
    for label, config in different_trainings(args.overrides, args.config_dir).items():
        shapes, assumed = described_shapes(config)
        remarks.update(dict.fromkeys(f"assumed: {said}" for said in assumed))
        size = model_cost(config, shapes)
        if size is None:
            count = _own_parameters(config, shapes).total
            rows.append((label or "the only model", f"{count:,}", *["-"] * 4))
            remarks[f"compute {NOT_COUNTED}"] = None
            continue
        per_image = size.training_flops_per_image
        rows.append((
            label or "the only model", f"{size.parameters:,}", f"{size.tokens:,}",
            f"{size.forward_macs_per_image / 1e9:.4g}", f"{per_image / 1e9:.4g}",
            f"{per_image * training_images(config):.3g}",
        ))  # fmt: skip
    say_own_choices(args)
    headings = ("model", "parameters", "tokens", "forward, GMACs per image",
                "training, GFLOP per image", "total FLOP")  # fmt: skip
    Screen().print(table(headings, rows))
    for remark in remarks:
        say(remark)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Raise RequestError for a number outside of its range."""
    most = math.inf
    for option, value, below, example in (
        ("--flops-per-second", args.flops_per_second, most, "a number above 0, such as 1e12"),
        ("--utilisation", args.utilisation, 1.0, "a number above 0 and at most 1, such as 0.4"),
        ("--devices", args.devices, most, "a whole number above 0, such as 8"),
        (
            "--price-per-device-hour",
            args.price_per_device_hour,
            most,
            "a number above 0, such as 2.5",
        ),
    ):
        if value is not None and not (0 < value <= below and value < math.inf):
            raise RequestError(f"{option} {value:g}: expected {example}")


def _rows(config: RunConfig, shapes: Shapes, args: argparse.Namespace) -> list[tuple[str, str]]:
    data = shapes.data
    size = model_cost(config, shapes)
    shape = f"images of {data.channels} x {data.height} x {data.width}"
    counts = f"{data.train_images:,} training and {data.validation_images:,} held-out "
    seen = " x ".join(map(str, shapes.latent))
    of_data = [
        ("data", f"{counts}{shape}" if data.train_images else shape),
        ("classes", _classes(data)),
        ("model sees", f"{seen}, {counted(size.tokens, 'token')}" if size else seen),
    ]
    of_model = _own_rows(config, shapes) if size is None else _dit_rows(config, data, size, args)
    return of_data + of_model


def _own_rows(config: RunConfig, shapes: Shapes) -> list[tuple[str, str]]:
    """Return the rows of a user-defined model: its parameters, in total and by module."""
    size = _own_parameters(config, shapes)
    return [
        ("parameters", f"{size.total:,} ({size.trainable:,} trainable)"),
        *((f"  {name or '(outside of modules)'}", f"{n:,}") for name, n in size.of_modules.items()),
        ("budget", _budget(config, shapes.data)),
        ("compute", NOT_COUNTED),
    ]


def _own_parameters(config: RunConfig, shapes: Shapes) -> Parameters:
    from dit_lab.actions.preview import count_parameters  # torch: seconds

    return count_parameters(config, shapes)


def _budget(config: RunConfig, data: DataFacts) -> str:
    images = training_images(config)
    epochs = f", {images / data.train_images:.1f} epochs" if data.train_images else ""
    return (
        f"{counted(config.training.total_steps, 'step')} of "
        f"{counted(config.training.global_batch_size, 'image')}{epochs}"
    )


def _dit_rows(
    config: RunConfig, data: DataFacts, size: Cost, args: argparse.Namespace
) -> list[tuple[str, str]]:
    devices = args.devices or config.distributed.num_processes
    total_flops = training_images(config) * size.training_flops_per_image
    heads = f", {size.head_parameters:,} of them in heads" if size.head_parameters else ""
    return [
        ("parameters", f"{size.parameters:,} ({size.trainable_parameters:,} trainable{heads})"),
        *([("methods", ", ".join(active_methods(config)))] if config.method else []),
        ("forward", f"{size.forward_macs_per_image / 1e9:.4g} GMACs per image"),
        ("training", f"{size.training_flops_per_image / 1e9:.4g} GFLOP per image{_of(size)}"),
        ("budget", f"{_budget(config, data)}, {total_flops:.3g} FLOP"),
        *_memory_rows(config, size, devices),
        *_time_rows(config, total_flops, devices, args),
    ]  # fmt: skip


def _of(size: Cost) -> str:
    """Return what a loss of several evaluations spends on each, or ""."""
    extra = {
        "evaluations without gradient": size.plain_flops_per_image,
        "derivatives": size.derivative_flops_per_image,
    }
    if not any(extra.values()):
        return ""
    rest = size.training_flops_per_image - sum(extra.values())
    parts = {"forward and backward": rest, **extra}
    said = (f"{name} {flops / 1e9:.4g}" for name, flops in parts.items() if flops)
    return f" ({', '.join(said)})"


def _memory_rows(config: RunConfig, size: Cost, devices: int) -> list[tuple[str, str]]:
    training = config.training
    parts = training.accumulation * devices
    if training.global_batch_size % parts:
        raise RequestError(
            f"--devices {devices}: training.global_batch_size={training.global_batch_size} is "
            f"not divisible by training.accumulation x devices = {parts}"
        )
    chosen = config.model.activation_checkpointing
    other = 1 if chosen == "none" else "none"

    def row(name: str, devices: int, sharded: bool) -> tuple[str, str]:
        memory, instead = (
            device_memory(
                config, size, devices=devices, sharded=sharded, activation_checkpointing=value
            )
            for value in (chosen, other)
        )
        return (
            f"memory ({name})",
            f"about {memory.total_bytes / 2**30:.2f} GiB{' on each' if devices > 1 else ''}, of "
            f"which {memory.activations_bytes / 2**30:.2f} activations; "
            f"{instead.total_bytes / 2**30:.2f} with model.activation_checkpointing={other}",
        )

    rows = [row("one device", 1, False)]
    if devices == 1:
        return rows
    for name, sharded in (("DDP", False), ("FSDP", True)):
        rows.append(row(f"{name}, {devices} devices", devices, sharded))
    ddp, fsdp = (
        traffic(size, devices=devices, shards=shards, bf16=in_bf16(config)).step_bytes(
            training.accumulation
        )
        / 1e9
        for shards in (1, devices)
    )
    rows.append(("sent", f"by each device in a step {ddp:.3g} GB (DDP), {fsdp:.3g} GB (FSDP)"))
    return rows


def _time_rows(
    config: RunConfig, total_flops: float, devices: int, args: argparse.Namespace
) -> list[tuple[str, str]]:
    rate, source = args.flops_per_second, "given"
    if rate is None:
        from dit_lab.bench.device import Products, this_device  # torch: seconds

        rate = Products(this_device(), bf16=in_bf16(config)).rate
        source = "measured here in bf16" if in_bf16(config) else "measured here"
    shown = f"{rate / 1e9:,.{1 if rate < 1e10 else 0}f} GFLOP/s"
    on = f" on each of {devices} devices" if devices > 1 else ""
    seconds = total_flops / (rate * (args.utilisation or 1) * devices)
    if args.utilisation is None:
        about = "at least"
        pace = f"{shown}{on} ({source}); that is the rate of large matrix products, which training "
        pace += "does not reach, so give --utilisation for an estimate"
    else:
        about, pace = "about", f"{args.utilisation:.3g} of {shown}{on} ({source})"
    rows = [("time", f"{about} {duration(seconds)} at {pace}")]
    if args.price_per_device_hour is not None:
        hours, price = seconds / 3600 * devices, args.price_per_device_hour
        rows.append(
            ("cost", f"{about} {hours * price:,.2f}: {hours:,.2f} device hours at {price:g}")
        )
    return rows


def _classes(data: DataFacts) -> str:
    if not data.num_classes:
        return "none: the model is unconditional"
    shown = ", ".join(data.class_names[:SHOWN_CLASSES])
    more = data.num_classes - SHOWN_CLASSES
    return f"{data.num_classes:,}: {shown}" + (f" and {more:,} more" if more > 0 else "")
