"""Checkpoints that are truncated, changed, incomplete or of another run."""

from __future__ import annotations

import shutil

from tests.errors.case import Case, heavy
from tests.errors.starts import (
    all_flipped,
    all_of,
    flipped,
    foreign,
    newest,
    removed,
    replaced,
    truncated,
    unfinished,
    unmarked,
)

LAST = "RUN/checkpoints/step-00000004"
SAMPLE = "sample run=RUN out=a.png"
DAMAGES = (
    ("a truncated file", truncated, "model.safetensors: \\d+ bytes, not \\d+"),
    ("a changed byte", flipped, "ema-0.9.safetensors: content differs from what was written"),
    ("no COMPLETE", unmarked, "step-00000004: incomplete \\(no COMPLETE\\)"),
    ("another run's", foreign, "step-00000004: of another run \\(HASH\\)"),
    (
        "a missing file",
        lambda folder: (newest(folder) / "model.safetensors").unlink(),
        "model.safetensors: missing",
    ),
    (
        "a damaged COMPLETE",
        lambda folder: (newest(folder) / "COMPLETE").write_text("[]"),
        "step-00000004: damaged COMPLETE",
    ),
)

# fmt: off
CASES = (
    *(
        heavy(f"{what}, in the chosen checkpoint", f"sample run={LAST} out=a.png",
             f"run=\\S+/step-00000004: .*{says}", start="tiny", prepare=damage)
        for what, damage, says in DAMAGES[1:3]
    ),
    *(
        heavy(f"{what}, in the newest checkpoint: sample", SAMPLE,
             f"skipped a checkpoint: .*{says}", start="tiny", prepare=damage, code=0,
             leaves=("a.png",))
        for what, damage, says in DAMAGES
    ),
    heavy("a changed byte, in the newest checkpoint: the same command", "train experiment=tiny",
         "skipped a checkpoint: .*content differs from what was written", start="tiny",
         prepare=all_of(unfinished, flipped), code=0, leaves=("outputs/runs/tiny/HASH/*",)),
    heavy("a changed byte in every checkpoint", SAMPLE,
         "has no whole checkpoint yet .*step-00000004/model.safetensors: content differs",
         start="tiny", prepare=all_flipped),
    heavy("no checkpoints", SAMPLE, "has no whole checkpoint yet", start="tiny",
         prepare=lambda folder: shutil.rmtree(newest(folder).parent)),
    heavy("weights of another model", SAMPLE, "these weights do not fit the configured model",
         start="tiny", prepare=replaced("config.yaml", "hidden_size: 16", "hidden_size: 32")),
    Case("an average that the checkpoint does not have", f"{SAMPLE} sample.weights=ema:0.5",
         "sample.weights=ema:0.5: not kept; allowed: raw, ema, ema:0.9", start="tiny"),
    Case("a checkpoint without its configuration", f"sample run={LAST} out=a.png",
         "config.yaml: cannot be read \\(No such file or directory\\)", start="tiny",
         prepare=removed("config.yaml")),
)
