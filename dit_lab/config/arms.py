"""Named arms of a comparison: sets of overrides, each extending another arm.

    arms:
      base: []
      logit_normal: [objective.time_sampling=logit_normal]
      beta2: {from: logit_normal, overrides: ["optimizer.betas=[0.9,0.95]"]}

A recipe defines arms under `arms`, a command by `arms.NAME=OVERRIDE` or by a list of overrides.
`arm=NAME` chooses one arm, and several make an axis. Unless `from` is given, an arm extends `base`,
if there is an arm of that name. The chosen arm is replaced by its overrides before the
configuration is composed, so it is not part of the configuration or its hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dit_lab.config import search_path
from dit_lab.config.overrides import ARM, MEMBER, no_such_choice, parse_override
from dit_lab.config.recipes import ARMS, recipes_of
from dit_lab.config.validate import to_plain
from dit_lab.core.errors import RequestError

BASE = "base"
"""The arm that others extend by default."""

ONE_FOR_ALL = ("sweep", "paths", "tracking", "resume")
"""Keys with one value for a whole sweep, which no axis or arm can set."""

NOT_IN_ARMS = (*ONE_FOR_ALL, "arm", "arms", "experiment", "hydra")


@dataclass(frozen=True, slots=True)
class Arm:
    """The overrides of an arm, and the arm that it extends."""

    stands_on: str | None
    overrides: tuple[str, ...]


def arms_of(overrides: Sequence[str], config_dirs: Iterable[Path] = ()) -> dict[str, Arm]:
    """Return the arms that a recipe and a command define, by name. Raises RequestError."""
    given: dict[str, Any] = {}
    names = [
        text.partition("=")[2].strip("'\"") for text in overrides if text.startswith("experiment=")
    ]
    known = search_path.experiments(config_dirs)
    if names and names[-1] in known:
        for _, recipe in reversed(list(recipes_of(names[-1], known))):
            of_it = to_plain(recipe).get(ARMS) or {}
            if not isinstance(of_it, Mapping):
                raise RequestError(f"experiment={names[-1]}: arms: expected overrides by name")
            given |= {str(name): value for name, value in of_it.items()}
    for text in overrides:
        if text.startswith(ARM) and "=" in text:
            key, _, value = text.partition("=")
            given[key.removeprefix(ARM)] = _typed(key, value)
    arms = {name: _arm(name, value, has_base=BASE in given) for name, value in given.items()}
    for name in arms:
        _lineage(name, arms)
    return arms


def lineage(names: Sequence[str], arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Return arms with all arms that they extend, those first. Raises RequestError."""
    return {one: arm for name in names for one, arm in _lineage(name, arms).items()}


def defines_arms(text: str) -> bool:
    """Return whether an override defines arms, or names a recipe that may."""
    return text.startswith((ARM, "experiment="))


def with_arm(
    overrides: Sequence[str], arms_of: Callable[[Sequence[str]], Mapping[str, Arm]] = arms_of
) -> tuple[list[str], list[str]]:
    """Replace `arm=NAME` in overrides by the overrides of that arm.

    The other overrides come after those of the arm, and take precedence.

    Args:
        arms_of: Returns the arms that overrides define, for example from a cache.

    Returns:
        The overrides, and notes on those of the arm that do not apply.

    Raises:
        RequestError: There is no such arm, or an arm is invalid.
    """
    chosen = [text.partition("=")[2].strip("'\"") for text in overrides if _chooses(text)]
    rest = [text for text in overrides if not _chooses(text) and not text.startswith(ARM)]
    if not chosen:
        return rest, []
    name = chosen[-1]
    typed = {parse_override(text).key_or_group: text for text in rest}
    of_arm: dict[str, str] = {}
    for one in _lineage(name, arms_of(overrides)).values():
        of_arm |= {parse_override(text).key_or_group: text for text in one.overrides}
    notes = [
        f"{typed[key]} overrides {text} of arm={name}"
        for key, text in of_arm.items()
        if key in typed and typed[key] != text
    ]
    return [*of_arm.values(), *rest], notes


def _chooses(text: str) -> bool:
    return text.startswith("arm=")


def _lineage(name: str, arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Return an arm with all arms that it extends, itself last."""
    if not arms:
        raise RequestError(
            f"arm={name}: no arms are defined; give arms.{name}=OVERRIDE, or a recipe with arms"
        )
    found: dict[str, Arm] = {}
    above: str | None = name
    while above is not None:
        if above not in arms:
            message = no_such_choice("arm", above, list(arms))
            raise RequestError(message if above == name else f"arms.{[*found][-1]}.from: {message}")
        if above in found:
            raise RequestError(f"arms.{above}.from: extends itself, through {', '.join(found)}")
        found[above] = arms[above]
        above = arms[above].stands_on
    return dict(reversed(found.items()))


def _typed(key: str, value: str) -> Any:
    """Parse an arm's value on the command line: an override, a list of them, or a mapping."""
    if not value.startswith(("[", "{")):
        return [value] if value else []
    with suppress(RequestError):  # lists and mappings in Hydra's syntax
        return parse_override(f"value={value}").value()
    with suppress(yaml.YAMLError):  # YAML, which accepts A=B without quotes
        return yaml.safe_load(value)
    raise RequestError(
        f"{key}={value}: not understood; write {key}=OVERRIDE, or several as "
        f"{key}=\"['optimizer.lr=0.1','optimizer.betas=[0.9,0.95]']\""
    )


def _arm(name: str, value: Any, *, has_base: bool) -> Arm:
    """Return the arm that a recipe or a command defines. Raises RequestError."""
    key = f"{ARM}{name}"
    if not MEMBER.fullmatch(name):
        raise RequestError(f"{key}: is no name; use letters, digits, spaces and . _ + -")
    stands_on = BASE if has_base and name != BASE else None
    if isinstance(value, Mapping):
        unknown = [str(one) for one in value if one not in ("from", "overrides")]
        if unknown:
            raise RequestError(f"{key}.{unknown[0]}: an arm has from and overrides")
        stands_on, value = value.get("from", stands_on), value.get("overrides")
    overrides = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(overrides, list) or not all(isinstance(one, str) for one in overrides):
        raise RequestError(f"{key}={value}: expected a list of overrides, as [optimizer.lr=0.1]")
    for text in overrides:
        one = parse_override(text)
        if one.is_sweep_override():
            raise RequestError(f"{key}: {text}: several values; an arm sets one value for each key")
        if one.key_or_group.replace("/", ".").partition(".")[0] in NOT_IN_ARMS:
            raise RequestError(f"{key}: {text}: cannot be set by an arm; add it to the command")
    return Arm(None if stands_on is None else str(stands_on), tuple(overrides))
