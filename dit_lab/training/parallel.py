"""One model on several processes: a whole copy on each, or a part of every weight on each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from dit_lab.core.processes import on_loopback
from dit_lab.core.types import LabelledCall
from dit_lab.training.packed import pack
from dit_lab.training.tensor_files import is_spread


class ParallelModel(Protocol):
    """A model to train, wherever its weights lie."""

    module: nn.Module
    """Holds the parameters that the optimizer and the averages follow, plain or sharded."""

    trained: nn.Module
    """What computes in training: `module`, or a copy that holds the same parameters."""

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """The model in the configured precision; its output is that of its weights."""

    def accumulating(self) -> AbstractContextManager[None]:
        """Inside, gradients add up in this process alone; outside, over all of them."""

    def at(self, weights: Mapping[str, Tensor]) -> LabelledCall:
        """The model's function at other weights that are spread as its own are, for evaluation:
        no process needs another one for it. The weights are not to change while it is used."""


class Whole:
    """The whole model on every process; gradients are averaged by DDP where there are several."""

    def __init__(
        self,
        model: nn.Module,
        accelerator: Accelerator,
        *,
        trained: nn.Module | None = None,
    ) -> None:
        """`model` is on the accelerator's device, and `trained`, if it is another one, holds the
        same parameters."""
        self.module = model
        self.trained = model if trained is None else trained
        # Asked to place it, accelerate imports what sharded tensors need: a second.
        self._prepared = accelerator.prepare(self.trained, device_placement=[False])
        self._accelerator = accelerator

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        return self._prepared(x, time, labels)

    def accumulating(self) -> AbstractContextManager[None]:
        return self._accelerator.no_sync(self._prepared)

    def at(self, weights: Mapping[str, Tensor]) -> LabelledCall:
        return for_sampling(self.module, weights)


class Sharded:
    """Rows of every weight on each process, which are gathered block by block while they are used
    (FSDP2: Zhao et al. 2023, "PyTorch FSDP"; ZeRO stage 3 of Rajbhandari et al. 2020).

    Torch's `fully_shard` is used as it is, on GPUs and CPUs alike. Blocks are gathered in the
    precision of their matrix products and everything else in float32, so that the arithmetic is
    that of autocast on whole float32 weights; gradients are averaged in float32.
    """

    def __init__(
        self,
        model: nn.Module,
        accelerator: Accelerator,
        *,
        processes_per_copy: int | None = None,
        cpu_offload: bool = False,
    ) -> None:
        """`model` may still be on the host. With `processes_per_copy`, that many processes hold a
        copy of the weights between them (hybrid sharding); None: all. With `cpu_offload`, shards,
        gradients and what follows from them stay in the host's memory."""
        from torch.distributed.fsdp import (
            CPUOffloadPolicy,
            FSDPModule,
            MixedPrecisionPolicy,
            OffloadPolicy,
            fully_shard,
        )

        self._accelerator = accelerator
        self._whole = deepcopy(model).to("meta").eval()
        mesh = _mesh(accelerator, processes_per_copy)
        as_stored = MixedPrecisionPolicy(cast_forward_inputs=False)
        as_used = as_stored
        if accelerator.mixed_precision == "bf16":
            as_used = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        place = OffloadPolicy()
        if cpu_offload:
            place = CPUOffloadPolicy(pin_memory=accelerator.device.type == "cuda")
        for block in blocks_of(model):
            fully_shard(block, mesh=mesh, mp_policy=as_used, offload_policy=place)
        fully_shard(model, mesh=mesh, mp_policy=as_stored, offload_policy=place)
        assert isinstance(model, FSDPModule)
        self.module: nn.Module = model
        self.trained: nn.Module = model
        self._sum_gradients: Callable[[bool], None] = model.set_requires_gradient_sync

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        return self._in_precision(self.module)(x, time, labels)

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        self._sum_gradients(False)
        try:
            yield
        finally:
            self._sum_gradients(True)

    def at(self, weights: Mapping[str, Tensor]) -> LabelledCall:
        device = self._accelerator.device
        whole = {name: whole_of(weight).to(device) for name, weight in weights.items()}
        buffers = dict(self.module.named_buffers())
        return self._in_precision(for_sampling(self._whole, {**buffers, **whole}))

    def _in_precision(self, call: LabelledCall) -> LabelledCall:
        """As `Accelerator.prepare` makes a whole model compute."""
        if self._accelerator.mixed_precision == "no":
            return call

        def autocast(x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
            with self._accelerator.autocast():
                return call(x, time, labels).float()

        return autocast


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated parts of a model: the members of its lists of modules."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [block for modules in lists for block in modules]


def with_weights(model: nn.Module, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A copy of the modules alone, which hold `weights` by their names, and the very parameters and
    buffers of `model` besides. What is compiled in `model` is not in the copy."""
    own = (*model.named_parameters(), *model.named_buffers())
    held = weights or {}
    return deepcopy(model, {id(tensor): held.get(name, tensor) for name, tensor in own})


def for_sampling(model: nn.Module, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The model as `with_weights`, to be asked many times at the same weights."""
    copy = with_weights(model, weights).eval()
    pack(copy)
    return copy


def compile_blocks(model: nn.Module) -> None:
    """Compile each block in place: its weights and their names stay what they are. Blocks that are
    alike share what is compiled, for each shape that they meet."""
    for block in blocks_of(model):
        block.compile(dynamic=False)


def whole_of(tensor: Tensor) -> Tensor:
    """All rows of a tensor; every process must ask at the same time."""
    return tensor.full_tensor() if is_spread(tensor) else tensor


def _mesh(
    accelerator: Accelerator, processes_per_copy: int | None
) -> distributed.device_mesh.DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    device, processes = accelerator.device.type, accelerator.num_processes
    if not distributed.is_initialized():  # a process alone shards in a group of one
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        os.environ |= on_loopback()
        distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    if processes_per_copy in (None, processes):
        return init_device_mesh(device, (processes,))
    assert processes_per_copy is not None
    return init_device_mesh(
        device,
        (processes // processes_per_copy, processes_per_copy),
        mesh_dim_names=("replicate", "shard"),
    )
