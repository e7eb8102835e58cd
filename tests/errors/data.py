"""Images, lists and autoencoders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.errors.case import Area, Case
from tests.errors.starts import (
    all_of,
    autoencoder,
    class_folders,
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
    """Images in class folders, and an autoencoder's config.json alone."""
    return all_of(class_folders, wrote("vae/config.json", json.dumps({**CONFIG, **config})))


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


AREA = Area(
    title="Data and autoencoders",
    cases=(
        Case(
            title="no data at all",
            command="train",
            says="train_labels.txt is missing: give .* run `dit-lab train experiment=quickstart`",
        ),
        Case(
            title="no folder given for your own images",
            command="train experiment=own_images",
            says="dataset.root is not set: give dataset.root=FOLDER",
        ),
        # ---- lists
        Case(
            title="no list of held-out images",
            command=LIST,
            prepare=all_of(lists, lambda folder: (folder / "data/val_labels.txt").unlink()),
            says="FOLDER/data/val_labels.txt is missing",
        ),
        Case(
            title="lists without their images",
            command=LIST,
            prepare=all_of(
                wrote("data/train_labels.txt", "a.png 0\n"),
                wrote("data/val_labels.txt", "a.png 0\n"),
            ),
            says="FOLDER/data/images is missing",
        ),
        Case(
            title="an empty list",
            command=LIST,
            prepare=lambda folder: lists(folder, train="# nothing yet\n"),
            says="train_labels.txt: lists no images; write one `image_path class_id` per line",
        ),
        Case(
            title="lines without a class, or with a path that leaves the folder",
            command=LIST,
            prepare=lambda folder: lists(folder, train="a.png\nb.png x\n../c.png 0\n"),
            says="line 1: expected .*; line 2: class id 'x'.*; line 3: path '../c.png' leaves",
        ),
        Case(
            title="a list in another encoding",
            command=LIST,
            prepare=all_of(lists, wrote("data/train_labels.txt", b"caf\xe9.png 0\n")),
            says="train_labels.txt: line 1: not UTF-8; save the list as UTF-8",
        ),
        Case(
            title="a class without a name",
            command=LIST,
            prepare=all_of(
                lambda folder: lists(folder, train="a.png 2\n"),
                wrote("data/class_names.txt", "cat\ndog\n"),
            ),
            says=r"line 1: class id 2 is not below 2 \(class_names.txt has 2 lines\)",
        ),
        Case(
            title="another number of classes declared",
            command=f"{LIST} dataset.num_classes=7",
            prepare=lists,
            says="dataset.num_classes=7: FOLDER/data has 1 classes .*; leave dataset.num_classes",
        ),
        Case(
            title="an image that is none",
            command=f"train experiment=tiny {LIST[6:]} dataset=labelled_list dataset.num_workers=0",
            start="recipe",
            prepare=all_of(lists, wrote("data/images/a.png", "no picture")),
            says="data/images/a.png: cannot be read as an image .*; replace or remove it",
            slow=True,
            leaves=("outputs*",),
        ),
        # ---- image folders
        Case(title="no such folder", command=OWN, says="dataset.root=FOLDER/images: does not ex"),
        Case(
            title="a file for a folder",
            command=OWN,
            prepare=wrote("images", ""),
            says="dataset.root=FOLDER/images: is a file; give the folder that holds the images",
        ),
        Case(
            title="no images",
            command=OWN,
            prepare=wrote("images/notes.txt", ""),
            says="holds no images .*; put them there",
        ),
        Case(
            title="a class without images",
            command=OWN,
            prepare=all_of(class_folders, wrote("images/cats/notes.txt", "")),
            says="no images .* in class folder cats; add some, or take the folder away",
        ),
        Case(
            title="images beside class folders",
            command=OWN,
            prepare=all_of(class_folders, lambda folder: image(folder / "images/a.png")),
            says=r"images \(a.png\) beside folders \(0, 1\); move the images into class folders",
        ),
        Case(
            title="images beside splits",
            command=OWN,
            prepare=lambda folder: [
                image(folder / "images" / name) for name in ("a.png", "train/a.png", "val/a.png")
            ],
            says="beside train and val, which are the splits",
        ),
        Case(
            title="splits that are not called train and val",
            command=OWN,
            prepare=lambda folder: [
                image(folder / "images" / name) for name in ("train/a.png", "test/a.png")
            ],
            says="test, train: this looks like splits, not classes",
        ),
        Case(
            title="splits with different classes",
            command=OWN,
            prepare=lambda folder: [
                image(folder / "images" / name)
                for name in ("train/0/a.png", "train/1/a.png", "val/0/a.png")
            ],
            says=r"train and val have different classes \(only in train: 1\)",
        ),
        Case(
            title="a class with one image",
            command=OWN,
            prepare=lambda folder: class_folders(folder, each=1),
            says="only one image in class 0, 1; at least two are needed",
        ),
        Case(
            title="a link to the folder that it lies in",
            command=OWN,
            prepare=linked_to_itself,
            says="a link to a folder that it lies in; take the link away",
        ),
        Case(
            title="a broken link",
            command=OWN,
            prepare=all_of(
                class_folders, lambda folder: (folder / "images/0/x.png").symlink_to("gone")
            ),
            says=r"cannot be read \(No such file or directory\); repair it or take it away",
        ),
        Case(
            title="fewer class folders than declared",
            command=f"{OWN} dataset.num_classes=5",
            prepare=class_folders,
            says=r"dataset.num_classes=5: FOLDER/images has 2 classes \(0, 1\); leave",
        ),
        Case(
            title="all images held out",
            command=f"{OWN} dataset.validation_share=1",
            prepare=class_folders,
            says="dataset.validation_share=1.0: expected a number above 0 and below 1",
        ),
        # ---- autoencoders
        Case(
            title="no autoencoder",
            command="train experiment=quickstart codec=vae",
            says="sd-vae-ft-ema/config.json is missing: give a folder in diffusers format",
        ),
        Case(
            title="a config.json that is no JSON",
            command=VAE,
            prepare=all_of(class_folders, wrote("vae/config.json", "in_channels: 3")),
            says=r"vae/config.json: not JSON \(.*\); save the autoencoder again",
        ),
        Case(
            title="the config.json of something else",
            command=VAE,
            prepare=all_of(class_folders, wrote("vae/config.json", "{}")),
            says="is not of one of diffusers' AutoencoderKL, AutoencoderTiny, AutoencoderDC",
        ),
        Case(
            title="a config.json that is a folder",
            command=VAE,
            prepare=all_of(class_folders, wrote("vae/config.json/readme", "")),
            says=r"vae/config.json: cannot be read \(Is a directory\); repair it",
        ),
        Case(
            title="a config.json without some of its keys",
            command=VAE,
            prepare=all_of(
                class_folders, wrote("vae/config.json", '{"_class_name": "AutoencoderTiny"}')
            ),
            says="vae/config.json: lacks in_channels, latent_channels, encoder_block_out_channels",
        ),
        Case(
            title="an autoencoder of other channels",
            command=VAE,
            prepare=with_vae(in_channels=1),
            says="encodes 1 channels, the images have 3",
        ),
        Case(
            title="images that the autoencoder cannot divide",
            command=f"{VAE} dataset.image_size=9",
            prepare=with_vae(),
            says="images of 9x9 do not divide by 2; choose dataset.image_size as a multiple of 2",
        ),
        Case(
            title="an autoencoder without weights",
            command=VAE,
            prepare=without_weights,
            says="codec.path=FOLDER/vae: cannot be loaded \\(.*\\); save the autoencoder again",
            slow=True,
        ),
        Case(
            title="an autoencoder that lacks some weights",
            command=VAE,
            prepare=with_missing_weights,
            says="1 weights are missing, such as decoder.conv_in.weight; save the autoencoder",
            slow=True,
        ),
        Case(
            title="an autoencoder that shifts twice",
            command=VAE,
            prepare=with_two_shifts,
            says="gives both shift_factor and latents_mean; keep the one",
            slow=True,
        ),
    ),
)
