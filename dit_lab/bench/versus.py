"""Interleaved comparison of two configs, each in its own process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Protocol

from dit_lab.bench.figures import BLOCKS, Versus, in_turn
from dit_lab.bench.noise import with_data
from dit_lab.config.objects import to_config, to_tree
from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import RequestError
from dit_lab.core.processes import keep_freed_memory
from dit_lab.core.types import Shapes


class Contender(Protocol):
    """A measurement that runs a few steps at a time."""

    def steps_within(self, seconds: float) -> int: ...

    def block(self, count: int) -> float: ...


def versus(first: RunConfig, second: RunConfig, *, part: str, seconds: float) -> Versus:
    """Compare the times of two configs.

    Args:
        first: the reference config.
        second: the other config.
        part: "training" or "sampling".
        seconds: approximate total time for each.

    Raises:
        RequestError: if a config cannot be built.
    """
    with ExitStack() as open_ones:
        running = [
            open_ones.enter_context(_running(part, *with_data(config)[:2]))
            for config in (first, second)
        ]
        counts = [_ask(one, ("steps_within", seconds / BLOCKS)) for one in running]
        blocks = [
            partial(_ask, one, ("block", count)) for one, count in zip(running, counts, strict=True)
        ]
        return in_turn(*blocks)


@contextmanager
def _running(part: str, config: RunConfig, shapes: Shapes) -> Iterator[Connection]:
    """Start a process that builds the config and waits for requests."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(theirs, part, to_tree(config), shapes), daemon=True
    )
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()  # the process ends when the connection closes
        process.join()


def _ask(connection: Connection, question: tuple[str, float]) -> Any:
    connection.send(question)
    answer = connection.recv()
    if isinstance(answer, RequestError):
        raise answer
    return answer


def _serve(connection: Connection, part: str, tree: dict[str, Any], shapes: Shapes) -> None:
    from dit_lab.bench.sampling import Sampling
    from dit_lab.bench.training import training_of

    keep_freed_memory()  # as in every command
    config = to_config(RunConfig, tree)
    with ExitStack() as open_ones:
        contender: Contender
        try:
            if part == "sampling":
                contender = Sampling(config, shapes)
            else:
                contender = open_ones.enter_context(training_of(config, shapes))
        except RequestError as refusal:
            connection.recv()
            connection.send(refusal)
            return
        while True:
            try:
                method, value = connection.recv()
            except EOFError:
                return
            connection.send(getattr(contender, method)(value))
