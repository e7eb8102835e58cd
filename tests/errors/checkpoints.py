"""Checkpoints: truncated, changed, incomplete, of another run."""

from __future__ import annotations

import shutil

from tests.errors.case import Area, Case
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

AREA = Area(
    title="Checkpoints",
    cases=(
        *(
            Case(
                title=f"{what}, in the chosen checkpoint",
                command=f"sample run={LAST} out=a.png",
                start="tiny",
                prepare=damage,
                says=f"run=\\S+/step-00000004: .*{says}",
                slow=True,
            )
            for what, damage, says in DAMAGES
        ),
        *(
            Case(
                title=f"{what}, in the newest checkpoint: sample",
                command=SAMPLE,
                start="tiny",
                prepare=damage,
                says=f"skipped a checkpoint: .*{says}",
                code=0,
                slow=True,
                leaves=("a.png",),
            )
            for what, damage, says in DAMAGES
        ),
        Case(
            title="a changed byte, in the newest checkpoint: the same command",
            command="train experiment=tiny",
            start="tiny",
            prepare=all_of(unfinished, flipped),
            says="skipped a checkpoint: .*content differs from what was written",
            code=0,
            slow=True,
            leaves=("outputs/runs/tiny/HASH/*",),
        ),
        Case(
            title="a changed byte in every checkpoint",
            command=SAMPLE,
            start="tiny",
            prepare=all_flipped,
            says="has no whole checkpoint yet .*step-00000004/model.safetensors: content differs",
            slow=True,
        ),
        Case(
            title="no checkpoints",
            command=SAMPLE,
            start="tiny",
            prepare=lambda folder: shutil.rmtree(newest(folder).parent),
            says="has no whole checkpoint yet",
            slow=True,
        ),
        Case(
            title="weights of another model",
            command=SAMPLE,
            start="tiny",
            prepare=replaced("config.yaml", "hidden_size: 16", "hidden_size: 32"),
            says="these weights do not fit the configured model",
            slow=True,
        ),
        Case(
            title="an average that the checkpoint does not have",
            command=f"{SAMPLE} sample.weights=ema:0.5",
            start="tiny",
            says="sample.weights=ema:0.5: not kept; allowed: raw, ema, ema:0.9",
        ),
        Case(
            title="a checkpoint without its configuration",
            command=f"sample run={LAST} out=a.png",
            start="tiny",
            prepare=removed("config.yaml"),
            says="config.yaml: cannot be read \\(No such file or directory\\)",
        ),
    ),
)
