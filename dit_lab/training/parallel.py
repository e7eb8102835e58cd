"""Data-parallel models: replicated (DDP) or sharded (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from typing import Any, Protocol, Unpack

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn
from torch.func import functional_call

from dit_lab.core.calls import Asked, LabelledCall, Output
from dit_lab.core.processes import on_loopback
from dit_lab.training.ema import Average
from dit_lab.training.packed import pack
from dit_lab.training.tensor_files import is_sharded


class ParallelModel(Protocol):
    """A model to train, replicated or sharded over the processes."""

    module: nn.Module
    """Module with the parameters of the optimizer and the averages, plain or sharded."""

    trained: nn.Module
    """Module that computes in training: `module`, or a copy with the same parameters."""

    def __call__(
        self, x: Tensor, time: Tensor, labels: Tensor, /, **asked: Unpack[Asked]
    ) -> Tensor:
        """Evaluate the model in the configured precision.

        Without gradients (`torch.no_grad`), the processes exchange nothing about them.
        """

    def with_average(self, average: Average) -> LabelledCall:
        """Return the model with averaged weights as they are when it is called, in training.

        Its outputs have no gradient.
        """

    def accumulating(self) -> AbstractContextManager[None]:
        """Context in which gradients accumulate locally, without synchronisation."""

    def at(self, weights: Mapping[str, Tensor]) -> LabelledCall:
        """Return the model with other parameters, sharded like its own, for evaluation.

        All processes must call it; each can then use the result on its own. The tensors must not
        change while it is in use.
        """


class Whole:
    """Replicated model: all parameters on every process; DDP averages gradients over processes."""

    def __init__(
        self,
        model: nn.Module,
        accelerator: Accelerator,
        *,
        trained: nn.Module | None = None,
    ) -> None:
        """Wrap a model that is on the accelerator's device.

        `trained`, if it is another module, must have the same parameters.
        """
        self.module = model
        self.trained = model if trained is None else trained
        # Accelerate's placement imports the sharded-tensor code (about 1 s), so it is off.
        self._prepared = accelerator.prepare(self.trained, device_placement=[False])
        self._accelerator = accelerator

    def __call__(
        self, x: Tensor, time: Tensor, labels: Tensor, /, **asked: Unpack[Asked]
    ) -> Tensor:
        if not torch.is_grad_enabled():  # DDP would expect a backward pass
            return self.trained(x, time, labels, **asked)
        return self._prepared(x, time, labels, **asked)

    def with_average(self, average: Average) -> LabelledCall:
        @torch.no_grad()
        def call(x: Tensor, time: Tensor, labels: Tensor, /, **asked: Unpack[Asked]) -> Tensor:
            weights = dict(average.shadow)
            return functional_call(self.trained, weights, (x, time, labels), dict(asked))

        return call

    def accumulating(self) -> AbstractContextManager[None]:
        return self._accelerator.no_sync(self._prepared)

    def at(self, weights: Mapping[str, Tensor]) -> LabelledCall:
        return for_sampling(self.module, weights)


class Sharded:
    """Sharded model: rows of every parameter on each process, gathered block by block when used.

    FSDP2 (Zhao et al. 2023, "PyTorch FSDP"; ZeRO stage 3 of Rajbhandari et al. 2020) by torch's
    `fully_shard`, on GPUs and CPUs. Blocks are gathered in the precision of their matrix products
    and all else in float32, so that the arithmetic equals autocast of whole float32 parameters.
    Gradients are averaged in float32.
    """

    def __init__(
        self,
        model: nn.Module,
        accelerator: Accelerator,
        *,
        processes_per_copy: int | None = None,
        cpu_offload: bool = False,
    ) -> None:
        """Shard a model, which may still be on the CPU.

        Args:
            model: the model; it is sharded in place.
            accelerator: device, precision and processes.
            processes_per_copy: number of processes that share one copy of the parameters (hybrid
                sharding); None for all.
            cpu_offload: keep shards, gradients and optimizer state in host memory.
        """
        self._accelerator = accelerator
        self._whole = deepcopy(model).to("meta").eval()
        self._mesh = _mesh(accelerator, processes_per_copy)
        self._cpu_offload = cpu_offload
        self._shard(model)
        self.module: nn.Module = model
        self.trained: nn.Module = model
        assert callable(model.set_requires_gradient_sync)
        self._sum_gradients: Callable[[bool], None] = model.set_requires_gradient_sync

    def _shard(self, model: nn.Module, *, keep_ends: bool = True) -> None:
        """Shard a model in place.

        With `keep_ends`, what is outside of the blocks stays gathered after a forward pass.
        """
        from torch.distributed.fsdp import (
            CPUOffloadPolicy,
            MixedPrecisionPolicy,
            OffloadPolicy,
            fully_shard,
        )

        as_stored = MixedPrecisionPolicy(cast_forward_inputs=False)
        as_used, place = as_stored, OffloadPolicy()
        if self._accelerator.mixed_precision == "bf16":
            as_used = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        if self._cpu_offload:
            place = CPUOffloadPolicy(pin_memory=self._accelerator.device.type == "cuda")
        how: Any = {"mesh": self._mesh, "offload_policy": place}
        for block in blocks_of(model):
            fully_shard(block, mp_policy=as_used, **how)
        ends = None if keep_ends else True
        fully_shard(model, mp_policy=as_stored, reshard_after_forward=ends, **how)

    def __call__(
        self, x: Tensor, time: Tensor, labels: Tensor, /, **asked: Unpack[Asked]
    ) -> Tensor:
        return self._in_precision(self.module)(x, time, labels, **asked)

    def with_average(self, average: Average) -> LabelledCall:
        averaged = deepcopy(self._whole).train()
        buffers = dict(self.module.named_buffers())
        self._shard(averaged, keep_ends=False)
        averaged.to_empty(device="cpu" if self._cpu_offload else self._accelerator.device)
        for name, buffer in averaged.named_buffers():
            buffer.copy_(buffers[name])
        weights = dict(averaged.named_parameters())
        inner = self._in_precision(averaged)

        @torch.no_grad()
        def call(x: Tensor, time: Tensor, labels: Tensor, /, **asked: Unpack[Asked]) -> Tensor:
            for name, tensor in average.shadow.items():
                weights[name].copy_(tensor)
            return inner(x, time, labels, **asked)

        return call

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        self._sum_gradients(False)
        try:
            yield
        finally:
            self._sum_gradients(True)

    def at(self, weights: Mapping[str, Tensor]) -> LabelledCall:
        device = self._accelerator.device
        whole = {name: full_tensor_of(weight).to(device) for name, weight in weights.items()}
        buffers = dict(self.module.named_buffers())
        return self._in_precision(for_sampling(self._whole, {**buffers, **whole}))

    def _in_precision(self, call: LabelledCall) -> LabelledCall:
        """Wrap a call with autocast as `Accelerator.prepare` does for a replicated model."""
        if self._accelerator.mixed_precision == "no":
            return call

        def autocast(x: Tensor, time: Tensor, labels: Tensor, **asked: Unpack[Asked]) -> Tensor:
            with self._accelerator.autocast():
                return in_float32(call(x, time, labels, **asked))

        return autocast


def in_float32(output: Any) -> Any:
    """Return the output of a model, a tensor or an `Output`, in float32."""
    if isinstance(output, Output):
        heads = {name: tensor.float() for name, tensor in output.heads.items()}
        hidden = {number: tensor.float() for number, tensor in output.hidden.items()}
        return Output(output.main.float(), heads, hidden)
    return output.float()


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model: the members of its `nn.ModuleList`s."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [block for modules in lists for block in modules]


def with_weights(model: nn.Module, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return a copy of the modules with the parameters `weights`, by name.

    All other parameters and buffers are shared with `model`. Compiled code is not copied.
    """
    own = (*model.named_parameters(), *model.named_buffers())
    held = weights or {}
    return deepcopy(model, {id(tensor): held.get(name, tensor) for name, tensor in own})


def for_sampling(model: nn.Module, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return the model of `with_weights` in evaluation mode, optimised for repeated evaluation."""
    copy = with_weights(model, weights).eval()
    pack(copy)
    return copy


def compile_blocks(model: nn.Module) -> None:
    """Compile each block in place; parameters and their names do not change.

    Equal blocks share their compiled code, which is specific to each input shape.
    """
    for block in blocks_of(model):
        block.compile(dynamic=False)


def full_tensor_of(tensor: Tensor) -> Tensor:
    """Return all rows of a tensor; all processes must call it at the same time."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def _mesh(
    accelerator: Accelerator, processes_per_copy: int | None
) -> distributed.device_mesh.DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    device, processes = accelerator.device.type, accelerator.num_processes
    if not distributed.is_initialized():  # a single process needs a group too
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
