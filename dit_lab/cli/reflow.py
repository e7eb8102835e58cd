"""Reflow: draw noise-sample pairs from a run, and train a second model on them.

The paths of the second model are straighter and need fewer steps (Liu et al. 2022).

  dit-lab reflow run=outputs/runs/quickstart/HASH
  dit-lab reflow run=RUN pairs.sample.num_images=50000 pairs.sampler.steps=50 optimizer.lr=0.001

pairs.KEY=VALUE is an option of `dit-lab sample`, for drawing the pairs. Every other KEY=VALUE
overrides the run's recorded config, for training. After an interruption, the same command resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from dit_lab.cli import train
from dit_lab.cli.arguments import add_overrides, say_own_choices
from dit_lab.config.checks.coupling import INDEPENDENT, check_pairs
from dit_lab.config.checks.machine import check_root
from dit_lab.config.checks.training import check_data
from dit_lab.config.compatibility import draws_noise
from dit_lab.config.compose import compose_reflow, given_run
from dit_lab.config.identity import refuse_foreign, run_folder, source_now
from dit_lab.config.objects import to_component
from dit_lab.config.prepare import check_request, prepare_for_run
from dit_lab.config.schema import RunConfig, SampleConfig
from dit_lab.core.errors import RequestError, StopRequested
from dit_lab.core.options import changed
from dit_lab.core.text import key_value, say
from dit_lab.core.typed import read_as
from dit_lab.core.types import Shapes
from dit_lab.runs.folder import read_json, read_status, write_json
from dit_lab.training.stop import StopSignal

SHOWS_CHOICES = False

NUM_PAIRS, FEWEST_PAIRS = 20_000, 10  # 1/10 of the pairs is held out
PAIRS = "pairs."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    given = given_run(args.overrides)
    run, root, _, recorded = given
    for_training = [text for text in args.overrides if not text.startswith((PAIRS, "run="))]
    of_pairs = [
        key_value("run", run),
        f"sample.num_images={NUM_PAIRS}",
        *(text.removeprefix(PAIRS) for text in args.overrides if text.startswith(PAIRS)),
    ]
    try:
        found = prepare_for_run(SampleConfig, of_pairs, config_dirs=args.config_dir, given=given)
    except RequestError as refusal:
        raise RequestError(f"{PAIRS}{refusal}") from None
    training = compose_reflow(for_training, recorded=recorded, config_dirs=args.config_dir)
    _check(found.config, training)
    say_own_choices(args)
    pairs = _draw(run, root, found.config, training, found.shapes)
    training = replace(training, coupling=changed(training.coupling, pairs=str(pairs)))
    code = train.work(training, overrides=for_training)
    if code == 0:
        _measure(run, root, found.config, training)
    return code


def _check(drawing: RunConfig, training: RunConfig) -> None:
    """Raise RequestError for settings that cannot be drawn or trained, before drawing pairs."""
    if draws_noise(drawing.sampler):
        raise RequestError(
            f"pairs.sampler={drawing.choices['sampler']}: is a stochastic sampler, so that the "
            "noise of a pair would not decide its image; use pairs.sampler=heun"
        )
    if (count := drawing.sample.num_images) < FEWEST_PAIRS:
        raise RequestError(
            f"pairs.sample.num_images={count}: too few to train on most and hold some out; use "
            f"{FEWEST_PAIRS} or more"
        )
    check_request(training, look=_shapes_without_pairs)
    check_root(training)


def _shapes_without_pairs(training: RunConfig) -> Shapes:
    independent = to_component("coupling", {"_target_": INDEPENDENT})
    return check_data(replace(training, coupling=independent))


def _draw(run: str, root: Path, drawing: RunConfig, training: RunConfig, shapes: Shapes) -> Path:
    from dit_lab.actions.reflow import draw_pairs, facts_of  # torch: seconds
    from dit_lab.build.trained import load

    trained = load(
        run,
        root=root,
        weights=drawing.sample.weights,
        codec_path=getattr(training.codec, "path", None),
    )
    facts = facts_of(trained, drawing)
    check_pairs(facts, training, shapes)
    now = {"pairs_fingerprint": facts.fingerprint, **source_now(training)}
    refuse_foreign(run_folder(training), training, now)
    try:
        with StopSignal() as stop:
            return draw_pairs(
                trained,
                facts,
                drawing,
                check_stop=stop.check,
                on_message=say,
            )
    except StopRequested:
        say("stopped: the pairs that are drawn are kept; the same command goes on from there")
        raise


def _measure(run: str, root: Path, drawing: RunConfig, training: RunConfig) -> None:
    """Print the straightness of both runs, and write it to straightness.json in the run folder."""
    from dit_lab.actions.reflow import PATHS, straightness
    from dit_lab.build.trained import load

    folder, found = run_folder(training), {}
    file, step = folder.root / "straightness.json", read_status(folder)["step"]
    known = _read(file)
    if known and known["after"]["run"].startswith(f"{folder.root.name} at step {step},"):
        _say(known)
        return
    with StopSignal() as stop:
        for when, name in (("before", run), ("after", str(folder.root))):
            trained = load(
                name,
                root=root,
                codec_path=getattr(training.codec, "path", None),
            )
            found[when] = {
                "run": trained.name,
                "straightness": straightness(trained, training, check_stop=stop.check),
            }
    write_json(file, {"paths": PATHS, **found})
    _say(_read(file))


class _Side(TypedDict):
    run: str
    straightness: float


class _Straightness(TypedDict):
    paths: int
    before: _Side
    after: _Side


def _read(file: Path) -> Mapping[str, Any]:
    """Return straightness.json of a run, or {} if there is none. Raises RequestError."""
    found = read_json(file)
    return dict(read_as(_Straightness, found, where=file)) if found else {}


def _say(found: Mapping[str, Any]) -> None:
    before, after = (found[when]["straightness"] for when in ("before", "after"))
    paths = found["paths"]
    say(f"straightness of {paths} paths: {before:.4f} before, {after:.4f} after (0 is straight)")
