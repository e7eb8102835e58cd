"""Sets of torchvision's, cached latents, and looking at images before they are trained on."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dit_lab.data.torchvision_facts import CIFAR_FILES
from tests.errors.case import Area, Case
from tests.errors.data import with_vae
from tests.errors.starts import (
    all_of,
    autoencoder,
    class_folders,
    flip,
    image,
    lists,
    wrote,
)

FASHION = "train experiment=quickstart dataset=fashion_mnist dataset.root=data"
CIFAR = "train experiment=quickstart dataset=cifar10 dataset.root=data"
IMAGES = "dataset=image_folder dataset.root=images dataset.image_size=8"
ENCODE = f"encode {IMAGES} codec.path=vae out=new"
TRAIN = (
    "train experiment=tiny dataset=latents dataset.root=latents codec=vae codec.path=vae patch=1"
)
TRAIN_ANEW = f"{TRAIN} name=new"
CHECK = f"check {IMAGES} num_processes=1"
SHARD = "latents/train-00000.safetensors"
RAW = "data/FashionMNIST/raw"


def idx(*shape: int, cut: int = 0) -> bytes:
    """An idx file of zeros, `cut` bytes too short."""
    content = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    count = 1
    for side in shape:
        count *= side
    return content + bytes(count - cut)


def fashion(**files: bytes) -> Callable[[Path], None]:
    """Fashion-MNIST's files with four images each, but for those that are given."""
    names = {
        "train_images": ("train-images-idx3-ubyte", idx(4, 28, 28)),
        "train_labels": ("train-labels-idx1-ubyte", idx(4)),
        "test_images": ("t10k-images-idx3-ubyte", idx(4, 28, 28)),
        "test_labels": ("t10k-labels-idx1-ubyte", idx(4)),
    }
    return all_of(
        *(wrote(f"{RAW}/{name}", files.get(key, content)) for key, (name, content) in names.items())
    )


def to_encode(folder: Path) -> None:
    """Images in class folders, and an autoencoder."""
    class_folders(folder)
    autoencoder(folder / "vae", seed=0)


def wild_autoencoder(folder: Path) -> None:
    """An autoencoder whose moments are far beyond float16."""
    from safetensors.torch import load_file, save_file

    to_encode(folder)
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({**weights, "quant_conv.bias": weights["quant_conv.bias"] + 1e6}, file)


def manifest(**changes: Any) -> Callable[[Path], None]:
    """Changes keys of the manifest's plan, behind its back."""

    def change(folder: Path) -> None:
        file = folder / "latents/latents.json"
        content = json.loads(file.read_text())
        content["plan"] |= changes
        file.write_text(json.dumps(content))

    return change


def truncated(folder: Path) -> None:
    file = folder / SHARD
    os.truncate(file, file.stat().st_size - 10)


def scrambled(folder: Path) -> None:
    """A shard whose header is no header, of the right length."""
    file = folder / SHARD
    file.write_bytes(b"\xff" * file.stat().st_size)


def linked_outside(folder: Path) -> None:
    lists(folder)
    (folder / "data/images/a.png").rename(folder / "elsewhere.png")
    (folder / "data/images/a.png").symlink_to(folder / "elsewhere.png")


SETS = (
    Case(
        title="no folder for a set of torchvision's",
        command="train experiment=quickstart dataset=fashion_mnist",
        says="dataset.root is not set: give dataset.root=FOLDER",
    ),
    Case(
        title="a set of torchvision's that is not there",
        command=FASHION,
        says="train-images-idx3-ubyte is missing: .*dataset.download=true gets them",
    ),
    Case(
        title="a file of Fashion-MNIST that was cut off",
        command=FASHION,
        prepare=fashion(train_images=idx(4, 28, 28, cut=1)),
        says="train-images-idx3-ubyte: has 3,151 bytes where its header asks for 3,152",
    ),
    Case(
        title="a file of Fashion-MNIST that is something else",
        command=FASHION,
        prepare=fashion(test_labels=b"<html>"),
        says="t10k-labels-idx1-ubyte: no idx file of bytes; download it again",
    ),
    Case(
        title="fewer labels than images",
        command=FASHION,
        prepare=fashion(train_labels=idx(3)),
        says="has 3 labels for 4 x 28 x 28 images in train-images-idx3-ubyte; download both",
    ),
    Case(
        title="a packed file that is not whole",
        command=FASHION,
        prepare=all_of(
            fashion(),
            lambda folder: (folder / RAW / "train-labels-idx1-ubyte").unlink(),
            wrote(f"{RAW}/train-labels-idx1-ubyte.gz", b"\x1f\x8b\x08"),
        ),
        says=r"train-labels-idx1-ubyte.gz: cannot be read \(.*\); download it again",
    ),
    Case(
        title="CIFAR-10 that is not there",
        command=CIFAR,
        says="cifar-10-batches-py/data_batch_1 is missing: .*dataset.download=true",
    ),
    Case(
        title="a size with three sides",
        command="train experiment=own_images dataset.root=images dataset.image_size=[8,8,8]",
        prepare=class_folders,
        says=r"dataset.image_size=\[8, 8, 8\]: give the pixels of a square's side, or \[height",
    ),
    Case(
        title="a link that leads out of the images",
        command="train experiment=tiny dataset=labelled_list dataset.root=data "
        "dataset.image_size=8 dataset.num_workers=0",
        start="recipe",
        prepare=linked_outside,
        says="a.png: is a link out of images/, to FOLDER/elsewhere.png; copy the image, or give",
        slow=True,
        leaves=("outputs*",),
    ),
    Case(
        title="CIFAR-10 that is something else",
        command="train experiment=tiny dataset=cifar10 dataset.root=data",
        start="recipe",
        prepare=all_of(*(wrote(f"data/cifar-10-batches-py/{name}", "") for name in CIFAR_FILES)),
        says="dataset.root=FOLDER/data: Dataset not found or corrupted.*dataset.download=true",
        slow=True,
        leaves=("outputs*",),
    ),
    Case(
        title="nothing but bad images to skip",
        command=f"train experiment=tiny {IMAGES} dataset.on_bad_image=skip",
        start="recipe",
        prepare=all_of(
            class_folders,
            *(wrote(f"images/{label}/{n}.png", "") for label in range(2) for n in range(6)),
        ),
        says="nor can the images that follow it in the list: `dit-lab check` tells all that are",
        slow=True,
        leaves=("outputs*",),
    ),
    Case(
        title="lists that cannot be read",
        command="train dataset.root=data dataset.image_size=8 codec=identity model=pico",
        prepare=all_of(
            lists,
            lambda folder: (folder / "data/train_labels.txt").unlink(),
            lambda folder: (folder / "data/train_labels.txt").mkdir(),
        ),
        says=r"train_labels.txt: cannot be read \(Is a directory\); repair it",
    ),
)

ENCODING = (
    Case(
        title="encoding to nowhere",
        command=f"encode {IMAGES} codec.path=vae",
        prepare=with_vae(),
        says="out: missing; give it a value",
    ),
    Case(
        title="encoding by a codec that does not",
        command=f"encode {IMAGES} codec=identity out=new",
        prepare=class_folders,
        says="codec=identity: leaves images as they are; choose codec=vae",
    ),
    Case(
        title="encoding what is encoded",
        command="encode dataset=latents dataset.root=latents codec.path=vae out=new",
        start="encoded",
        says="dataset=latents: is encoded already; choose the images themselves",
    ),
    Case(
        title="encoding random crops",
        command=f"{ENCODE} dataset.crop=random",
        prepare=with_vae(),
        says="dataset.crop=random: every use of an image is another crop.*; use dataset.crop=cent",
    ),
    Case(
        title="latents among the images",
        command=f"encode {IMAGES} codec.path=vae out=images/new",
        prepare=with_vae(),
        says="out=FOLDER/images/new: lies inside dataset.root=FOLDER/images; choose another",
    ),
    Case(
        title="shards that chunks do not fill",
        command=f"{ENCODE} shard_images=100",
        prepare=to_encode,
        says="shard_images=100: must be a multiple of codec.chunk_images=16",
        slow=True,
    ),
    Case(
        title="other latents in the folder",
        command=f"encode {IMAGES} codec.path=vae out=latents dtype=float32",
        start="encoded",
        says=r"out=FOLDER/latents: holds latents that were encoded otherwise \(dtype differ\)",
        slow=True,
    ),
    Case(
        title="an image that is none, while encoding",
        command=ENCODE,
        prepare=all_of(to_encode, wrote("images/0/1.png", "no picture")),
        says="images/0/1.png: cannot be read as an image .*; replace or remove it",
        slow=True,
        leaves=("new*",),
    ),
    Case(
        title="moments that float16 does not hold",
        command=ENCODE,
        prepare=wild_autoencoder,
        says=r"dtype=float16: moments up to 1e\+06 do not fit; use dtype=float32",
        slow=True,
        leaves=("new*",),
    ),
    Case(
        title="no room for latents",
        command=ENCODE.replace("out=new", "out=disk/new"),
        prepare=to_encode,
        mount={"disk": "size=12k"},
        says="failed: .*No space left on device",
        code=1,
        slow=True,
        leaves=("disk*",),
    ),
    Case(
        title="latents on a disk that cannot be written to",
        command=ENCODE.replace("out=new", "out=disk/new"),
        prepare=with_vae(),
        mount={"disk": "ro"},
        says=r"out=FOLDER/disk/new: cannot write in FOLDER/disk \(Read-only file system\); choose",
    ),
    Case(
        title="verifying what is not there",
        command="encode --verify nowhere",
        says="nowhere/latents.json is missing: dit-lab encode dataset=... codec=... out=FOLDER",
        slow=True,
    ),
    Case(
        title="verifying and encoding at once",
        command="encode --verify latents out=new",
        start="encoded",
        says="--verify latents: takes no out=new",
    ),
    Case(
        title="a shard in which one bit differs",
        command="encode --verify latents",
        start="encoded",
        prepare=lambda folder: flip(folder / SHARD),
        says=r"1 of 2 shards are not what was written \(train-00000.safetensors\); delete them",
        slow=True,
    ),
    Case(
        title="a repository without an owner",
        command=f"encode {IMAGES} codec.path=hub:sd-vae-ft-mse out=new",
        prepare=class_folders,
        says="codec.path=hub:sd-vae-ft-mse: expected hub:OWNER/NAME or hub:OWNER/NAME/FOLDER",
    ),
)

LATENTS = (
    Case(
        title="no folder of latents",
        command="train experiment=quickstart dataset=latents",
        says="dataset.root is not set: give dataset.root=FOLDER",
    ),
    Case(
        title="latents that were never finished",
        command=TRAIN_ANEW,
        start="encoded",
        prepare=lambda folder: (folder / "latents/latents.json").unlink(),
        says="latents.json is missing: .* what was interrupted goes on with it",
    ),
    Case(
        title="a manifest that is no JSON",
        command=TRAIN_ANEW,
        start="encoded",
        prepare=wrote("latents/latents.json", "plan"),
        says="latents.json: damaged .*; move it away to go on without it",
    ),
    Case(
        title="a manifest that somebody has changed",
        command=TRAIN_ANEW,
        start="encoded",
        prepare=manifest(dtype="float32"),
        says="latents.json: is not what was written",
    ),
    Case(
        title="a shard that is not there",
        command=TRAIN_ANEW,
        start="encoded",
        prepare=lambda folder: (folder / SHARD).unlink(),
        says="train-00000.safetensors: cannot be read .No such file or directory.; copy it again",
    ),
    Case(
        title="a shard that was cut off",
        command=TRAIN_ANEW,
        start="encoded",
        prepare=truncated,
        says="train-00000.safetensors: has .* bytes of .*; copy it again",
    ),
    Case(
        title="a shard that is something else",
        command=f"{TRAIN_ANEW} dataset.num_workers=0",
        start="encoded",
        prepare=scrambled,
        says="train-00000.safetensors: is no shard of latents .*; copy it again",
        slow=True,
        leaves=("outputs*",),
    ),
    Case(
        title="latents of another codec",
        command=TRAIN_ANEW,
        start="encoded",
        prepare=lambda folder: autoencoder(folder / "vae", seed=1),
        says="dataset.root=FOLDER/latents: was encoded by another codec .*; give that one with",
        slow=True,
        leaves=("outputs*",),
    ),
    Case(
        title="measuring latents without the images",
        command=f"{TRAIN_ANEW} evaluation.num_images=30 dataset.images_root=nowhere",
        start="encoded",
        says="evaluation.num_images=30: needs the images that were encoded; dataset.root=.*nowhere",
    ),
    Case(
        title="measuring latents against images that have changed",
        command=f"{TRAIN_ANEW} evaluation.num_images=30 dataset.images_root=images",
        start="encoded",
        prepare=lambda folder: image(folder / "images/0/new.png"),
        says="needs the images that were encoded, and those have changed since",
    ),
)

CHECKING = (
    Case(
        title="looking at images that are no files",
        command="check dataset=digits",
        says="dataset=digits: is not made of image files; dit-lab encode --verify looks at",
        slow=True,
    ),
    Case(
        title="images that cannot be read, looked at",
        command=CHECK,
        prepare=all_of(class_folders, wrote("images/0/1.png", "no picture")),
        says="1 image of 12 cannot be read",
        code=1,
        slow=True,
    ),
    Case(
        title="looking at another number of classes",
        command=f"check {IMAGES} dataset.num_classes=3",
        prepare=class_folders,
        says="dataset.num_classes=3: FOLDER/images has 2 classes",
    ),
)

AREA = Area(
    title="Sets of torchvision's, cached latents, and looking at images",
    cases=(*SETS, *ENCODING, *LATENTS, *CHECKING),
)
