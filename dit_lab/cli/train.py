"""Train a model, or with -m one for each combination of values.

  dit-lab train experiment=quickstart
  dit-lab train dataset=digits codec=identity model=pico training.total_steps=500 ema.warmup=true
  dit-lab train -m experiment=quickstart objective=ddpm,rectified_flow seed=0,1,2
  dit-lab train -m experiment=quickstart optimizer.lr=0.001,0.003 'ema.decays=[0.99],[0.999]'

The same command resumes an interrupted training, and shows the results of a finished one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from dit_lab.actions.workers import is_main_process, on_workers, starts_workers
from dit_lab.cli.arguments import add_config_dir, say_own_choices
from dit_lab.cli.finished import answer, show_results
from dit_lab.config.axes import asks_for_sweep
from dit_lab.config.checks.together import setting_warnings
from dit_lab.config.compose import Composer, compose_train
from dit_lab.config.help import with_help
from dit_lab.config.prepare import Prepared, prepare
from dit_lab.config.schema import RunConfig
from dit_lab.core.errors import Diverged, RequestError, StopRequested
from dit_lab.core.text import say, say_lines, shell_line
from dit_lab.runs.recorded import has_comparable_code
from dit_lab.tracking.console import make_display
from dit_lab.tracking.notes import COMMAND

CONFIG = RunConfig
SHOWS_CHOICES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the config")
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="a job for each combination of KEY=A,B,..."
    )
    parser.add_argument(
        "--cfg", choices=["job"], help="print the composed configuration and do nothing else"
    )
    add_config_dir(parser)


def run(args: argparse.Namespace) -> int:
    if args.multirun or asks_for_sweep(args.overrides, args.config_dir):
        from dit_lab.cli.sweep import start  # reports: half a second

        return start(args)
    if args.cfg:
        found = Composer(args.config_dir).compose(args.overrides)
        say_lines("".join(f"# {note}\n" for note in found.notes) + with_help(found.config))
        return 0
    notes: list[str] = []
    config = compose_train(args.overrides, config_dirs=args.config_dir, on_note=notes.append)
    return work(
        config, overrides=args.overrides, on_start=partial(say_own_choices, args, notes=notes)
    )


def work(
    config: RunConfig,
    *,
    overrides: Sequence[str],
    tags: Mapping[str, str] | None = None,
    on_start: Callable[[], None] = lambda: None,
    measures: bool = True,
) -> int:
    """Train a config; if it is trained already, show, sample or evaluate it; return the exit code.

    Args:
        config: the composed config.
        overrides: the overrides of the command, for the tracker.
        tags: additional tags for the tracker.
        on_start: called once all checks have passed.
        measures: False if the caller evaluates a finished run itself.
    """
    prepared = prepare(config)
    on_start()
    folder, before = prepared.folder, prepared.before
    if before and not has_comparable_code(before):
        say(
            f"{folder.root}: was recorded by a version with other code hashes, so changes of the "
            "code since then cannot be detected"
        )
    if prepared.is_finished:
        return answer(prepared, measures=measures)
    if is_main_process():
        for line in setting_warnings(prepared.config, prepared.shapes):
            say(f"note: {line}")
    if starts_workers(prepared.config):
        given = {"overrides": list(overrides), "tags": dict(tags or {})}
        return on_workers("train", prepared.config, **given)
    if is_main_process():
        for note in prepared.notes:
            say(f"data: {note}")
    typed = {COMMAND: shell_line("dit-lab", "train", *overrides)}
    told = {**typed, "dit_lab.overrides": " ".join(overrides), **(tags or {})}
    return _train(prepared, told)


def _train(prepared: Prepared, told: Mapping[str, str]) -> int:
    display, folder = make_display(prepared.config.name), prepared.folder
    if is_main_process():
        display.on_message(f"run folder: {folder.root}")

    from dit_lab.actions.train import run_training  # torch: seconds

    try:
        run_training(prepared.config, prepared.shapes, display=display, told=told)
    except StopRequested:
        say(f"stopped and saved: {folder.root}; the same command goes on from there")
        raise
    except (RequestError, Diverged, KeyboardInterrupt):
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        more = f" (traceback in {folder.log})" if folder.log.exists() else ""
        say(f"dit-lab: failed: {type(error).__name__}: {reason}{more}", sys.stderr)
        return 1
    if is_main_process():
        show_results(folder)
    return 0
