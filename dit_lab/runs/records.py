"""Types of the JSON files of a run, validated by `core/typed.py`. Torch-free.

Runs of earlier versions lack the fields that are NotRequired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from dit_lab.core.typed import Count, FileName, Hash, Seconds, spelled, within

MOST_CELLS = 2**28
"""The largest number of values of an image or latent, all channels: 1 GB in float32."""

MOST_CLASSES = 10**7

Side = Annotated[int, within(1, MOST_CELLS)]


def few_cells(shape: Sequence[int]) -> str:
    """Check that one image or latent of this shape has at most MOST_CELLS values."""
    return "" if math.prod(shape) <= MOST_CELLS else f"a shape of at most {MOST_CELLS:,} numbers"


LatentShape = Annotated[tuple[Side, Side, Side], few_cells]
"""(channels, height, width)."""


def three_sides(shape: Sequence[int]) -> str:
    return "" if len(shape) == 3 else "three sides"


ShapeList = Annotated[list[Side], three_sides, few_cells]
"""(channels, height, width) as a list, for JSON."""

WeightsName = Annotated[
    str,
    spelled(
        r"model|schedule_free|(ema|power)-[\w.+-]{1,60}",
        "model, ema-DECAY, power-WIDTH or schedule_free",
    ),
]
"""The name of a set of weights, and of its file."""


class Data(TypedDict):
    """The recorded `core.types.DataFacts` of a dataset."""

    channels: Annotated[int, within(1, 2**12)]
    height: Annotated[int, within(1, 2**16)]
    width: Annotated[int, within(1, 2**16)]
    num_classes: Annotated[int, within(0, MOST_CLASSES)]
    class_names: list[str]
    train_images: Count
    validation_images: Count
    fingerprint: str
    levels: NotRequired[Annotated[int, within(2, 2**16)]]
    reading: NotRequired[Annotated[int, within(1, 2)]]
    absent_classes: NotRequired[list[Annotated[int, within(0, MOST_CLASSES)]]]


def few_pixels(data: Mapping[str, Any]) -> str:
    return few_cells((data["channels"], data["height"], data["width"]))


class Identity(TypedDict):
    """identity.json."""

    train_hash: Hash
    ancestors: list[Hash]
    code_files: dict[str, str]
    code_hash: str
    data_fingerprint: str
    pairs_fingerprint: str
    codec_fingerprint: str
    data: Annotated[Data, few_pixels]
    latent_shape: LatentShape
    forced_over: list[str]
    code_hash_of: NotRequired[str]
    initial_weights: NotRequired[str]
    predates: NotRequired[str]
    imported: NotRequired[dict[str, str]]


class Header(TypedDict):
    """The metadata of a run in the header of its exported file."""

    config: dict[str, Any]  # validated when it is composed
    identity: Identity
    step: Count
    weights: WeightsName


class Status(TypedDict):
    """status.json."""

    status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
    step: Count
    updated: Seconds
    total_steps: NotRequired[Count]
    results: NotRequired[dict[str, float] | None]
    error: NotRequired[str | None]
    tracking_run_id: NotRequired[str | None]
    is_tracked_whole: NotRequired[bool]  # everything was sent to the tracker, final status included


class Tracked(TypedDict):
    """tracking.json: the name and tags that the tracker gets in addition to the config."""

    name: str
    tags: dict[str, str]
    labels: NotRequired[dict[str, str]]  # user-defined tags
    note: NotRequired[str]  # the user's description


SUMMARY = "summary.json"
"""The file in a report's folder that holds its summary."""


class Summary(TypedDict):
    """summary.json of a report. Texts are Markdown."""

    metric: str
    best: str  # the best configuration by that metric, such as `objective=ddpm, model=pico`
    numbers: dict[str, float]  # metric names in the tracker -> values
    answer: list[str]  # paragraphs
    table: list[str]  # lines of a Markdown table, a row for each configuration


class Part(TypedDict):
    """A component in a config; its options are validated when it is composed."""

    _target_: str


class Lengths(TypedDict):
    """The section `training` of a config."""

    total_steps: Annotated[int, within(1)]
    global_batch_size: Annotated[int, within(1)]


class Averages(TypedDict):
    """The section `ema` of a config."""

    decays: list[float]


class Tracking(TypedDict):
    """The section `tracking` of a config."""

    backend: Literal["mlflow", "none"]
    uri: str | None
    experiment: str


class Paths(TypedDict):
    """The section `paths` of a config."""

    root: str


def chosen(choices: Mapping[str, str]) -> str:
    return "" if {"model", "objective", "sampler"} <= choices.keys() else "the chosen members"


class Config(TypedDict):
    """The keys of config.yaml that are read without composing it: by reports, doctor, results."""

    seed: Count
    name: FileName
    model: Part
    objective: Part
    sampler: Part
    training: Lengths
    ema: Averages
    tracking: Tracking
    paths: Paths
    choices: Annotated[dict[str, str], chosen]
    guidance: dict[str, Any]
    sample: dict[str, Any]
    evaluation: dict[str, Any]
