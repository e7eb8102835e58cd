"""What the configured data and codec know, read from headers and lists alone.

The checks of a command need these numbers within a second, so nothing here imports torch, and
nothing decodes an image or loads a weight.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dit_lab.data.folder_listing import digest, read_folder
from dit_lab.types import DataFacts, RequestError

DIGITS_SPLIT = {"test_size": 360, "random_state": 0}  # of scikit-learn's train_test_split
_DIGITS_IMAGES = 1797
_QUICKSTART = "or run `dit-lab train experiment=quickstart`, which needs no files"


def dataset_facts(
    target: str, options: Mapping[str, Any], *, load: Callable[[str], Any] | None = None
) -> DataFacts:
    """The facts of a dataset class, named by its dotted path.

    The lab's own datasets are read here. A user's class states its own in a static method
    `facts(**options) -> DataFacts`; `load` imports it (the caller decides what may be imported).
    """
    if target in _DATASETS:
        return _DATASETS[target](**accepted(_DATASETS[target], options))
    if load is None:
        raise RequestError(f"dataset {target}: unknown; the lab has {', '.join(_DATASETS)}")
    own_facts = getattr(load(target), "facts", None)
    if own_facts is None:
        raise RequestError(
            f"dataset {target}: has no facts; add a static method `facts(**options)` "
            "that returns dit_lab.types.DataFacts"
        )
    facts = own_facts(**accepted(own_facts, options))
    if not isinstance(facts, DataFacts):
        raise RequestError(
            f"dataset {target}: facts() returned {type(facts).__name__}; "
            "return dit_lab.types.DataFacts"
        )
    return facts


def accepted(call: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a class or function takes.

    Every dataset has `num_workers` and may declare `num_classes` and `image_size`; those that it
    does not take itself are the loader's, or were only there to be checked.
    """
    taken = inspect.signature(call).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return dict(options)
    return {key: value for key, value in options.items() if key in taken}


def digits_facts() -> DataFacts:
    """Scikit-learn's digits: 10 classes, 8x8 pixels, one channel."""
    library = importlib.util.find_spec("sklearn")
    if library is None or library.origin is None:
        raise RequestError("dataset=digits: scikit-learn is not installed; install scikit-learn")
    packaged = Path(library.origin).parent / "datasets" / "data" / "digits.csv.gz"
    return DataFacts(
        channels=1,
        height=8,
        width=8,
        num_classes=10,
        class_names=tuple("0123456789"),
        train_images=_DIGITS_IMAGES - DIGITS_SPLIT["test_size"],
        validation_images=DIGITS_SPLIT["test_size"],
        fingerprint=_fingerprint(
            images=hashlib.sha256(packaged.read_bytes()).hexdigest(), split=DIGITS_SPLIT
        ),
        levels=17,  # 0..16
    )


def labelled_list_facts(
    *,
    root: str | Path | None,
    image_size: int,
    horizontal_flip: bool,
    num_classes: int | None = None,
) -> DataFacts:
    """Counts and classes from the lists below `root`, fully checked; see `LabelledList`.

    The fingerprint covers lists, names and transform, not the bytes of the images.
    """
    from dit_lab.data.list_file import IMAGES_FOLDER, summarise  # numpy, for this dataset only

    folder = given_folder(root, image_size)
    try:
        summary = summarise(folder)
        (folder / IMAGES_FOLDER).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RequestError(
            f"{error.filename} is missing: give the folder that holds it with "
            f"dataset.root=FOLDER, {_QUICKSTART}"
        ) from None
    if num_classes not in (None, 0, summary.num_classes):
        raise RequestError(
            f"dataset.num_classes={num_classes}: {folder} has {summary.num_classes} classes "
            f"({summary.classes_from}); leave dataset.num_classes out, or give 0 for no labels"
        )
    unconditional = num_classes == 0
    return DataFacts(
        channels=3,
        height=image_size,
        width=image_size,
        num_classes=0 if unconditional else summary.num_classes,
        class_names=() if unconditional else summary.class_names,
        train_images=summary.train_images,
        validation_images=summary.validation_images,
        fingerprint=_fingerprint(
            lists=summary.digest,
            image_size=image_size,
            horizontal_flip=horizontal_flip,
            unconditional=unconditional,
        ),
    )


def image_folder_facts(
    *,
    root: str | Path | None,
    image_size: int,
    horizontal_flip: bool,
    validation_share: float,
    num_classes: int | None = None,
) -> DataFacts:
    """Counts and classes from the folders and file names below `root`; see `ImageFolder`.

    The fingerprint covers paths, sizes, split and transform, and the bytes of the images where
    the folder holds less than 64 MB; see `folder_listing.digest`.
    """
    folder = given_folder(root, image_size)
    listing = read_folder(folder, validation_share=validation_share, num_classes=num_classes)
    return DataFacts(
        channels=3,
        height=image_size,
        width=image_size,
        num_classes=len(listing.class_names),
        class_names=listing.class_names,
        train_images=sum(map(len, listing.train.values())),
        validation_images=sum(map(len, listing.validation.values())),
        fingerprint=_fingerprint(
            files=digest(folder, listing),
            image_size=image_size,
            horizontal_flip=horizontal_flip,
            unconditional=not listing.class_names,
        ),
    )


def given_folder(root: str | Path | None, image_size: int) -> Path:
    """The folder of a dataset of images, refused where it is not named; nothing is looked up."""
    if not root:
        raise RequestError(f"dataset.root is not set: give dataset.root=FOLDER, {_QUICKSTART}")
    if image_size < 1:
        raise RequestError(f"dataset.image_size={image_size}: must be at least 1 pixel")
    return Path(root).expanduser()


_DATASETS: dict[str, Callable[..., DataFacts]] = {
    "dit_lab.data.digits.Digits": digits_facts,
    "dit_lab.data.labelled_list.LabelledList": labelled_list_facts,
    "dit_lab.data.image_folder.ImageFolder": image_folder_facts,
}


def codec_facts(
    target: str, options: Mapping[str, Any], *, channels: int, height: int, width: int
) -> tuple[int, int, int]:
    """(channels, height, width) of the latents of such images; equals `Codec.latent_shape`.

    A variational autoencoder is known by the config.json of its folder, `options["path"]`.
    """
    if target == "dit_lab.codecs.Identity":
        return channels, height, width
    if target != "dit_lab.codecs.AutoencoderKL":
        raise RequestError(
            f"codec {target}: unknown; use dit_lab.codecs.Identity or dit_lab.codecs.AutoencoderKL"
        )
    path = options.get("path")
    if not path:
        raise RequestError(f"codec.path is not set: give codec.path=FOLDER, {_QUICKSTART}")
    file = Path(path).expanduser() / "config.json"
    config = _read_autoencoder_config(file)
    if channels != config["in_channels"]:
        raise RequestError(
            f"codec.path={path}: encodes {config['in_channels']} channels, the images have "
            f"{channels}; choose another codec, such as codec=identity"
        )
    factor = 2 ** (len(config["block_out_channels"]) - 1)  # every block but the last halves
    if height % factor or width % factor:
        raise RequestError(
            f"codec.path={path}: images of {height}x{width} do not divide by {factor}; "
            f"choose dataset.image_size as a multiple of {factor}"
        )
    return config["latent_channels"], height // factor, width // factor


def _read_autoencoder_config(file: Path) -> dict[str, Any]:
    """The config.json of a diffusers AutoencoderKL, with the keys that decide its shapes."""
    try:
        config = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(
            f"{file} is missing: give a folder in diffusers format with codec.path=FOLDER, "
            f"{_QUICKSTART}"
        ) from None
    except ValueError as error:
        raise RequestError(f"{file}: not JSON ({error}); save the autoencoder again") from None
    needed = ("in_channels", "block_out_channels", "latent_channels")
    if not isinstance(config, dict) or any(key not in config for key in needed):
        raise RequestError(f"{file}: needs {', '.join(needed)}, as diffusers' AutoencoderKL saves")
    return config


def _fingerprint(**parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
