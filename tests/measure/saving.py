"""Time for which a checkpoint blocks training: saved synchronously and asynchronously.

Run with `python -m tests.measure.saving --megabytes 500 --rounds 5`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from dit_lab.training.background import BackgroundSaver
from dit_lab.training.checkpoint_store import CheckpointStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    count = given.megabytes * 1_000_000 // 4
    names = {"model": 1, "ema-0.9999": 1, "optimizer/state": 2}  # shares of the bytes, as AdamW's
    tensors = {
        name: {"w": torch.randn(count * share // sum(names.values()))}
        for name, share in names.items()
    }
    held: dict[str, list[float]] = {"at once": [], "in the background": []}
    with tempfile.TemporaryDirectory() as place:
        store = CheckpointStore(Path(place), run="measured", keep_last=1, warn=print)
        saver = BackgroundSaver(store)
        for step in range(2 * given.rounds):
            start = time.perf_counter()
            save, name = ((store.save, "at once"), (saver.save, "in the background"))[step % 2]
            save(step, tensors=tensors, state={})
            held[name].append(time.perf_counter() - start)
            saver.wait()
    for name, seconds in held.items():
        print(f"{name}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to "
              f"{max(seconds):.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
