"""The evaluators of a training: which are due, and what they find, told and written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dit_lab.core.types import Evaluator, Hook, is_due
from dit_lab.training.background import BackgroundSaver
from dit_lab.training.checkpoint import Measured
from dit_lab.training.ema import Average
from dit_lab.training.parallel import ParallelModel
from dit_lab.training.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """What looks at the averaged weights while they are trained; `state` knows what it has seen."""

    evaluators: Sequence[Evaluator]
    total_steps: int
    model: ParallelModel
    average: Average
    hooks: Sequence[Hook]
    state: TrainState
    saver: BackgroundSaver

    def due(self) -> list[Evaluator]:
        """Those of this step that have not run; a step without any counts as evaluated."""
        state = self.state
        if state.evaluated_step == state.step:
            return []
        chosen = [
            evaluator
            for evaluator in self.evaluators
            if is_due(state.step, every_steps=evaluator.every_steps, total_steps=self.total_steps)
        ]
        if not chosen:
            state.evaluated_step = state.step
        return chosen

    def run(self, chosen: Sequence[Evaluator]) -> None:
        """Tell the hooks what they find, and note it beside the checkpoint of this step."""
        if not chosen:
            return
        state, metrics = self.state, dict(self.state.results)
        with torch.no_grad():
            averaged = self.model.at(self.average.shadow)
            for evaluator in chosen:
                result = evaluator.run(averaged, state.step)
                metrics |= result.metrics
                for hook in self.hooks:
                    if result.metrics:
                        hook.on_metrics(state.step, result.metrics)
                    for artifact in result.artifacts:
                        hook.on_artifact(state.step, artifact)
        state.results, state.evaluated_step = metrics, state.step
        self.saver.note(state.step, Measured(evaluated_step=state.step, results=metrics))
