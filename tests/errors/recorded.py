"""What a run recorded: damaged, missing, or written by somebody who means harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.errors.case import Area, Case
from tests.errors.starts import (
    all_of,
    in_run,
    killed,
    removed,
    replaced,
    with_json,
    write,
)

TINY = "train experiment=tiny"
MORE = "train resume=RUN training.total_steps=8"
SAMPLE = "sample run=RUN out=a.png"
EVALUATE = "evaluate run=RUN"

SYSTEM = replaced("config.yaml", "dit_lab.models.dit.DiT", "os.system")
LOAD = replaced("config.yaml", "dit_lab.codecs.identity.Identity", "torch.load")
TRUSTING = replaced("config.yaml", "trusted_modules: []", "trusted_modules: [os]")
CUT_OFF, ZEROS = '{"step": ', b"\xff\xfe\x00"


def wrote_in_run(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Prepares a folder by one file of its run."""
    return in_run(lambda run: write(name, content, run))


def damaged_configuration(
    what: str, command: str, prepare: Callable[[Path], None], says: str
) -> Case:
    """A case of one damage to config.yaml."""
    return Case(
        title=f"config.yaml {what}",
        command=command,
        start="tiny",
        prepare=prepare,
        says=f"config.yaml: {says}",
    )


AREA = Area(
    title="What a run recorded",
    cases=(
        *(
            Case(
                title=f"`os.system` as the recorded model: {command.split()[0]}",
                command=command,
                start="tiny",
                prepare=all_of(SYSTEM, TRUSTING),
                says=r"model._target_=os.system: not in a trusted module \(dit_lab, torch.optim\)",
            )
            for command in (MORE, SAMPLE, EVALUATE)
        ),
        *(
            Case(
                title=f"`torch.load` as the recorded codec: {command.split()[0]}",
                command=command,
                start="tiny",
                prepare=LOAD,
                says="codec._target_=torch.load: not in a trusted module",
            )
            for command in (MORE, SAMPLE, EVALUATE)
        ),
        Case(
            title="a module that the run trusted and you do not",
            command=SAMPLE,
            start="own",
            says="objective._target_=mylab.OwnFlow: not in a trusted module",
        ),
        damaged_configuration(
            "cut off", SAMPLE, wrote_in_run("config.yaml", "model: [1\n"), "line 2: no YAML"
        ),
        damaged_configuration(
            "overwritten", MORE, wrote_in_run("config.yaml", ZEROS), "cannot be read"
        ),
        damaged_configuration(
            "empty", EVALUATE, wrote_in_run("config.yaml", ""), ".*lacks choices"
        ),
        damaged_configuration(
            "with a list", MORE, wrote_in_run("config.yaml", "- 1\n"), "expected keys and values"
        ),
        damaged_configuration(
            "without a key",
            SAMPLE,
            replaced("config.yaml", "  total_steps: 4\n", ""),
            "training.total_steps: missing",
        ),
        damaged_configuration(
            "with a value out of range",
            EVALUATE,
            replaced("config.yaml", "  total_steps: 4\n", "  total_steps: -4\n"),
            "training.total_steps=-4: expected a whole number at least 1",
        ),
        Case(
            title="no config.yaml",
            command=SAMPLE,
            start="tiny",
            prepare=removed("config.yaml"),
            says="has no config.yaml",
        ),
        Case(
            title="no identity.json: sample",
            command=SAMPLE,
            start="tiny",
            prepare=removed("identity.json"),
            says="identity.json: missing; this is no whole run folder",
        ),
        Case(
            title="no identity.json: evaluate",
            command=EVALUATE,
            start="tiny",
            prepare=removed("identity.json"),
            says="identity.json: missing; this is no whole run folder",
        ),
        Case(
            title="no identity.json: more steps",
            command=MORE,
            start="tiny",
            prepare=removed("identity.json"),
            says="identity.json: missing",
        ),
        *(
            Case(
                title=f"{name} {how}: {command.split()[0]}",
                command=command,
                start="tiny",
                prepare=wrote_in_run(name, content),
                says=f"{name}: damaged \\(.*\\); move it away to go on without it",
            )
            for name, command, how, content in (
                ("identity.json", TINY, "cut off", CUT_OFF),
                ("identity.json", MORE, "overwritten", ZEROS),
                ("identity.json", SAMPLE, "with a list", "[]"),
                ("status.json", TINY, "cut off", CUT_OFF),
                ("status.json", TINY, "overwritten", ZEROS),
                ("status.json", f"{TINY} ", "with a list", "[]"),
            )
        ),
        Case(
            title="an identity.json without the data",
            command=SAMPLE,
            start="tiny",
            prepare=with_json("identity.json", data=None),
            says=r"identity.json: damaged \(lacks data\)",
        ),
        Case(
            title="no metrics.jsonl",
            command=TINY,
            start="tiny",
            prepare=removed("metrics.jsonl"),
            says="result: eval/loss [0-9.]+ after 4 steps$",
            code=0,
        ),
        Case(
            title="a damaged status.json of a run that goes on",
            command=TINY,
            start="tiny",
            prepare=all_of(killed, wrote_in_run("status.json", CUT_OFF)),
            says="status.json: damaged",
        ),
        Case(
            title="an evaluation that is none",
            command=TINY,
            start="tiny",
            prepare=wrote_in_run("evaluations/0123456789ab.json", "{}"),
            says="evaluations/HASH.json: not an evaluation .*; move it away",
        ),
    ),
)
