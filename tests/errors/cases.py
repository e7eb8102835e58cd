"""All cases, by area and by title."""

from __future__ import annotations

from tests.errors import (
    averages,
    benching,
    checkpoints,
    command_line,
    data,
    encoding,
    exchange,
    judging,
    measuring,
    methods,
    own_parts,
    places,
    recorded,
    reporting,
    resuming,
    settings,
    sweeping,
    tracking,
)

AREAS = (
    command_line.AREA,
    settings.AREA,
    methods.AREA,
    own_parts.AREA,
    data.AREA,
    encoding.AREA,
    resuming.AREA,
    recorded.AREA,
    checkpoints.AREA,
    averages.AREA,
    measuring.AREA,
    judging.AREA,
    exchange.AREA,
    sweeping.AREA,
    reporting.AREA,
    tracking.AREA,
    benching.AREA,
    places.AREA,
)
CASES = {case.title: case for area in AREAS for case in area.cases}
assert len(CASES) == sum(len(area.cases) for area in AREAS), "two cases of one title"
