"""A small training in one or several processes, whose results must be the same.

`in_processes(4, "train", ...)` runs a function of this module in four processes, forked from a
server that has done the imports, and connected as torchrun would connect them.
"""

from __future__ import annotations

import json
import os
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

RUN = """
from tests.integration import small_training
small_training.enter(function, rank, processes, port, options)
"""
STEPS, GLOBAL_BATCH = 20, 16
DEPTH = 4  # blocks of a model that is trained with methods
ADAMW = {"member": "adamw", "lr": 1e-4}


def in_processes(
    fork: Callable[[str, dict[str, Any]], Any], processes: int, function: str, **options: Any
) -> None:
    """Call a function of this module in each process; raise if it fails in one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    given = {"function": function, "processes": processes, "port": port, "options": options}
    started = [fork(RUN, {**given, "rank": rank}) for rank in range(processes)]
    for process in started:
        process.join(120)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert codes == [0] * processes, codes


def enter(function: str, rank: int, processes: int, port: int, options: dict[str, Any]) -> None:
    """In one of the processes. A process alone is started as a person would, by nobody."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if processes > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }  # fmt: skip
    import torch

    torch.set_num_threads(1)
    try:
        globals()[function](**options)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # without the goodbyes of process groups


@dataclass(frozen=True)
class Doubled:
    """Training batches in another precision, with the same values."""

    batches: Any
    dtype: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)

    def from_step(self, step: int) -> Iterator[Any]:
        def change(tensor: Any) -> Any:
            return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

        for micro_batches in self.batches.from_step(step):
            yield [batch.each(change) for batch in micro_batches]


@dataclass(frozen=True)
class Parts:
    """What trains: built alike in every process."""

    context: Any
    model: Any
    optimizer: Any
    emas: Any


def build(
    *,
    sharded: bool = False,
    processes_per_copy: int | None = None,
    cpu_offload: bool = False,
    dtype: str = "float32",
    bf16: bool = False,
    accumulation: int = 1,
    optimizer: Mapping[str, Any] = ADAMW,
    needs: Mapping[str, Any] = {},
    **changes: Any,
) -> Parts:
    import torch

    from dit_lab.models.dit import DiT
    from dit_lab.training.distributed import DistributedContext
    from dit_lab.training.ema import EMA, ScheduleFree
    from dit_lab.training.stop import StopSignal

    draw = torch.Generator().manual_seed(0)
    options = {
        "input_size": (8, 8), "patch_size": 4, "in_channels": 1, "hidden_size": 16, "depth": 2,
        "num_heads": 2, "num_classes": 10, "learn_sigma": False, "generator": draw,
    }  # fmt: skip
    model = DiT(**(options | needs | changes))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=draw))
    context = DistributedContext(
        StopSignal(), mixed_precision="bf16" if bf16 else "no", static_graph=accumulation == 1
    )
    how = {
        "sharded": sharded,
        "processes_per_copy": processes_per_copy,
        "cpu_offload": cpu_offload,
    }
    parallel = context.parallel_model(model.to(getattr(torch, dtype)), **how)
    weights = dict(parallel.module.named_parameters())
    made = _optimizer(parallel.module, **optimizer)
    emas: list[Any] = [EMA(weights, decay=decay, warmup=True) for decay in (0.9, 0.5)]
    if optimizer["member"] == "schedule_free_adamw":
        emas.insert(0, ScheduleFree(weights, made))
    return Parts(context, parallel, made, emas)


def _methods(chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Training methods by the name of their class, for a model of width 16 with four tokens."""
    import torch
    from hydra.utils import get_class

    from dit_lab.core.options import accepted

    def teacher(images: Any) -> Any:
        return torch.stack([images.flatten(1)[:, k : k + 8] for k in range(4)], dim=1)

    given = {"width": 16, "depth": DEPTH, "tokens": 4, "teacher": teacher, "features": 8}
    found = {}
    for name, options in chosen.items():
        kind: Any = get_class(f"dit_lab.methods.{name}")
        found[name.rpartition(".")[2].lower()] = kind(**accepted(kind, given), **options)
    return found


def _optimizer(model: Any, *, member: str, **options: Any) -> Any:
    """A member of the group, with its defaults but for these options."""
    from types import SimpleNamespace

    from dit_lab.build.optimizer import build_optimizer
    from dit_lab.training.optimizers.options import COMPONENTS, MEMBERS

    target = MEMBERS[member]
    chosen = COMPONENTS[target](_target_=target, **options)
    return build_optimizer(SimpleNamespace(optimizer=chosen), model)  # type: ignore[arg-type]


def train(
    folder: str,
    *,
    steps: int = STEPS,
    accumulation: int = 1,
    dtype: str = "float32",
    sharded: bool = False,
    nan_at: Sequence[int] = (),
    nan_on: int = 0,
    powers: Sequence[float] = (),
    objective: str = "rectified_flow.RectifiedFlow",
    objective_options: Mapping[str, Any] = {},
    methods: Mapping[str, Mapping[str, Any]] = {},
    **options: Any,
) -> None:
    """Train in a folder, resuming from its newest checkpoint; rows go to rows.json.

    Power-function averages of the lengths `powers` are saved at every 5th step, below `averages`.
    """
    import torch
    from hydra.utils import get_class

    from dit_lab.codecs.identity import Identity
    from dit_lab.core.calls import needs_of
    from dit_lab.core.errors import Diverged
    from dit_lab.core.process_group import SINGLE_PROCESS
    from dit_lab.core.types import Hook
    from dit_lab.data.digits import Digits
    from dit_lab.data.order import SampleOrder
    from dit_lab.methods.together import WithMethods
    from dit_lab.training.batches import Draws, TrainingBatches, no_draws
    from dit_lab.training.checkpoint_store import CheckpointStore
    from dit_lab.training.coupling import Independent
    from dit_lab.training.ema import PowerAverage
    from dit_lab.training.loop import LoopSettings
    from dit_lab.training.loop import train as loop
    from dit_lab.training.schedules import Constant
    from dit_lab.training.snapshots import Snapshots

    rows: list[Any] = []

    class Rows(Hook):
        def on_metrics(self, step: int, metrics: Any) -> None:
            rows.append(
                [step, {k: v for k, v in metrics.items() if not k.startswith(("perf/", "system/"))}]
            )

    chosen: Any = get_class(f"dit_lab.objectives.{objective}")

    class Flow(chosen):
        """Whose loss is not finite at some steps, for the images of one process."""

        def loss(self, predict: Any, batch: Any) -> Any:
            terms = super().loss(predict, batch)
            step = int(batch.sample_counter[0]) // GLOBAL_BATCH
            bad = step in nan_at and parts.context.process_group.index == nan_on
            return {name: term * torch.nan if bad else term for name, term in terms.items()}

    flow: Any = Flow(**objective_options)
    needs = needs_of(flow)
    if methods:
        flow = WithMethods(flow, _methods(methods))
        for method in flow.methods.values():
            needs = needs.with_those(method.needs)
        options["depth"] = DEPTH
    parts = build(
        dtype=dtype, sharded=sharded, accumulation=accumulation, needs=needs.arguments(), **options
    )
    process_group, digits = parts.context.process_group, Digits(split="train")
    batches = TrainingBatches(
        dataset=digits,
        order=SampleOrder(0, len(digits)),
        draws=Draws(
            seed=0, purpose="train", latent_shape=(1, 8, 8),
            time_from_uniform=flow.time_from_uniform, label_drop_prob=0.25,
            further=getattr(flow, "draws", no_draws),
        ),
        codec=Identity(),
        coupling=Independent(),
        device=torch.device("cpu"),
        global_batch_size=GLOBAL_BATCH,
        accumulation=accumulation,
        process_index=process_group.index,
        num_processes=process_group.size,
        num_workers=0,
        keep_images=True,
    )  # fmt: skip
    writers = parts.context.writers if sharded else SINGLE_PROCESS
    store = CheckpointStore(Path(folder), run="here", process_group=writers, warn=print)
    saves = sharded or parts.context.is_main_process
    averages = CheckpointStore(
        Path(folder) / "averages",
        run="here",
        process_group=parts.context.snapshot_writers if sharded else SINGLE_PROCESS,
        warn=print,
    )
    weights = dict(parts.model.module.named_parameters())
    kept = [PowerAverage(weights, std=std) for std in powers]
    try:
        loop(
            accelerator=parts.context.accelerator,
            process_group=process_group,
            model=parts.model,
            null_label=10,
            objective=flow,
            batches=Doubled(batches, getattr(torch, dtype)),  # type: ignore[arg-type]
            optimizer=parts.optimizer,
            schedule=Constant(warmup_steps=3),
            emas=[*parts.emas, *kept],
            snapshots=Snapshots(averages if saves and kept else None, averages=kept, every_steps=5),
            checkpoints=store if saves else None,
            resume_from=process_group.first(store.latest),
            evaluators=[],
            hooks=[Rows()],
            settings=LoopSettings(
                total_steps=steps,
                clip_norm=0.5,
                log_every_steps=1,
                checkpoint_every_steps=5,
                max_skipped_in_a_row=3,
                images_per_epoch=len(digits),
            ),
            check_stop=lambda: None,
        )
    except Diverged as streak:
        Path(folder, f"streak-{process_group.index}.json").write_text(
            json.dumps({"text": str(streak), **(streak.diagnosis or {})}, allow_nan=False)
        )
    if parts.context.is_main_process:
        Path(folder, "rows.json").write_text(json.dumps(rows))


def train_each(
    folder: str,
    *,
    optimizers: Mapping[str, Mapping[str, Any]],
    stops: Sequence[int],
    **options: Any,
) -> None:
    """Train with each optimizer in turn, each in a folder of its name.

    Training restarts from the checkpoint at each of the steps `stops`.
    """
    for name, optimizer in optimizers.items():
        for steps in stops:
            train(str(Path(folder, name)), steps=steps, optimizer=optimizer, **options)


def step_shards(folder: str) -> None:
    """Step shards of a weight by every optimizer; those that raise, to FOLDER/RANK.json."""
    import inspect

    import torch
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from dit_lab.training.distributed import DistributedContext
    from dit_lab.training.optimizers.options import MEMBERS
    from dit_lab.training.stop import StopSignal

    context = DistributedContext(StopSignal())
    mesh = init_device_mesh("cpu", (context.process_group.size,))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(7, 9)])

        def forward(self, x: Any) -> Any:
            return self.blocks[0](x)

    def raises(make: Callable[[nn.Module], Any]) -> bool:
        model = fully_shard(Model(), mesh=mesh)
        optimizer = make(model)
        model(torch.ones(3, 7)).square().sum().backward()
        try:
            optimizer.step()
        except (RuntimeError, NotImplementedError):
            return True
        return False

    found = [name for name in MEMBERS if raises(partial(_optimizer, member=name))]
    for name, kind in inspect.getmembers(torch.optim, inspect.isclass):
        if not issubclass(kind, torch.optim.Optimizer) or name in NOT_FOR_SHARDS:
            continue
        for options in ({}, {"fused": True}):
            if options and "fused" not in inspect.signature(kind).parameters:
                continue
            made = partial(kind, **options)
            if raises(lambda model, made=made: made(model.parameters())):
                found.append(f"torch.optim.{name}{' fused' if options else ''}")
    Path(folder, f"{context.process_group.index}.json").write_text(json.dumps(found))
    context.process_group.first(lambda: None)


NOT_FOR_SHARDS = ("Optimizer", "LBFGS", "Muon", "SparseAdam")
"""The base, and those that cannot train a model at all."""


def copy_checkpoint(source: str, target: str, *, sharded: bool = False, **options: Any) -> None:
    """Load the newest checkpoint of a folder, and save the loaded state in another."""
    from dit_lab.core.process_group import SINGLE_PROCESS
    from dit_lab.training.checkpoint_store import CheckpointStore
    from dit_lab.training.state import Snapshot, TrainState, Window

    parts = build(sharded=sharded, **options)
    context, state = parts.context, TrainState()
    everything = Snapshot(
        model=parts.model.module,
        optimizer=parts.optimizer,
        emas=parts.emas,
        state=state,
        window=Window(context.accelerator.device),
    )
    latest = CheckpointStore(Path(source), run="here", warn=print).latest()
    assert latest is not None
    everything.restore(latest)
    if sharded or context.is_main_process:
        writers = context.writers if sharded else SINGLE_PROCESS
        store = CheckpointStore(Path(target), run="here", process_group=writers, warn=print)
        store.save(state.step, tensors=everything.tensors(), state=everything.scalars())
    context.process_group.first(lambda: None)


def agree(folder: str) -> None:
    """Write results of collective operations in every process to FOLDER/RANK.json."""
    from dit_lab.core.errors import StopRequested
    from dit_lab.core.process_group import map_over_ranks
    from dit_lab.training.distributed import DistributedContext
    from dit_lab.training.stop import StopSignal

    stop = StopSignal()
    context = DistributedContext(stop)
    process_group = context.process_group
    said: dict[str, Any] = {
        "first": process_group.first(lambda: process_group.index + 10),
        "every": process_group.every(lambda: process_group.index + 10),
        "largest": process_group.largest(process_group.index),
        "shared": list(
            map_over_ranks(process_group, range(5), lambda item: [item, process_group.index])
        ),
    }

    def fail() -> None:
        if process_group.index == 1:
            raise OSError(28, "disk full", "there")

    class OddError(Exception):
        """An error that cannot be unpickled."""

        def __init__(self, one: Any, other: Any) -> None:
            super().__init__(f"{one} and {other}")

    def fail_oddly() -> None:
        raise OddError("lock", "key")

    for name, call in (
        ("raised", lambda: process_group.every(fail)),
        ("odd", lambda: process_group.first(fail_oddly)),
    ):
        try:
            call()
        except Exception as error:
            said[name] = [type(error).__name__, str(error)]
    if process_group.index == 1:
        stop._received = 10
    try:
        context.check_stop()
    except StopRequested as request:
        said["stopped"] = request.signal_number
    Path(folder, f"{process_group.index}.json").write_text(json.dumps(said))
    process_group.first(lambda: None)


def save_on_a_full_disk(folder: str) -> None:
    """Save shards where the second process may not write its files, and then where it may."""
    import resource
    import signal

    from dit_lab.training.checkpoint_store import CheckpointNotWritten, CheckpointStore
    from dit_lab.training.state import Snapshot, TrainState, Window

    parts = build(sharded=True)
    context = parts.context
    everything = Snapshot(
        model=parts.model.module,
        optimizer=parts.optimizer,
        emas=parts.emas,
        state=TrainState(),
        window=Window(context.accelerator.device),
    )
    store = CheckpointStore(Path(folder), run="here", process_group=context.writers, warn=print)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if context.process_group.index == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

    def save() -> str:
        try:
            store.save(0, tensors=everything.tensors(), state=everything.scalars())
        except CheckpointNotWritten as trouble:
            return str(trouble)
        return "saved"

    said: list[Any] = [save()]
    context.process_group.first(lambda: None)
    said.append(sorted(path.name for path in Path(folder).iterdir()))
    context.process_group.first(lambda: None)  # all have looked
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    said.append(save())
    Path(folder, f"said-{context.process_group.index}.json").write_text(json.dumps(said))
    context.process_group.first(lambda: None)
