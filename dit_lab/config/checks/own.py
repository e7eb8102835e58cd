"""Checks of user-defined components by creating them before there is a run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dit_lab.codecs.facts import codec_facts
from dit_lab.config.components import is_registered, load_component
from dit_lab.config.contracts import check_attributes
from dit_lab.config.schema import RunConfig
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.options import Component, accepted, arguments_of, target_of
from dit_lab.core.types import DataFacts, Shapes

MADE = ("objective", "schedule", "sampler")
"""Groups whose members are quick to create."""

_codecs: dict[tuple[Any, str], Any] = {}
"""Codecs that were created, by class and options, since loading weights takes time."""


def check_own_parts(config: RunConfig, shapes: Shapes) -> None:
    """Create the user-defined components that are quick to create. Raises RequestError."""
    for group in MADE:
        component = getattr(config, group)
        if not is_registered(group, target_of(component)):
            offered = {"latent_shape": shapes.latent} if group == "objective" else {}
            made(group, component, **offered)


def latents_of(codec: Component, facts: DataFacts) -> tuple[int, int, int]:
    """Return the latent shape (C, H, W) of the data's images. Raises RequestError."""
    target, options = target_of(codec), arguments_of(codec)
    if is_registered("codec", target):
        return codec_facts(
            target,
            options,
            channels=facts.channels,
            height=facts.height,
            width=facts.width,
        )
    key = (load_component(target, key="codec._target_"), json.dumps(options, sort_keys=True))
    if key not in _codecs:
        _codecs[key] = made("codec", codec)
    shape = _codecs[key].latent_shape(facts.channels, facts.height, facts.width)
    if not (len(shape) == 3 and all(isinstance(size, int) and size > 0 for size in shape)):
        raise RequestError(
            f"codec._target_={target}: latent_shape returned {shape}; return (channels, height, "
            "width)"
        )
    return (shape[0], shape[1], shape[2])


def made(group: str, component: Component, **offered: Any) -> Any:
    """Create a user-defined component.

    Raises:
        RequestError: Its constructor fails, or the object lacks a required attribute.
    """
    target = target_of(component)
    kind = load_component(target, key=f"{group}._target_")
    given: Mapping[str, Any] = accepted(kind, offered)
    try:
        found = kind(**arguments_of(component), **given)
    except RequestError:
        raise
    except Exception as error:  # whatever the user's constructor does
        raise RequestError(
            f"{group}._target_={target}: cannot be made ({trust.reason(error)})"
        ) from error
    check_attributes(group, target, found)
    return found
