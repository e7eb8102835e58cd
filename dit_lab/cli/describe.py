"""Size, compute and memory of a configuration, from numbers alone: nothing is built or trained.

dit-lab describe experiment=quickstart
dit-lab describe model=xl patch=2 dataset=digits codec=identity
dit-lab describe dataset=image_folder dataset.root=photos codec=identity --picture batch.png
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_lab.types import RequestError

if TYPE_CHECKING:
    from dit_lab.lab.checks import Shapes
    from dit_lab.types import DataFacts

SHOWS_CHOICES = True
SHOWN_CLASSES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="groups and keys to set")
    parser.add_argument(
        "--flops-per-second",
        type=float,
        default=None,
        help="what the device sustains; measured here by a matrix product if left out",
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="write the first images of the training"
    )
    parser.add_argument(
        "--config-dir", type=Path, action="append", default=[], help="a folder of your own groups"
    )


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from dit_lab.lab.checks import check_data, check_settings
    from dit_lab.lab.config import compose_train

    rate = args.flops_per_second
    if rate is not None and not 0 < rate < math.inf:
        raise RequestError(f"--flops-per-second {rate:g}: expected a number above 0, such as 1e12")
    config = compose_train(args.overrides, config_dirs=args.config_dir)
    check_settings(config)
    shapes = check_data(config)
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _rows(config, shapes, rate):
        table.add_row(name, value)
    Console().print(table)
    if args.picture:
        from dit_lab.lab.preview import write_preview  # torch: seconds

        count = write_preview(config, shapes.data, args.picture)
        print(f"picture: the first {count} images of the training in {args.picture}")
    return 0


def _rows(
    config: dict[str, Any], shapes: Shapes, flops_per_second: float | None
) -> list[tuple[str, str]]:
    from dit_lab.cost import training_memory
    from dit_lab.lab.compute import model_cost, training_images
    from dit_lab.tracking.console import duration

    model, training, data = config["model"], config["training"], shapes.data
    channels, height, width = shapes.latent
    size = model_cost(config, shapes)
    if size is None:
        raise RequestError(f"model._target_={model['_target_']}: only a DiT of the lab is counted")
    memory = training_memory(
        size,
        hidden_size=model["hidden_size"],
        depth=model["depth"],
        mlp_ratio=model["mlp_ratio"],
        batch_size=training["global_batch_size"] // training["accumulation"],
        ema_copies=len(config["ema"]["decays"]),
        bf16=config["precision"]["mixed_precision"] == "bf16",
        activation_checkpointing=model["activation_checkpointing"],
    )
    images = training_images(config)
    total_flops = images * size.training_flops_per_image
    if flops_per_second is None:
        in_bf16 = " in bf16" if config["precision"]["mixed_precision"] == "bf16" else ""
        flops_per_second, source = _measured_rate(config), f"measured here{in_bf16}"
    else:
        source = "given"
    rate = f"{flops_per_second / 1e9:,.{1 if flops_per_second < 1e10 else 0}f}"
    return [
        ("data", f"{data.train_images:,} training and {data.validation_images:,} held-out images "
                 f"of {data.channels} x {data.height} x {data.width}"),
        ("classes", _classes(data)),
        ("model sees", f"{channels} x {height} x {width}, {size.tokens} tokens"),
        ("parameters", f"{size.parameters:,} ({size.trainable_parameters:,} trainable)"),
        ("forward", f"{size.forward_macs_per_image / 1e9:.4g} GMACs per image"),
        ("training", f"{size.training_flops_per_image / 1e9:.4g} GFLOP per image"),
        ("budget", f"{training['total_steps']:,} steps of {training['global_batch_size']} images, "
                   f"{images / data.train_images:.1f} epochs, {total_flops:.3g} FLOP"),
        ("memory", f"about {memory.total_bytes / 2**30:.2f} GiB on one device, of which "
                   f"{memory.activations_bytes / 2**30:.2f} activations"),
        ("time", f"at least {duration(total_flops / flops_per_second)} at "
                 f"{rate} GFLOP/s ({source}: the rate of large matrix products; small models "
                 "reach a part of it)"),
    ]  # fmt: skip


def _classes(data: DataFacts) -> str:
    if not data.num_classes:
        return "none: the model is unconditional"
    shown = ", ".join(data.class_names[:SHOWN_CLASSES])
    more = data.num_classes - SHOWN_CLASSES
    return f"{data.num_classes:,}: {shown}" + (f" and {more:,} more" if more > 0 else "")


def _measured_rate(config: dict[str, Any]) -> float:
    """FLOP/s of a large matrix product on this machine's device, in the training precision."""
    import time

    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = config["precision"]["mixed_precision"] == "bf16"
    size = 8192 if device.type == "cuda" else 1024
    matrix = torch.ones(size, size, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)

    def seconds() -> float:
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for the device
        return time.perf_counter() - start

    seconds()
    return 2 * size**3 / min(seconds() for _ in range(5))
