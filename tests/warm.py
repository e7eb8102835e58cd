"""Imported by what commands are forked from: a configuration is composed once, so that they need
not fill the caches of Hydra's parsers again, which is a fifth of what it takes them to compose."""

from __future__ import annotations

import contextlib
import tempfile

from PIL import Image

from dit_lab.config.compose import compose_train
from tests.conftest import TINY

with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
    compose_train(TINY)
Image.preinit()
