"""Small complete records of each kind, in the lab's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dit_lab.runs.exported import HEADER_KEY

HASH = "0123456789ab"

DATA: dict[str, Any] = {
    "channels": 1, "height": 8, "width": 8, "num_classes": 10, "class_names": list("0123456789"),
    "train_images": 1437, "validation_images": 360, "fingerprint": "f" * 64, "levels": 17,
}  # fmt: skip

IDENTITY: dict[str, Any] = {
    "train_hash": HASH, "ancestors": [], "code_files": {}, "code_hash": HASH,
    "data_fingerprint": "f" * 64, "pairs_fingerprint": "", "codec_fingerprint": "identity",
    "data": DATA, "latent_shape": [1, 8, 8], "forced_over": [],
}  # fmt: skip

STATUS: dict[str, Any] = {
    "status": "FINISHED", "step": 4, "total_steps": 4, "updated": 1e9, "error": None,
    "results": {"eval/loss": 0.5},
}  # fmt: skip

HEADER: dict[str, Any] = {"config": {}, "identity": IDENTITY, "step": 4, "weights": "ema-0.9"}


def write_header(file: Path, known: object) -> None:
    """A safetensors file without tensors, whose header says this."""
    header = json.dumps({"__metadata__": {HEADER_KEY: json.dumps(known)}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header)
