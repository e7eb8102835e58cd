"""Time of each part of an optimizer step: the forward pass by kind of layer, and all that follows.

The training loop is unchanged: the objects passed to it are wrapped during the measurement. Hooks
add 2% to a step of nano; torch.profiler adds 11% and reports operators instead of parts.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from dit_lab.training.parallel import blocks_of

REST = "the rest of the loop"
LAYERS = {
    "x_embedder": "embedding",
    "t_embedder": "embedding",
    "y_embedder": "embedding",
    "attn": "attention",
    "mlp": "MLP",
    "adaLN_modulation": "modulation",
}
"""Module name -> part of a DiT."""
BLOCKS, OUTPUT = "norms, gates, sums", "output layer"


class Stopwatch:
    """Seconds by section; the time of nested sections is not counted for the outer one."""

    def __init__(self, settle: Callable[[], None]) -> None:
        """Create a stopwatch; `settle` waits until the device has finished its work."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._settle = settle
        self._open: list[str] = []
        self._since = 0.0

    def enter(self, name: str) -> None:
        self._count()
        self._open.append(name)

    def leave(self) -> None:
        self._count()
        self._open.pop()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def _count(self) -> None:
        self._settle()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


@contextmanager
def watched(
    objects: Mapping[str, Any], watch: Stopwatch, *, inside_blocks: bool
) -> Iterator[dict[str, Any]]:
    """Wrap the objects of `build.training_objects` so that every part is timed.

    With `inside_blocks`, layers inside blocks are timed by kind; without it, a block counts as one
    part, as is necessary for compiled blocks.
    """
    with ExitStack() as undo:
        undo.enter_context(watch.section(REST))
        for module, name in _sections(objects["model"].trained, inside_blocks):
            before = module.register_forward_pre_hook(lambda *_, name=name: watch.enter(name))
            after = module.register_forward_hook(lambda *_: watch.leave())
            undo.callback(before.remove)
            undo.callback(after.remove)
        for thing, method, name in (
            (objects["accelerator"], "backward", "backward"),
            (objects["optimizer"], "step", "optimizer"),
            *((ema, "update", "EMA") for ema in objects["emas"]),
        ):
            _time(undo, watch, thing, method, name)
        yield {
            **objects,
            "objective": _Watched(objects["objective"], watch),
            "batches": _WatchedBatches(objects["batches"], watch),
        }


def _sections(model: nn.Module, inside_blocks: bool) -> Iterator[tuple[nn.Module, str]]:
    """Yield modules and the part that each counts for; nested modules count separately."""
    yield model, "the rest of the model"
    for name, module in model.named_children():
        if name in LAYERS:
            yield module, LAYERS[name]
        elif name == "final_layer":
            yield module, OUTPUT
            yield from _layers(module)
    for block in blocks_of(model):
        yield block, BLOCKS if inside_blocks else "blocks"
        if inside_blocks:
            yield from _layers(block)


def _layers(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    return ((child, LAYERS[name]) for name, child in module.named_children() if name in LAYERS)


def _time(undo: ExitStack, watch: Stopwatch, thing: Any, method: str, name: str) -> None:
    """Time a method of this object until `undo` closes."""
    plain = getattr(thing, method)

    def timed(*args: Any, **kwargs: Any) -> Any:
        with watch.section(name):
            return plain(*args, **kwargs)

    setattr(thing, method, timed)
    undo.callback(delattr, thing, method)


class _Watched:
    """An objective whose loss is timed, excluding the model."""

    def __init__(self, objective: Any, watch: Stopwatch) -> None:
        self._objective, self._watch = objective, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)

    def loss(self, *args: Any) -> Any:
        with self._watch.section("loss"):
            return self._objective.loss(*args)


class _WatchedBatches:
    """Batches whose waiting time is measured."""

    def __init__(self, batches: Any, watch: Stopwatch) -> None:
        self._batches, self._watch = batches, watch
        self.dataset, self.global_batch_size = batches.dataset, batches.global_batch_size
        self.order = batches.order

    def from_step(self, first_step: int) -> Iterator[Any]:
        steps = self._batches.from_step(first_step)
        try:
            while True:
                with self._watch.section("data"):
                    micro_batches = next(steps)
                yield micro_batches
        finally:
            steps.close()
