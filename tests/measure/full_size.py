"""The import of weights of full size: how long it takes and how much memory.

    python -m tests.measure.full_size [FOLDER]

makes files with the names and shapes of DiT-XL/2, SiT-XL/2 and LightningDiT-XL/1 (675 million
random numbers, 2.7 GB each) in a folder of its own, imports each by the command, compares every
tensor of the run with the file, and removes everything. Prints a table of them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dit_lab.interop.architecture import Architecture, positions
from dit_lab.interop.formats import FORMATS
from dit_lab.runs.folder import RunFolder, newest_checkpoint
from dit_lab.training.checkpoint import Checkpoint

XL = Architecture(
    input_size=(32, 32), patch_size=2, in_channels=4, hidden_size=1152, depth=28, num_heads=16,
    mlp_ratio=4.0, num_classes=1000, class_dropout_prob=0.1, learn_sigma=True,
)  # fmt: skip

LIGHTNING_XL = replace(
    XL, input_size=(16, 16), patch_size=1, in_channels=32, learn_sigma=False, norm="rms",
    mlp="swiglu", rope=True,
)  # fmt: skip
FILES = {
    "DiT-XL-2-256x256.pt": XL,
    "SiT-XL-2-256.pt": XL,
    "lightningdit-xl-imagenet256.pt": LIGHTNING_XL,
}


def weights(architecture: Architecture) -> dict[str, Tensor]:
    """Return weights with the lab's names."""
    generator = torch.Generator().manual_seed(0)
    shapes = architecture.shapes()
    found = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**found, "pos_embed": positions(architecture)}


def memory(pid: int) -> dict[str, int]:
    """Return the bytes of a process by kind; {} if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    wanted = ("VmRSS", "RssAnon", "RssFile")
    return {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in lines
        if line.split(":")[0] in wanted
    }


def run(arguments: list[str], folder: Path) -> tuple[float, dict[str, int]]:
    """Return the seconds of a command, and its peak memory by kind."""
    begun, peaks = time.monotonic(), {"VmRSS": 0, "RssAnon": 0, "RssFile": 0}
    process = subprocess.Popen([sys.executable, "-m", "dit_lab", *arguments], cwd=folder)

    def watch() -> None:
        while process.poll() is None:
            for kind, size in memory(process.pid).items():
                peaks[kind] = max(peaks[kind], size)
            time.sleep(0.02)

    watching = threading.Thread(target=watch)
    watching.start()
    assert process.wait() == 0
    watching.join()
    return time.monotonic() - begun, peaks


def main() -> None:
    place = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=place) as made:
        folder, rows = Path(made), []
        for name, architecture in FILES.items():
            expected, out = weights(architecture), name.partition("-")[0].lower()
            numbers = sum(tensor.numel() for tensor in expected.values())
            torch.save(FORMATS[out].from_ours(expected, architecture), folder / name)
            seconds, peaks = run(["import", name, "--out", out], folder)
            checkpoint = newest_checkpoint(RunFolder(folder / out))
            assert checkpoint is not None
            group = Checkpoint(checkpoint).group("ema-0.9999")
            assert set(group.names()) == expected.keys()
            assert all(group.read(key).equal(tensor) for key, tensor in expected.items())
            (folder / name).unlink()
            sizes = " | ".join(f"{size / 1e9:.2f} GB" for size in peaks.values())
            size = f"{numbers / 1e6:.1f} million numbers, {4 * numbers / 1e9:.2f} GB"
            rows.append(f"| {name}, {size} | {seconds:.0f} s | {sizes} |")
        print("| | time | memory, most | of its own | of mapped files |\n|---|---|---|---|---|")
        print("\n".join(rows))


if __name__ == "__main__":
    main()
