"""Sampling of images from a run into files."""

from __future__ import annotations

from pathlib import Path

from dit_lab.build.trained import load
from dit_lab.config.schema import RunConfig
from dit_lab.core.text import counted, listed
from dit_lab.sampling.generate import EvaluationCount
from dit_lab.sampling.images import grid_columns, write_images
from dit_lab.sampling.labels import check_labels
from dit_lab.training.distributed import DistributedContext
from dit_lab.training.stop import StopSignal


def draw_into(out: Path, config: RunConfig, *, run: str, root: str, stop: StopSignal) -> str:
    """Draw the images of `config.sample`, alone or as one of several processes.

    Returns:
        A line about the images in the main process, "" in the others.
    """
    passes, asked = EvaluationCount(), config.sample
    context = DistributedContext(stop, tf32=config.precision.tf32)
    trained = load(
        run,
        root=root,
        weights=asked.weights,
        codec_path=getattr(config.codec, "path", None),
        device=context.accelerator.device,
    )
    groups = trained.images(
        asked.labels,
        num_images=asked.num_images,
        seed=asked.seed,
        settings=config,
        process_group=context.process_group,
        check_stop=stop.check,
        on_pass=passes,
    )
    if not context.is_main_process:
        for _ in groups:  # computes this process's part
            pass
        return ""
    count = asked.num_images
    data = trained.parts.shapes.data
    chosen = data.default_classes
    if asked.labels is not None:
        chosen = tuple(check_labels(asked.labels, data.num_classes, data.class_names))
    columns = grid_columns(count, min(count, len(set(chosen))))
    names = data.class_names if data.num_classes else ()
    write_images(out, groups, num_images=count, columns=columns, class_names=names)
    of = ""
    if asked.labels is not None and names:
        of = f" of {listed(list(dict.fromkeys(names[at] for at in chosen)))}"
    return (
        f"{counted(count, 'image')}{of} from {trained.weights} at step {trained.step}, "
        f"NFE {passes.per_image(count):g}: {out}"
    )
