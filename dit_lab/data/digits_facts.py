"""Facts about scikit-learn's digits. Torch-free."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from dit_lab.core.errors import RequestError
from dit_lab.core.types import DataFacts
from dit_lab.data.fingerprint import fingerprint

DIGITS_SPLIT = {"test_size": 360, "random_state": 0}  # arguments of scikit-learn's train_test_split
_DIGITS_IMAGES = 1797


def digits_file() -> Path:
    """Return the path of scikit-learn's table, without importing scikit-learn (about 1 s)."""
    library = importlib.util.find_spec("sklearn")
    if library is None or library.origin is None:
        raise RequestError("dataset=digits: scikit-learn is not installed; install scikit-learn")
    return Path(library.origin).parent / "datasets" / "data" / "digits.csv.gz"


def digits_facts() -> DataFacts:
    """Return the facts of scikit-learn's digits: 10 classes, 8x8 pixels, one channel."""
    return DataFacts(
        channels=1,
        height=8,
        width=8,
        num_classes=10,
        class_names=tuple("0123456789"),
        train_images=_DIGITS_IMAGES - DIGITS_SPLIT["test_size"],
        validation_images=DIGITS_SPLIT["test_size"],
        fingerprint=fingerprint(
            images=hashlib.sha256(digits_file().read_bytes()).hexdigest(), split=DIGITS_SPLIT
        ),
        levels=17,  # pixel values 0..16
    )
