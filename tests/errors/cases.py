"""All cases, by title."""

from __future__ import annotations

from tests.errors import (
    averages,
    benching,
    checkpoints,
    command_line,
    data,
    encoding,
    exchange,
    few_step,
    judging,
    keeping,
    measuring,
    methods,
    naming,
    optimizers,
    own_parts,
    places,
    recorded,
    reporting,
    resuming,
    settings,
    sweeping,
    tracking,
    training_methods,
    trusting,
)

AREAS = (
    command_line, settings, methods, own_parts, data, encoding, resuming, recorded, checkpoints,
    averages, measuring, judging, exchange, sweeping, reporting, tracking, benching, places, naming,
    trusting, optimizers, keeping, few_step, training_methods,
)  # fmt: skip
CASES = {case.title: case for area in AREAS for case in area.CASES}
assert len(CASES) == sum(len(area.CASES) for area in AREAS), "two cases of one title"
