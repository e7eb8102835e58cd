"""Named arms of a comparison: the overrides of each on top of its parent arm, or of none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dit_lab.core.errors import RequestError
from dit_lab.core.text import one_line
from dit_lab.report.grid import Asked, Grid
from dit_lab.report.results import ARM, Arm
from dit_lab.runs.manifest import Manifest


def arms_of(manifests: Iterable[tuple[str, Manifest]]) -> dict[str, Arm]:
    """Return the arms of some sweeps by name.

    Raises:
        RequestError: if two sweeps define an arm differently.
    """
    found: dict[str, tuple[str, Arm]] = {}
    for sweep, manifest in manifests:
        for name, of in manifest.arms.items():
            parent = of["from"]
            arm = Arm(
                stands_on=None if parent is None else one_line(parent),
                changes=[one_line(text) for text in of["overrides"]],
            )
            known_in, known = found.setdefault(one_line(name), (sweep, arm))
            if known != arm:
                raise RequestError(
                    f"arm={name}: is {_told(known)} in {known_in} and {_told(arm)} in {sweep}; "
                    "report these sweeps apart, or give one of the arms another name"
                )
    return {name: arm for name, (_, arm) in found.items()}


def _told(arm: Arm) -> str:
    return f"{arm.changed} on {arm.stands_on}" if arm.stands_on else arm.changed


def steps_of(grid: Grid, arms: Mapping[str, Arm]) -> dict[tuple[str, str], Asked]:
    """Return (arm, reference arm) -> the contrast of the two.

    The reference is the parent arm, and then the baseline's arm. Contrasts are averaged over the
    complete blocks of all arms, as effects of axes are.
    """
    if ARM not in grid.axes or not arms:
        return {}
    blocks = grid.blocks(ARM)
    levels, base = blocks.levels[0], blocks.references[0]
    pairs = [
        (arm, other)
        for arm in levels
        for other in dict.fromkeys([stands_on(arms, arm), base])
        if other in levels and other != arm
    ]
    return {
        (arm, other): Asked(
            weights=grid.mean_over(blocks.complete, {(arm,): 1, (other,): -1}),
            blocks=len(blocks.complete),
            of_blocks=blocks.total,
            nested=blocks.nested,
        )
        for arm, other in pairs
    }


def stands_on(arms: Mapping[str, Arm], name: str) -> str | None:
    """Return the parent of an arm; None if it has none or is unknown."""
    return arms[name].stands_on if name in arms else None
