"""Detection of configurations that are mathematically equal under different names. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit_lab.runs.folder import digest
from dit_lab.runs.recorded import deciding

RECTIFIED = {"path": "linear", "prediction": "velocity", "weighting": "none"}
"""Options with which flow matching equals rectified flow, up to its sigma_min."""

SAME_MATHEMATICS = "the same mathematics up to flow_matching's sigma_min"


def equivalence_hash(tree: Mapping[str, Any]) -> str:
    """Return a hash, equal for rectified flow and equivalent flow matching, sampled alike."""
    keys = {**deciding(tree), "sampler": tree["sampler"], "guidance": tree["guidance"]}
    options = {name: keys.get(f"objective.{name}") for name in RECTIFIED}
    if options == RECTIFIED and (keys.get("objective.sigma_min") or 0.0) <= 1e-3:
        keys["objective._target_"] = "dit_lab.objectives.rectified_flow.RectifiedFlow"
        for name in ("sigma_min", *RECTIFIED):
            del keys[f"objective.{name}"]
        keys["objective.direction_weight"] = 0.0
    return digest(keys)
