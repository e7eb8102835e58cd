"""The centre crop of the original DiT (train.py, which took it from ADM), byte by byte.

CROPS are hashes of the original function's output for 50 images of different sizes and modes,
computed with Pillow 13; the images are generated again here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dit_lab.data.images import Transform

SIZES = (8, 16, 32, 64, 128)
MODES = ("RGB", "L", "P", "RGBA", "CMYK", "LA", "1")

CROPS = (
    "33c90c4ee0134f4a ba31b0a98dce4233 ac15494e5e917a73 453932a089af7b8f 99aea35a0de4c6a2 "
    "66b8d05c231627f5 3372be29ca21afa5 ae387fc0a255ebdb 753090e209958b0c 154e22fecb3225e1 "
    "edbf76009ad5a46b 9a95b3599c2e49f0 d547c51c1cceb3f7 7adf69e3158e7114 82478b7f00c1c61b "
    "8606ec4f04bb56e6 e6c184b9a9d5a10c 02cf66c68ff2c860 78cefc9f5decbec3 10d9defdc00edd70 "
    "56c01f94daedd17c c823767afc20c65b a11884b230143de3 1e73924340903a55 143112375984bac8 "
    "cc23e21e1718007c 0a988b4729b903cc 6454b1379e33807f 566fc4e78b7f7833 43d5f4ac18a80c63 "
    "5483daa415feec55 519787d553cced52 82a944f55f3274b6 bea324d7269b8904 a5f763db2ae8cf25 "
    "6a3596e52418caf2 23aaa3a2d8e9460c 7f17682585b2f8ab 51d5e7fe7d702502 4443e74fdbcc1505 "
    "c62deef3660b2a60 9232a341d156b2c1 f02824f5b66d0770 81023706a89e8043 49dcb3ddcf88abcb "
    "25080b7a4873ac52 36c2f33febadc375 ec2ac83a1dfb9fa5 a49619fef19c895c 93844256f286362e "
)


def assorted(number: int) -> tuple[Image.Image, int]:
    """One of 50 images of smooth shapes and noise, and the side that it is cropped to."""
    random = np.random.default_rng(number)
    size = SIZES[number % len(SIZES)]
    height, width = (int(size * random.uniform(0.4, 5)) + 1 for _ in range(2))
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / random.uniform(1, 40) + y / random.uniform(1, 40)) for _ in range(3)]
    pixels = 128 + 90 * np.stack(waves, axis=-1) + random.normal(0, 20, (height, width, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return image.convert(MODES[number % len(MODES)]), size


def write(number: int, folder: Path) -> tuple[Path, int]:
    """The file of an image; TIFF holds every mode as it is."""
    image, size = assorted(number)
    file = folder / f"{number}.tiff"
    image.save(file)
    return file, size


@pytest.mark.parametrize("number", range(50))
def test_crops_are_the_originals(tmp_path: Path, number: int) -> None:
    file, size = write(number, tmp_path)
    pixels = Transform(height=size, width=size).load(file)
    assert pixels.shape == (size, size, 3)
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == CROPS.split()[number]
