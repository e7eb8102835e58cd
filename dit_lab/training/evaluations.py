"""Evaluations during training: which are due, and the recording of their results."""

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
    """Evaluators of the averaged parameters; `state` records the last evaluated step."""

    evaluators: Sequence[Evaluator]
    total_steps: int
    model: ParallelModel
    average: Average
    hooks: Sequence[Hook]
    state: TrainState
    saver: BackgroundSaver

    def due(self) -> list[Evaluator]:
        """Return the evaluators due at this step that have not run; if none, mark it evaluated."""
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
        """Run evaluators, report their results to the hooks, and store them with the checkpoint."""
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
