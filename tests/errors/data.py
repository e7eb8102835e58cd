"""Errors of images, lists and autoencoders."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.errors.case import Case, heavy
from tests.errors.starts import (
    all_of,
    autoencoder,
    class_folders,
    deleted,
    image,
    lists,
    wrote,
)

LIST = "train dataset.root=data dataset.image_size=8 codec=identity model=pico"
OWN = "train experiment=own_images dataset.root=images dataset.image_size=8"
VAE = f"{OWN} codec=vae codec.path=vae patch=2"
CONFIG = {"_class_name": "AutoencoderKL", "in_channels": 3, "latent_channels": 4,
          "block_out_channels": [4, 8]}  # fmt: skip


def with_vae(**config: object) -> Callable[[Path], None]:
    """Prepare images in class folders, and only the config.json of an autoencoder."""
    return all_of(class_folders, wrote("vae/config.json", json.dumps({**CONFIG, **config})))


def images(*names: str) -> Callable[[Path], object]:
    """Prepare a folder with PNGs below `images`."""
    return lambda folder: [image(folder / "images" / name) for name in names]


def without_weights(folder: Path) -> None:
    class_folders(folder)
    autoencoder(folder / "vae", seed=0)
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()


def with_missing_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    class_folders(folder)
    autoencoder(folder / "vae", seed=0)
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["decoder.conv_in.weight"]
    save_file(weights, file)


def with_two_shifts(folder: Path) -> None:
    class_folders(folder)
    autoencoder(folder / "vae", seed=0)
    file = folder / "vae/config.json"
    shifts = {"shift_factor": 0.1, "latents_mean": [0.0] * 4}
    file.write_text(json.dumps({**json.loads(file.read_text()), **shifts}))


def linked_to_itself(folder: Path) -> None:
    class_folders(folder)
    (folder / "images/0/again").symlink_to(folder / "images/0")


def cut_off(folder: Path) -> None:
    """Return the first half of an image file."""
    from PIL import Image

    file = folder / "data/images/a.png"
    Image.effect_noise((64, 64), 50).save(file)
    file.write_bytes(file.read_bytes()[:1500])


# fmt: off
CASES = (
    Case("no data at all", "train",
         "train_labels.txt is missing: give .* run `dit-lab train experiment=quickstart`"),
    Case("no folder given for your own images", "train experiment=own_images",
         "dataset.root is not set: give dataset.root=FOLDER"),
    # ---- lists
    Case("no list of held-out images", LIST, "FOLDER/data/val_labels.txt is missing",
         prepare=all_of(lists, deleted("data/val_labels.txt"))),
    Case("lists without their images", LIST, "FOLDER/data/images is missing",
         prepare=all_of(wrote("data/train_labels.txt", "a.png 0\n"),
                        wrote("data/val_labels.txt", "a.png 0\n"))),
    Case("an empty list", LIST,
         "train_labels.txt: lists no images; write one `image_path class_id` per line",
         prepare=lambda folder: lists(folder, train="# nothing yet\n")),
    Case("lines without a class, or with a path that leaves the folder", LIST,
         "line 1: expected .*; line 2: class id 'x'.*; line 3: path '../c.png' leaves",
         prepare=lambda folder: lists(folder, train="a.png\nb.png x\n../c.png 0\n")),
    Case("a list in another encoding", LIST,
         "train_labels.txt: line 1: not UTF-8; save the list as UTF-8",
         prepare=all_of(lists, wrote("data/train_labels.txt", b"caf\xe9.png 0\n"))),
    Case("a list that is no file", LIST,
         "train_labels.txt: is not a file of at most .* bytes; write one image a line",
         prepare=all_of(lists, deleted("data/train_labels.txt"),
                        lambda folder: os.mkfifo(folder / "data/train_labels.txt"))),
    Case("a class without a name", LIST,
         r"line 1: class id 2 is not below 2 \(class_names.txt has 2 lines\)",
         prepare=all_of(lambda folder: lists(folder, train="a.png 2\n"),
                        wrote("data/class_names.txt", "cat\ndog\n"))),
    Case("another number of classes declared", f"{LIST} dataset.num_classes=7",
         "dataset.num_classes=7: FOLDER/data has 1 class .*; leave dataset.num_classes",
         prepare=lists),
    Case("an image that is none", LIST,
         "data/images/a.png: cannot be read .*; replace or remove it, or give dataset.on_bad",
         prepare=all_of(lists, wrote("data/images/a.png", "no picture"))),
    heavy("an image of which half is missing",
         f"train experiment=tiny {LIST[6:]} dataset=labelled_list dataset.num_workers=0",
         "data/images/a.png: cannot be read .*; replace or remove it, or give dataset.on_bad",
         start="recipe", prepare=all_of(lists, cut_off), leaves=("outputs*",)),
    Case("a path with two classes", LIST,
         "train_labels.txt: line 2: a.png has class id 1, and 0 in .*: line 1; keep one of them",
         prepare=lambda folder: lists(folder, train="a.png 0\na.png 1\n", validation="b.png 0\n")),
    Case("a name that two classes have", f"{LIST} sample.labels=[crane]",
         r"sample.labels=\[crane\]: is the name of the classes 0, 1; give one of these numbers",
         prepare=all_of(lists, wrote("data/class_names.txt", "crane\ncrane\n"))),
    Case("a class id that is far from all others", LIST,
         "line 2: class id 151673 makes 151,674 classes, and 2 classes of them occur; number",
         prepare=lambda folder: lists(folder, train="a.png 0\nb.png 151673\n")),
    Case("a path from another folder", LIST,
         "train_labels.txt: line 1: FOLDER/data/images/data/images/a.png is not there; write paths",
         prepare=lambda folder: lists(folder, train="data/images/a.png 0\n")),
    # ---- image folders
    Case("no such folder", OWN, "dataset.root=FOLDER/images: does not ex"),
    Case("a file for a folder", OWN,
         "dataset.root=FOLDER/images: is a file; give the folder that holds the images",
         prepare=wrote("images", "")),
    Case("no images", OWN, "holds no images .*; put them there",
         prepare=wrote("images/notes.txt", "")),
    Case("a class without images", OWN,
         "no images .* in class folder cats; 1 file skipped, .*; add some, or remove the folder",
         prepare=all_of(class_folders, wrote("images/cats/notes.txt", ""))),
    Case("images beside class folders", OWN,
         r"images \(a.png\) beside folders \(0, 1\); move the images into class folders",
         prepare=all_of(class_folders, images("a.png"))),
    Case("images beside splits", OWN, "next to the split folders train and val",
         prepare=images("a.png", "train/a.png", "val/a.png")),
    Case("splits that are not called train and val", OWN,
         "Training, train: this looks like splits, not classes",
         prepare=images("train/a.png", "Training/a.png")),
    Case("two folders for one split", OWN,
         "Test, testing: all of these look like the same split; rename the one to use train",
         prepare=images("Train/a.png", "Test/a.png", "testing/a.png")),
    Case("splits with different classes", OWN,
         r"train and val have different classes \(only in train: 1\)",
         prepare=images("train/0/a.png", "train/1/a.png", "val/0/a.png")),
    Case("a class with one image", OWN, "only one image in class 0, 1; at least two are needed",
         prepare=lambda folder: class_folders(folder, each=1)),
    Case("a link to the folder that it lies in", OWN,
         "a link to one of its parent folders; remove the link", prepare=linked_to_itself),
    Case("a broken link", OWN,
         r"cannot be read \(No such file or directory\); repair or remove it",
         prepare=all_of(class_folders,
                        lambda folder: (folder / "images/0/x.png").symlink_to("gone"))),
    Case("a pipe among the images", OWN,
         "images/0/x.png: is neither a file nor a link to one; remove it",
         prepare=all_of(class_folders, lambda folder: os.mkfifo(folder / "images/0/x.png"))),
    Case("folders in each other without end", OWN,
         "is nested in 100 folders; move the images up",
         prepare=images("/".join(["a"] * 105) + "/a.png")),
    Case("fewer class folders than declared", f"{OWN} dataset.num_classes=5",
         r"dataset.num_classes=5: FOLDER/images has 2 classes \(0, 1\); leave",
         prepare=class_folders),
    # ---- autoencoders
    Case("no autoencoder", "train experiment=quickstart codec=vae",
         "sd-vae-ft-ema/config.json is missing: give a folder in diffusers format"),
    Case("a config.json that is no JSON", VAE,
         r"vae/config.json: not JSON \(.*\); save the autoencoder again",
         prepare=all_of(class_folders, wrote("vae/config.json", "in_channels: 3"))),
    Case("the config.json of something else", VAE,
         "is not of one of diffusers' AutoencoderKL, AutoencoderTiny, AutoencoderDC",
         prepare=all_of(class_folders, wrote("vae/config.json", "{}"))),
    Case("a config.json that is a folder", VAE,
         r"vae/config.json: is a folder, not a file; move it away",
         prepare=all_of(class_folders, wrote("vae/config.json/readme", ""))),
    Case("a config.json without some of its keys", VAE,
         "vae/config.json: lacks in_channels, latent_channels, encoder_block_out_channels",
         prepare=all_of(class_folders,
                        wrote("vae/config.json", '{"_class_name": "AutoencoderTiny"}'))),
    Case("an autoencoder of other channels", VAE, "encodes 1 channel, the images have 3",
         prepare=with_vae(in_channels=1)),
    Case("images that the autoencoder cannot divide", f"{VAE} dataset.image_size=9",
         "images of 9x9 do not divide by 2; choose dataset.image_size as a multiple of 2",
         prepare=with_vae()),
    heavy("an autoencoder without weights", VAE,
         "codec.path=FOLDER/vae: cannot be loaded \\(.*\\); save the autoencoder again",
         prepare=without_weights),
    heavy("an autoencoder that lacks some weights", VAE,
         "1 weight missing, such as decoder.conv_in.weight; save the autoencoder",
         prepare=with_missing_weights),
    heavy("an autoencoder that shifts twice", VAE,
         "gives both shift_factor and latents_mean; keep the one", prepare=with_two_shifts),
)
