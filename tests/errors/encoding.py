"""Errors of torchvision sets, cached latents and the image check."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dit_lab.data.torchvision_facts import CIFAR_FILES
from tests.errors.case import Case, heavy
from tests.errors.data import with_vae
from tests.errors.starts import (
    all_of,
    autoencoder,
    class_folders,
    deleted,
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
    """Return an idx file of zeros that lacks `cut` bytes."""
    content = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    count = 1
    for side in shape:
        count *= side
    return content + bytes(count - cut)


def fashion(**files: bytes) -> Callable[[Path], None]:
    """Write Fashion-MNIST files with four images each, with replacements."""
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
    """Prepare images in class folders, and an autoencoder."""
    class_folders(folder)
    autoencoder(folder / "vae", seed=0)


def wild_autoencoder(folder: Path) -> None:
    """Prepare an autoencoder whose moments exceed the range of float16."""
    from safetensors.torch import load_file, save_file

    to_encode(folder)
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({**weights, "quant_conv.bias": weights["quant_conv.bias"] + 1e6}, file)


def manifest(**changes: Any) -> Callable[[Path], None]:
    """Change keys of the manifest's plan without updating its fingerprint."""

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
    """Write a shard of the right size with an invalid header."""
    file = folder / SHARD
    file.write_bytes(b"\xff" * file.stat().st_size)


def linked_outside(folder: Path) -> None:
    lists(folder)
    (folder / "data/images/a.png").rename(folder / "elsewhere.png")
    (folder / "data/images/a.png").symlink_to(folder / "elsewhere.png")


# fmt: off
CASES = (
    Case("no folder for a set of torchvision's",
         "train experiment=quickstart dataset=fashion_mnist",
         "dataset.root is not set: give dataset.root=FOLDER"),
    Case("a set of torchvision's that is not there", FASHION,
         "train-images-idx3-ubyte is missing: .*download them with dataset.download=true"),
    Case("a file of Fashion-MNIST that was cut off", FASHION,
         "train-images-idx3-ubyte: has 3,151 bytes where its header asks for 3,152",
         prepare=fashion(train_images=idx(4, 28, 28, cut=1))),
    Case("a file of Fashion-MNIST that is something else", FASHION,
         "t10k-labels-idx1-ubyte: no idx file of bytes; download it again",
         prepare=fashion(test_labels=b"<html>")),
    Case("fewer labels than images", FASHION,
         "has 3 labels for 4 x 28 x 28 images in train-images-idx3-ubyte; download both",
         prepare=fashion(train_labels=idx(3))),
    Case("a packed file that is not whole", FASHION,
         r"train-labels-idx1-ubyte.gz: cannot be read \(.*\); download it again",
         prepare=all_of(fashion(), deleted(f"{RAW}/train-labels-idx1-ubyte"),
                        wrote(f"{RAW}/train-labels-idx1-ubyte.gz", b"\x1f\x8b\x08"))),
    Case("CIFAR-10 that is not there", CIFAR,
         "cifar-10-batches-py/data_batch_1 is missing: .*dataset.download=true"),
    Case("a size with three sides",
         "train experiment=own_images dataset.root=images dataset.image_size=[8,8,8]",
         r"dataset.image_size=\[8, 8, 8\]: give the pixels of a square's side, 1 to 16,384, or ",
         prepare=class_folders),
    heavy("a link that leads out of the images",
         "train experiment=tiny dataset=labelled_list dataset.root=data dataset.image_size=8 "
         "dataset.num_workers=0",
         "a.png: is a link out of images/, to FOLDER/elsewhere.png; copy the image, or give",
         start="recipe", prepare=linked_outside, leaves=("outputs*",)),
    heavy("CIFAR-10 that is something else",
         "train experiment=tiny dataset=cifar10 dataset.root=data",
         "dataset.root=FOLDER/data: Dataset not found or corrupted.*dataset.download=true",
         start="recipe",
         prepare=all_of(*(wrote(f"data/cifar-10-batches-py/{name}", "") for name in CIFAR_FILES)),
         leaves=("outputs*",)),
    heavy("nothing but bad images to skip",
         f"train experiment=tiny {IMAGES} dataset.on_bad_image=skip",
         "the images after it cannot be read either: `dit-lab check` lists all unreadable",
         start="recipe",
         prepare=all_of(class_folders, *(wrote(f"images/{label}/{n}.png", "")
                                        for label in range(2) for n in range(6))),
         leaves=("outputs*",)),
    Case("lists that cannot be read",
         "train dataset.root=data dataset.image_size=8 codec=identity model=pico",
         r"train_labels.txt: cannot be read \(Is a directory\); repair it",
         prepare=all_of(lists, deleted("data/train_labels.txt"),
                        wrote("data/train_labels.txt/readme", ""))),
    # ---- encoding
    Case("encoding to nowhere", f"encode {IMAGES} codec.path=vae", "out: missing; give it a value",
         prepare=with_vae()),
    Case("encoding by a codec that does not", f"encode {IMAGES} codec=identity out=new",
         "codec=identity: leaves images as they are; choose codec=vae", prepare=class_folders),
    Case("encoding what is encoded",
         "encode dataset=latents dataset.root=latents codec.path=vae out=new",
         "dataset=latents: is encoded already; choose the images themselves", start="encoded"),
    Case("encoding random crops", f"{ENCODE} dataset.crop=random",
         "dataset.crop=random: crops change with every use.*; use dataset.crop=cent",
         prepare=with_vae()),
    Case("latents among the images", f"encode {IMAGES} codec.path=vae out=images/new",
         "out=FOLDER/images/new: lies inside dataset.root=FOLDER/images; choose another",
         prepare=with_vae()),
    heavy("shards that chunks do not fill", f"{ENCODE} shard_images=100",
         "shard_images=100: must be a multiple of codec.chunk_images=16", prepare=to_encode),
    heavy("other latents in the folder",
         f"encode {IMAGES} codec.path=vae out=latents dtype=float32",
         r"out=FOLDER/latents: holds latents of another configuration \(dtype differ\)",
         start="encoded"),
    heavy("an image that is none, while encoding", ENCODE,
         "images/0/1.png: cannot be read as an image .*; replace or remove it",
         prepare=all_of(to_encode, wrote("images/0/1.png", "no picture")), leaves=("new*",)),
    heavy("moments that float16 does not hold", ENCODE,
         r"dtype=float16: moments up to 1e\+06 do not fit; use dtype=float32",
         prepare=wild_autoencoder, leaves=("new*",)),
    heavy("no room for latents", ENCODE.replace("out=new", "out=disk/new"),
         "failed: .*No space left on device", prepare=to_encode, mount={"disk": "size=12k"}, code=1,
         leaves=("disk*",)),
    Case("latents on a disk that cannot be written to", ENCODE.replace("out=new", "out=disk/new"),
         r"out=FOLDER/disk/new: cannot write in FOLDER/disk \(Read-only file system\); choose",
         prepare=with_vae(), mount={"disk": "ro"}),
    heavy("verifying what is not there", "encode --verify nowhere",
         "nowhere/latents.json is missing: dit-lab encode dataset=... codec=... out=FOLDER"),
    Case("verifying and encoding at once", "encode --verify latents out=new",
         "--verify latents: takes no out=new", start="encoded"),
    heavy("a shard in which one bit differs", "encode --verify latents",
         r"1 of 2 shards are not what was written \(train-00000.safetensors\); delete them",
         start="encoded", prepare=lambda folder: flip(folder / SHARD)),
    Case("a repository without an owner", f"encode {IMAGES} codec.path=hub:sd-vae-ft-mse out=new",
         "codec.path=hub:sd-vae-ft-mse: expected hub:OWNER/NAME or hub:OWNER/NAME/FOLDER",
         prepare=class_folders),
    # ---- cached latents
    Case("no folder of latents", "train experiment=quickstart dataset=latents",
         "dataset.root is not set: give dataset.root=FOLDER"),
    Case("latents that were never finished", TRAIN_ANEW,
         "latents.json is missing: .* creates such a folder or resumes its", start="encoded",
         prepare=deleted("latents/latents.json")),
    Case("a manifest that is no JSON", TRAIN_ANEW,
         "latents.json: damaged .*; move it away to go on without it", start="encoded",
         prepare=wrote("latents/latents.json", "plan")),
    Case("a manifest that somebody has changed", TRAIN_ANEW,
         "latents.json: is damaged or was changed", start="encoded",
         prepare=manifest(dtype="float32")),
    Case("a shard that is not there", TRAIN_ANEW,
         "train-00000.safetensors: cannot be read .No such file or directory.; copy it again",
         start="encoded", prepare=deleted(SHARD)),
    Case("a shard that was cut off", TRAIN_ANEW,
         "train-00000.safetensors: has .* bytes of .*; copy it again", start="encoded",
         prepare=truncated),
    heavy("a shard that is something else", f"{TRAIN_ANEW} dataset.num_workers=0",
         "train-00000.safetensors: is not a shard of latents .*; copy it again", start="encoded",
         prepare=scrambled, leaves=("outputs*",)),
    heavy("latents of another codec", TRAIN_ANEW,
         "dataset.root=FOLDER/latents: was encoded by another codec .*; give that one with",
         start="encoded", prepare=lambda folder: autoencoder(folder / "vae", seed=1),
         leaves=("outputs*",)),
    Case("measuring latents without the images",
         f"{TRAIN_ANEW} evaluation.num_images=30 dataset.images_root=nowhere",
         "evaluation.num_images=30: needs the images that were encoded; dataset.root=.*nowhere",
         start="encoded"),
    Case("measuring latents against images that have changed",
         f"{TRAIN_ANEW} evaluation.num_images=30 dataset.images_root=images",
         "needs the images that were encoded, and those have changed since", start="encoded",
         prepare=lambda folder: image(folder / "images/0/new.png")),
    # ---- looking at images
    heavy("looking at images that are no files", "check dataset=digits",
         "dataset=digits: has no image files to check; use dit-lab encode --verify"),
    heavy("images that cannot be read, looked at", CHECK, "1 image of 12 cannot be read",
         prepare=all_of(class_folders, wrote("images/0/1.png", "no picture")), code=1),
    Case("looking at another number of classes", f"check {IMAGES} dataset.num_classes=3",
         "dataset.num_classes=3: FOLDER/images has 2 classes", prepare=class_folders),
)
