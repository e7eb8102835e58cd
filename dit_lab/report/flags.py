"""Warnings about a comparison as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from dit_lab.core.text import counted
from dit_lab.report.results import NO_RUN, Configuration, Result

MOST_NAMED = 6  # configurations named in one warning

# property that all runs should share -> (its hash in a run, the consequence of a difference)
CONSEQUENCES: Mapping[str, tuple[Callable[[Result], str], str]] = {
    "evaluation protocol": (
        lambda run: run.protocol,
        "their metrics cannot be compared with the others",
    ),
    "code": (lambda run: run.code, "differences may be due to the code"),
    "data": (lambda run: run.data, "differences may be due to the data"),
}


def flags(configurations: Sequence[Configuration], axes: Sequence[str]) -> tuple[str, ...]:
    """Return the warnings, the gravest first."""
    found = [
        _differing_hashes(configurations, axes, what, read, so)
        for what, (read, so) in CONSEQUENCES.items()
    ]
    return tuple(
        flag
        for flag in (*found, _missing(configurations), _zero_variance(configurations, axes))
        if flag
    )


def _differing_hashes(
    configurations: Sequence[Configuration],
    axes: Sequence[str],
    what: str,
    read: Callable[[Result], str],
    so: str,
) -> str:
    """Return a warning that names the runs whose hash differs from the most common one.

    Runs with an unknown hash are ignored.
    """
    hashes = Counter(read(run) for c in configurations for run in c.measured if read(run))
    if len(hashes) < 2:
        return ""
    usual, count = hashes.most_common(1)[0]
    odd = []
    for configuration in configurations:
        seeds = [run.seed for run in configuration.measured if read(run) not in ("", usual)]
        if seeds:
            which = "" if len(seeds) == len(configuration.measured) else f"{name_seeds(seeds)} of "
            odd.append(which + configuration.label(axes))
    return f"different {what}: {count} runs have hash {usual[:8]}, unlike {_listed(odd)}; {so}"


def _missing(configurations: Sequence[Configuration]) -> str:
    """Return a warning about missing seeds, or ""."""
    incomplete = sum(bool(c.missing) for c in configurations)
    if not incomplete:
        return ""
    said = f"seeds are missing in {incomplete} of {counted(len(configurations), 'configuration')}"
    if {why for c in configurations for why in c.missing.values()} == {NO_RUN}:
        return f"{said}: there are no runs of them, so these means are less certain"
    return (
        f"{said}: if the settings made these runs fail, the means over the other seeds are too good"
    )


def _zero_variance(configurations: Sequence[Configuration], axes: Sequence[str]) -> str:
    """Return a warning about configurations without any spread between seeds, or ""."""
    alike = [c.label(axes) for c in configurations if c.sample.sd == 0]
    if not alike:
        return ""
    return (
        f"all seeds gave the same value with {_listed(alike)}: the metric may be at its limit; "
        "if it is not, check that the seed reaches the run"
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return "; ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def name_seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
