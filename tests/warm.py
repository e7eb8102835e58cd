"""Warm-up import of fork servers: composes a config once.

Forked commands then find the caches of Hydra's parsers filled, a fifth of their composition time.
"""

from __future__ import annotations

import contextlib
import tempfile

from PIL import Image

from dit_lab.config.compose import compose_train
from tests.conftest import TINY

with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
    compose_train(TINY)
Image.preinit()
