"""Check of every image of a configured dataset, with several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

from dit_lab.build.parts import build_dataset
from dit_lab.config.schema import CheckConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.processes import usable_cpus
from dit_lab.core.types import DataFacts
from dit_lab.data.image_check import Look, Report, look, report_on
from dit_lab.data.image_files import ImageFiles
from dit_lab.data.images import Transform

_CHUNK = 32  # images of a task
# split, (path, or else the error message; label) of each image, transform
_Task = tuple[str, list[tuple[Path | str, int]], Transform]


def check_images(
    config: CheckConfig,
    facts: DataFacts,
    *,
    on_image: Callable[[], None],
    check_stop: Callable[[], None],
) -> Report:
    """Read every image of both splits. Raises RequestError if the dataset has no image files."""
    datasets = {}
    for split in ("train", "validation"):
        dataset = build_dataset(config, split, reading=facts.reading)
        if not isinstance(dataset, ImageFiles):
            raise RequestError(
                f"dataset={config.choices['dataset']}: has no image files to check; use "
                "dit-lab encode --verify FOLDER for cached latents"
            )
        datasets[split] = dataset

    def seen() -> Iterator[tuple[str, Look]]:
        processes = config.num_processes or usable_cpus()
        with closing(_looks(datasets, processes)) as looks:
            for split, found in looks:
                check_stop()
                on_image()
                yield split, found

    return report_on(seen(), num_classes=facts.num_classes, size=(facts.height, facts.width))


def _looks(
    datasets: Mapping[str, ImageFiles], processes: int
) -> Generator[tuple[str, Look], None, None]:
    """Yield the split and the check of every image, in order, read by several processes."""
    tasks = _tasks(datasets)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        waiting = [(task[0], pool.submit(_look_at, task)) for task in islice(tasks, 4 * processes)]
        try:
            while waiting:
                split, found = waiting.pop(0)
                for result in found.result():
                    yield split, result
                waiting += [(task[0], pool.submit(_look_at, task)) for task in islice(tasks, 1)]
        finally:
            pool.shutdown(cancel_futures=True)


def _tasks(datasets: Mapping[str, ImageFiles]) -> Iterator[_Task]:
    for split, dataset in datasets.items():
        labels = dataset.labels.tolist()
        for first in range(0, len(dataset), _CHUNK):
            places = range(first, min(first + _CHUNK, len(dataset)))
            yield split, [(_path(dataset, at), labels[at]) for at in places], dataset.transform


def _path(dataset: ImageFiles, index: int) -> Path | str:
    try:
        return dataset.path(index)
    except RequestError as refusal:  # a link to a file outside of the folder
        return str(refusal)


def _look_at(task: _Task) -> list[Look]:
    _, files, transform = task
    looks = []
    for path, label in files:
        if isinstance(path, Path):
            looks.append(look(path, label, transform))
        else:
            name, _, problem = path.partition(": ")
            looks.append(Look(name, label, problem))
    return looks
