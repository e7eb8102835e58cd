"""Contracts of config groups: built-in classes satisfy them, and protocols declare them."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dit_lab.config.components import COMPONENT_GROUPS, COMPONENTS, LISTS, load_component
from dit_lab.config.contracts import (
    CONTRACTS,
    Contract,
    check_attributes,
    check_contract,
    given_in_code,
    takes,
)
from dit_lab.core.errors import RequestError
from dit_lab.core.options import accepted
from dit_lab.core.types import Codec, Hook, Objective, Schedule

PAGE = Path(__file__).parents[2] / "docs/extend.md"
REGISTERED = [
    (group, target)
    for group, of_it in COMPONENTS.items()
    for target in of_it
    if not target.endswith(".Noise")  # which only benchmarks use
]


def stated(contract: Contract) -> Any:
    module, _, name = contract.stated.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_group_has_one() -> None:
    assert CONTRACTS.keys() == {*COMPONENT_GROUPS, *LISTS}


@pytest.mark.parametrize(("group", "target"), REGISTERED)
def test_the_labs_own_components_keep_theirs(group: str, target: str) -> None:
    component = load_component(target, key=f"{group}._target_")
    contract = CONTRACTS[group]
    if group == "dataset":  # the facts of the lab's own lie in modules without torch
        component = type(component.__name__, (component,), {"facts": None})
    check_contract(group, target, component)
    assert set(contract.given) <= set(inspect.signature(component).parameters)


@pytest.mark.parametrize("group", [name for name in CONTRACTS if name != "optimizer"])
def test_protocols_state_what_is_checked(group: str) -> None:
    contract = CONTRACTS[group]
    protocol = stated(contract)
    methods = {**contract.calls, **contract.may, **contract.hears}
    shown = {}
    for name in methods:
        parameters = list(inspect.signature(getattr(protocol, name)).parameters.values())[1:]
        names = [p.name for p in parameters]
        if bare := [p for p in parameters if p.kind is p.KEYWORD_ONLY]:
            names.insert(parameters.index(bare[0]), "*")
        shown[name] = ", ".join(names)
    assert shown == methods
    public = {
        name
        for name, member in vars(protocol).items()
        if inspect.isfunction(member) and (not name.startswith("_") or name == "__len__")
    } - {"_no_init_or_replace_init", "__init__"}
    assert public == methods.keys()


def test_what_is_given_or_offered_is_no_option() -> None:
    assert given_in_code("dataset") == {"split", "seed", "reading"}
    assert given_in_code("hook") == {"folder"}
    assert given_in_code("nothing") == set()


# ---- classes that extend a protocol -------------------------------------------------------------


class Heard(Hook):
    def on_step(self, step: int) -> None: ...


class HeardWithOptions(Hook):
    def __init__(self, *, folder: Path, every_steps: int = 1) -> None: ...


class Given:
    @staticmethod
    def factor(step: int, total_steps: int) -> float:
        return 1.0


class ByName:
    def factor(self, **named: int) -> float:
        return 1.0


class Unwritten(Schedule): ...


class NoForward(torch.nn.Module):
    def __init__(self, **given: Any) -> None: ...


class HalfACodec(Codec):
    def latent_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        return channels, height, width

    def moments(self, images: torch.Tensor) -> torch.Tensor:
        return images


class WholeCodec(HalfACodec):
    fingerprint = "whole"

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


class Learned(Objective): ...


def trouble(group: str, component: Any) -> str:
    with pytest.raises(RequestError) as refused:
        check_contract(group, "mylab.Mine", component)
    text = str(refused.value)
    assert text.startswith(f"{group}._target_=mylab.Mine: ")
    return text.partition(": ")[2]


def test_a_constructor_that_nobody_wrote_takes_nothing() -> None:
    """typing.Protocol provides a constructor that accepts everything."""
    for _ in range(2):  # it replaces it when the first object is made
        assert accepted(Heard, {"folder": 1}) == {}
        assert not takes(Heard, "folder")
        Heard()
    assert accepted(HeardWithOptions, {"folder": 1}) == {"folder": 1}


def test_what_a_protocol_leaves_open_is_missing() -> None:
    assert trouble("schedule", Unwritten).startswith("has no factor(step, total_steps); dit_lab")
    assert trouble("codec", HalfACodec).startswith("has no decode(latents); dit_lab.core.types")
    assert trouble("model", NoForward).startswith("has no forward(x, time, labels)")
    check_contract("codec", "mylab.Mine", WholeCodec)


def test_what_a_protocol_gives_is_there() -> None:
    codec, images = WholeCodec(), torch.randn(2, 1, 4, 4)
    check_attributes("codec", "mylab.Mine", codec)
    assert codec.draws is False and codec.to(torch.device("cpu")) is codec
    assert torch.equal(codec.encode(images, None), images)
    assert Learned.learn_sigma is False and Unwritten.depends_on_end is True
    with pytest.raises(RequestError, match="has no fingerprint; dit_lab"):
        check_attributes("codec", "mylab.Mine", HalfACodec.__new__(HalfACodec))


def test_methods_are_looked_at_as_they_are_called() -> None:
    check_contract("schedule", "mylab.Mine", Given)
    assert "factor(**named) cannot be called as factor(step, total_steps)" in trouble(
        "schedule", ByName
    )


def test_a_function_is_asked_for_its_arguments_alone() -> None:
    def schedule() -> Given:
        return Given()

    def optimizer(*, lr: float) -> None: ...

    check_contract("schedule", "mylab.Mine", schedule)
    assert trouble("optimizer", optimizer).startswith("does not take params, which the lab gives")


# ---- the page -----------------------------------------------------------------------------------


def rows() -> Iterator[str]:
    for group, contract in CONTRACTS.items():
        given = ", ".join(f"`{name}`" for name in contract.given)
        asked = ", ".join(f"`{name}`" for name in contract.offered)
        arguments = "; ".join(filter(None, [given, asked and f"optional {asked}"]))
        must = [f"extends `{contract.extends}`"] if contract.extends else []
        must += [f"`{name}({of_it})`" for name, of_it in contract.calls.items()]
        must += [f"static `{name}(**options)`" for name in contract.static]
        must += [f"`{name}`" for name in contract.has]
        if contract.hears:
            must.append(f"some of {', '.join(f'`{name}`' for name in contract.hears)}")
        yield f"| `{group}` | `{contract.stated}` | {arguments} | {', '.join(must)} |"


def test_the_page_shows_the_table() -> None:
    (table,) = re.findall(r"<!-- contracts -->\n(.*?)\n\n", PAGE.read_text(), flags=re.DOTALL)
    assert [" ".join(row.split()) for row in table.splitlines()[2:]] == [
        " ".join(row.split()) for row in rows()
    ]
