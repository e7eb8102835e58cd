"""The call contract of models: what is asked for reaches the model, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dit_lab.core.calls import (
    GUIDANCE,
    VELOCITY,
    HeadNeed,
    ModelCall,
    ModelNeeds,
    Output,
    Progress,
    needs_of,
)
from dit_lab.models.dit import DiT
from dit_lab.objectives.improved_mean_flow import ImprovedMeanFlow
from dit_lab.objectives.rectified_flow import RectifiedFlow

VELOCITY_HEAD = HeadNeed(VELOCITY, after=-1, blocks=1)
MakeModel = Callable[..., DiT]
X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TIME, LATER = torch.tensor([0.0, 0.2, 0.5, 0.9]), torch.tensor([0.1, 0.9, 0.5, 1.0])
LABELS = torch.tensor([0, 3, 9, 10])


def call(model: Any, **more: Any) -> ModelCall:
    return ModelCall(model=model, labels=LABELS, progress=Progress(3, 10), **more)


def test_a_model_of_one_time_is_asked_for_nothing_else() -> None:
    asked: list[dict[str, Any]] = []

    def model(x: Tensor, time: Tensor, labels: Tensor, **more: Any) -> Tensor:
        asked.append({"labels": labels, **more})
        return x

    predict = call(model)
    assert predict(X, TIME) is X
    assert predict.output(X, TIME) == Output(X, {}, {})
    predict(X, TIME, labels=LABELS + 1, to=LATER, conditions={"a": TIME})
    assert [set(one) for one in asked] == [{"labels"}] * 2 + [{"labels", "to", "conditions"}]
    assert torch.equal(asked[2]["labels"], LABELS + 1)
    assert predict.progress.step == 3


def test_averaged_weights_are_another_model() -> None:
    predict = call(lambda x, time, labels: x, averaged=lambda x, time, labels: 2 * x)
    assert torch.equal(predict(X, TIME, weights="average"), 2 * X)
    assert torch.equal(predict(X, TIME), X)


def test_what_a_model_needs_is_what_its_constructor_gets() -> None:
    assert needs_of(RectifiedFlow()).arguments() == {}
    assert needs_of(object()) == ModelNeeds()
    assert needs_of(ImprovedMeanFlow(velocity_blocks=2)).arguments() == {
        "second_time": True,
        "conditions": (GUIDANCE, "guidance_from", "guidance_until"),
        "heads": (HeadNeed(VELOCITY, after=-2, blocks=2),),
    }


def test_hidden_tokens_are_those_between_the_blocks(make_model: MakeModel) -> None:
    model = make_model(perturbed=True, depth=3)
    seen: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, given, tokens: seen.append(tokens))
    plain = model(X, TIME, LABELS)
    whole = call(model).output(X, TIME, hidden=[1, 3])
    assert torch.equal(whole.main, plain)
    assert list(whole.hidden) == [1, 3]
    assert torch.equal(whole.hidden[1], seen[0]) and torch.equal(whole.hidden[3], seen[2])


def test_a_second_head_branches_off_before_its_blocks(make_model: MakeModel) -> None:
    """With the weights of the last blocks and of the final layer, it is the main output."""
    model = make_model(perturbed=True, depth=3, heads=[HeadNeed(VELOCITY, after=-2, blocks=2)])
    head: Any = model.heads[VELOCITY]
    for own, main in zip(head.blocks, model.blocks[1:], strict=True):
        own.load_state_dict(main.state_dict())
    head.final_layer.load_state_dict(model.final_layer.state_dict())
    output = call(model).output(X, TIME, heads=[VELOCITY])
    assert torch.equal(output.heads[VELOCITY], output.main)
    with torch.no_grad():
        head.final_layer.linear.bias += 1
    again = call(model).output(X, TIME, heads=[VELOCITY])
    assert torch.equal(again.main, output.main)
    torch.testing.assert_close(again.heads[VELOCITY], output.main + 1)


def test_without_the_main_output_its_own_blocks_are_not_computed(make_model: MakeModel) -> None:
    """A head alone costs as much as the main output alone."""
    model = make_model(perturbed=True, depth=3, heads=[HeadNeed(VELOCITY, after=-2, blocks=2)])
    whole = call(model).output(X, TIME, heads=[VELOCITY], hidden=[1])
    with FlopCounterMode(display=False) as plain:
        model(X, TIME, LABELS)
    with FlopCounterMode(display=False) as alone:
        output = call(model).output(X, TIME, heads=[VELOCITY], hidden=[1], main=False)
    assert output.main.numel() == 0
    assert torch.equal(output.heads[VELOCITY], whole.heads[VELOCITY])
    assert torch.equal(output.hidden[1], whole.hidden[1])
    assert alone.get_total_flops() == plain.get_total_flops()


def test_new_inputs_are_without_effect_at_first(make_model: MakeModel) -> None:
    """The same seed gives the same weights with them, and the model is one of one time."""
    plain = make_model(depth=2)
    rich = make_model(depth=2, second_time=True, conditions=("a", "b"), heads=[VELOCITY_HEAD])
    same = plain.state_dict()
    assert all(torch.equal(rich.state_dict()[name], weight) for name, weight in same.items())
    draw = torch.Generator().manual_seed(1)
    for model in (plain, rich):
        draw.manual_seed(1)
        for name in same:
            weight = model.get_parameter(name)
            weight.data += 0.1 * torch.randn(weight.shape, generator=draw)
    given = {"a": 100 * TIME, "b": 7 * TIME}
    assert torch.equal(rich(X, TIME, LABELS, to=LATER, conditions=given), plain(X, TIME, LABELS))
    with torch.no_grad():
        rich.scalar_embedders["step"].mlp[2].weight.normal_()
    at_once = rich(X, TIME, LABELS, conditions=given)
    assert torch.equal(at_once, rich(X, TIME, LABELS, to=TIME, conditions=given))
    assert not torch.allclose(at_once, rich(X, TIME, LABELS, to=LATER, conditions=given))
