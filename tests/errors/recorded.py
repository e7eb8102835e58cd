"""Records of runs that are damaged, missing or malicious."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.errors.case import Case
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
TRUSTING = replaced("config.yaml", "init_from:", "trusted_modules: [os]\ninit_from:")
STEPS = "  total_steps: 4\n"
CUT_OFF, ZEROS = '{"step": ', b"\xff\xfe\x00"


def wrote_in_run(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Prepares a folder by one file of its run."""
    return in_run(lambda run: write(name, content, run))


# fmt: off
CASES = (
    *(
        Case(f"`os.system` as the recorded model: {command.split()[0]}", command,
             "model._target_=os.system: no registered model; choose one with model=NAME",
             start="tiny", prepare=all_of(SYSTEM, TRUSTING))
        for command in (MORE, SAMPLE, EVALUATE)
    ),
    Case("`torch.load` as the recorded codec: evaluate", EVALUATE,
         "codec._target_=torch.load: no registered codec; choose one with codec=NAME",
         start="tiny", prepare=LOAD),
    Case("a module that the run trusted and you do not", SAMPLE,
         r"objective._target_=mylab.OwnFlow: no registered .*, add trusted_modules=\[mylab\]",
         start="own"),
    *(
        Case(f"config.yaml {what}", command, f"config.yaml: {says}", start="tiny", prepare=prepare)
        for what, command, prepare, says in (
            ("cut off", SAMPLE, wrote_in_run("config.yaml", "model: [1\n"), "line 2: no YAML"),
            ("overwritten", MORE, wrote_in_run("config.yaml", ZEROS), "cannot be read"),
            ("empty", EVALUATE, wrote_in_run("config.yaml", ""), ".*lacks choices"),
            ("with a list", MORE, wrote_in_run("config.yaml", "- 1\n"), "expected keys and val"),
            ("without a key", SAMPLE, replaced("config.yaml", STEPS, ""),
             "training.total_steps: missing"),
            ("out of range", EVALUATE, replaced("config.yaml", "steps: 4", "steps: -4"),
             "training.total_steps=-4: expected a whole number at least 1"),
        )
    ),
    Case("no config.yaml", SAMPLE, "has no config.yaml", start="tiny",
         prepare=removed("config.yaml")),
    Case("no identity.json: sample", SAMPLE, "identity.json: missing; this is no whole run folder",
         start="tiny", prepare=removed("identity.json")),
    Case("no identity.json: more steps", MORE, "identity.json: missing", start="tiny",
         prepare=removed("identity.json")),
    *(
        Case(f"{name} {how}: {command.split()[0]}", command,
             f"{name}: damaged \\(.*\\); move it away to go on without it", start="tiny",
             prepare=wrote_in_run(name, content))
        for name, command, how, content in (
            ("identity.json", TINY, "cut off", CUT_OFF),
            ("identity.json", MORE, "overwritten", ZEROS),
            ("identity.json", SAMPLE, "with a list", "[]"),
            ("status.json", TINY, "cut off", CUT_OFF),
        )
    ),
    Case("an identity.json without the data", SAMPLE, r"identity.json: damaged \(lacks data\)",
         start="tiny", prepare=with_json("identity.json", data=None)),
    Case("no metrics.jsonl", TINY, "result: eval/loss [0-9.]+ after 4 steps$", start="tiny",
         prepare=removed("metrics.jsonl"), code=0),
    Case("a damaged status.json of a run that goes on", TINY, "status.json: damaged", start="tiny",
         prepare=all_of(killed, wrote_in_run("status.json", CUT_OFF))),
    Case("an evaluation that is none", TINY,
         "evaluations/HASH.json: not an evaluation .*; move it away", start="tiny",
         prepare=wrote_in_run("evaluations/0123456789ab.json", "{}")),
)
