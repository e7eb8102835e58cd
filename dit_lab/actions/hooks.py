"""User-defined hooks.

After a hook raises, only its `on_end` is called, and training ends like after a stop signal: every
process saves at the next step. The run is then FAILED, with an error that names the hook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dit_lab.config.components import load_component
from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import HookError, RequestError
from dit_lab.core.options import accepted, arguments_of, target_of
from dit_lab.core.types import Hook
from dit_lab.runs.folder import RunFolder


class OwnHook(Hook):
    """Calls those methods that a user-defined hook has."""

    def __init__(self, name: str, hook: Any, *, on_failure: Callable[[], None]) -> None:
        self._name, self._hook = name, hook
        self._on_failure = on_failure
        self.failure: HookError | None = None

    def on_start(self, *, first_step: int, total_steps: int) -> None:
        self._call("on_start", first_step=first_step, total_steps=total_steps)

    def on_step(self, step: int) -> None:
        self._tell("on_step", step)

    def on_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._tell("on_metrics", step, dict(metrics))

    def on_artifact(self, step: int, path: Path) -> None:
        self._tell("on_artifact", step, path)

    def on_message(self, text: str) -> None:
        self._tell("on_message", text)

    def on_end(self, *, status: str, step: int, error: str | None) -> None:
        self._call("on_end", status=status, step=step, error=error)

    def _tell(self, method: str, *given: Any) -> None:
        """Call a method during training; a failure is stored and requests a stop."""
        if self.failure is not None:
            return
        try:
            self._call(method, *given)
        except HookError as error:
            self.failure = error
            self._on_failure()

    def _call(self, method: str, *given: Any, **named: Any) -> None:
        call = getattr(self._hook, method, None)
        if call is None:
            return
        try:
            call(*given, **named)
        except Exception as error:  # user code may raise anything
            raise HookError(self._name, method, error) from error


def build_hooks(
    config: RunConfig, folder: RunFolder, *, on_failure: Callable[[], None]
) -> list[OwnHook]:
    """Build the configured hooks.

    A constructor with the parameter `folder` gets the run folder, which already has config.yaml.
    `on_failure` is called when a hook raises during training.

    Raises:
        HookError: a constructor failed.
    """
    found = []
    for name, options in config.hook.items():
        kind = load_component(target_of(options), key=f"hook.{name}._target_")
        given = accepted(kind, {"folder": folder.root})
        try:
            hook = kind(**arguments_of(options), **given)
        except RequestError:
            raise
        except Exception as error:  # user code may raise anything
            raise HookError(name, "__init__", error) from error
        found.append(OwnHook(name, hook, on_failure=on_failure))
    return found


def refuse_failed(hooks: list[OwnHook]) -> None:
    """Raise the HookError of a hook that failed during training."""
    for hook in hooks:
        if hook.failure is not None:
            raise hook.failure
