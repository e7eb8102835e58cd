"""Codecs: scale and shift of latents are the autoencoder's, and decoding inverts encoding.

The autoencoder is diffusers' class with random weights and two blocks of a few channels, saved as a
user would save it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from dit_lab.codecs.autoencoder import Autoencoder
from dit_lab.codecs.facts import AUTOENCODER, codec_facts
from dit_lab.codecs.identity import Identity
from dit_lab.core.errors import RequestError
from dit_lab.core.rng import normal
from tests.small_autoencoder import save_autoencoder

MEAN = [0.3, -0.2, 0.1, 0.5]
STD = [0.5, 2.0, 1.5, 0.8]

STATISTICS: dict[str, dict[str, Any]] = {
    "scale": {"scaling_factor": 0.18215},
    "shift": {"scaling_factor": 0.3611, "shift_factor": 0.1159},
    "mean and std": {"scaling_factor": 0.5, "latents_mean": MEAN, "latents_std": STD},
    "std": {"scaling_factor": 1.0, "latents_std": STD},
}

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a tiny autoencoder with the given config keys and returns its folder."""

    def in_folder(name: str = "vae", *, seed: int = 0, **config: Any) -> Path:
        return save_autoencoder(tmp_path / name, (4, 8), seed=seed, **config)

    return in_folder


def images(count: int = 5) -> Tensor:
    return normal(0, "test images", torch.arange(count), (3, 8, 12)).clamp(-1, 1)


def latent_noise(count: int = 5) -> Tensor:
    return normal(0, "test noise", torch.arange(count), (4, 4, 6))


def scaled(raw: Tensor, config: Any) -> Tensor:
    """Apply the formula of diffusers' own pipelines."""
    if config.latents_mean is not None or config.latents_std is not None:
        mean = torch.tensor(config.latents_mean or [0.0] * 4).view(1, 4, 1, 1)
        std = torch.tensor(config.latents_std).view(1, 4, 1, 1)
        return (raw - mean) * config.scaling_factor / std
    return (raw - (config.shift_factor or 0)) * config.scaling_factor


def test_identity() -> None:
    codec, pixels = Identity(), images()
    assert codec.latent_shape(3, 8, 12) == (3, 8, 12)
    assert torch.equal(codec.encode(pixels, latent_noise()), pixels)
    assert torch.equal(codec.decode(pixels), pixels)
    assert codec.fingerprint == "identity"
    assert codec.to("cpu") is codec


@pytest.mark.parametrize("statistics", STATISTICS.values(), ids=STATISTICS)
@torch.no_grad()
def test_encode_and_decode_are_diffusers_with_its_own_numbers(
    save: Save, statistics: dict[str, Any]
) -> None:
    path = save(**statistics)
    codec, network = Autoencoder(path=path), diffusers.AutoencoderKL.from_pretrained(path)
    posterior = network.encode(images()).latent_dist
    raw = posterior.mean + posterior.std * latent_noise()

    latents = codec.encode(images(), latent_noise())
    # the same operations in another order: float32 rounding of numbers of order one
    torch.testing.assert_close(latents, scaled(raw, network.config), atol=1e-5, rtol=1e-5)
    decoded = network.decode(raw).sample
    torch.testing.assert_close(codec.decode(latents), decoded, atol=1e-5, rtol=1e-5)


def test_without_noise_the_latent_is_the_posterior_mean(save: Save) -> None:
    path = save(scaling_factor=2.0)
    network = diffusers.AutoencoderKL.from_pretrained(path)
    with torch.no_grad():
        mean = network.encode(images()).latent_dist.mode()
    latents = Autoencoder(path=path).encode(images(), torch.zeros(5, 4, 4, 6))
    torch.testing.assert_close(latents, 2 * mean, atol=1e-6, rtol=1e-6)


def test_the_noise_matters(save: Save) -> None:
    codec = Autoencoder(path=save())
    still, drawn = (codec.encode(images(), noise * latent_noise()) for noise in (0, 1))
    assert (still - drawn).abs().amax(dim=(1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("chunk_images", [1, 2, 5])
def test_chunks_change_no_more_than_rounding(save: Save, chunk_images: int) -> None:
    whole, cut = Autoencoder(path=save()), Autoencoder(path=save(), chunk_images=chunk_images)
    latents = whole.encode(images(), latent_noise())
    # convolutions may sum in another order for another batch size
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(cut.encode(images(), latent_noise()), latents, **close)
    torch.testing.assert_close(cut.decode(latents), whole.decode(latents), **close)


def test_chunks_bound_what_the_network_sees(save: Save) -> None:
    codec = Autoencoder(path=save(), chunk_images=2)
    seen: list[int] = []
    codec._network.decoder.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    codec.decode(latent_noise())
    assert seen == [2, 2, 1]


def test_latent_shape_is_true_and_equals_the_facts(save: Save) -> None:
    path = save()
    codec = Autoencoder(path=path)
    shape = codec.latent_shape(3, 8, 12)
    assert shape == codec.encode(images(), latent_noise()).shape[1:]
    target = AUTOENCODER
    assert shape == codec_facts(target, {"path": path}, channels=3, height=8, width=12)
    for channels, height, width in ((3, 9, 12), (3, 8, 13), (1, 8, 12)):
        size = {"channels": channels, "height": height, "width": width}
        with pytest.raises(RequestError):
            codec.latent_shape(**size)
        with pytest.raises(RequestError):
            codec_facts(target, {"path": path}, **size)


def test_float32_and_without_gradient_inside_training(save: Save) -> None:
    codec = Autoencoder(path=save())
    plain = codec.encode(images(), latent_noise())
    with torch.autocast("cpu", torch.bfloat16):
        latents = codec.encode(images().requires_grad_(), latent_noise())
        pixels = codec.decode(latents)
    assert latents.dtype == pixels.dtype == torch.float32
    assert torch.equal(latents, plain)
    assert not latents.requires_grad
    assert not latents.is_inference()  # so that a model may be trained on it


def test_half_precision_files_are_raised_to_float32(save: Save, tmp_path: Path) -> None:
    network = diffusers.AutoencoderKL.from_pretrained(save())
    network.half().save_pretrained(tmp_path / "half")
    codec = Autoencoder(path=tmp_path / "half")
    assert codec.decode(latent_noise()).dtype == torch.float32


def test_the_fingerprint_follows_config_and_weights(save: Save) -> None:
    first = Autoencoder(path=save()).fingerprint
    assert Autoencoder(path=save("elsewhere")).fingerprint == first
    assert Autoencoder(path=save("scale", scaling_factor=0.5)).fingerprint != first
    assert Autoencoder(path=save("weights", seed=1)).fingerprint != first


def refused(path: Path) -> str:
    with pytest.raises(RequestError) as refusal:
        Autoencoder(path=path)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """A missing folder is never looked up on a hub."""
    message = refused(Path("stabilityai/sd-vae-ft-ema"))
    assert "config.json is missing" in message
    assert "codec.path" in message


def test_weights_that_are_not_there(save: Save) -> None:
    path = save()
    (path / "diffusion_pytorch_model.safetensors").unlink()
    assert f"codec.path={path}: cannot be loaded" in refused(path)


def test_pickled_weights_are_not_read(save: Save) -> None:
    path = save()
    network = diffusers.AutoencoderKL.from_pretrained(path)
    (path / "diffusion_pytorch_model.safetensors").unlink()
    network.save_pretrained(path, safe_serialization=False)
    assert (path / "diffusion_pytorch_model.bin").is_file()
    assert "cannot be loaded" in refused(path)


def test_weights_for_half_of_the_network(save: Save) -> None:
    """Diffusers would warn and leave random numbers in their place."""
    from safetensors.torch import load_file, save_file

    file = save() / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({name: weights[name] for name in weights if "encoder" in name}, file)
    assert "missing, such as decoder" in refused(file.parent)


def test_two_ways_of_shifting_are_ambiguous(save: Save) -> None:
    path = save(shift_factor=0.1, latents_mean=MEAN, latents_std=STD)
    assert "both shift_factor and latents_mean" in refused(path)


def test_nothing_is_a_literal(save: Save) -> None:
    """A scaling factor edited in the config, with the same weights, changes the latents."""
    path = save(scaling_factor=1.0)
    before = Autoencoder(path=path).encode(images(), latent_noise())
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"scaling_factor": 4.0}))
    after = Autoencoder(path=path).encode(images(), latent_noise())
    torch.testing.assert_close(after, 4 * before, atol=0, rtol=1e-6)


# ---- the other autoencoders of diffusers --------------------------------------------------------


def save_tiny(folder: Path) -> Path:
    """An AutoencoderTiny; halves the sides once."""
    torch.manual_seed(0)
    network = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        scaling_factor=0.7,
    )
    network.save_pretrained(folder)
    return folder


def save_deep(folder: Path) -> Path:
    """An AutoencoderDC; halves the sides twice."""
    torch.manual_seed(0)
    network = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        scaling_factor=0.41,
    )
    network.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("save_one", "factor"), [(save_tiny, 2), (save_deep, 4)])
@torch.no_grad()
def test_autoencoders_without_a_posterior_draw_nothing(
    tmp_path: Path, save_one: Callable[[Path], Path], factor: int
) -> None:
    path = save_one(tmp_path / "plain")
    codec = Autoencoder(path=path)
    assert not codec.draws
    shape = codec.latent_shape(3, 8, 12)
    assert shape == (4, 8 // factor, 12 // factor)
    assert shape == codec_facts(AUTOENCODER, {"path": path}, channels=3, height=8, width=12)
    name = json.loads((path / "config.json").read_text())["_class_name"]
    network = getattr(diffusers, name).from_pretrained(path)
    encoded = network.encode(images(), return_dict=False)[0]
    latents = codec.encode(images(), None)
    assert latents.shape[1:] == shape
    torch.testing.assert_close(latents, encoded * network.config.scaling_factor)
    decoded = network.decode(encoded).sample
    torch.testing.assert_close(codec.decode(latents), decoded, atol=1e-5, rtol=1e-5)


def test_moments_are_what_latents_are_drawn_from(save: Save) -> None:
    codec = Autoencoder(path=save(scaling_factor=0.3, shift_factor=0.2))
    moments = codec.moments(images())
    assert moments.shape == (5, 8, 4, 6)
    assert torch.equal(
        codec.latents(moments, latent_noise()), codec.encode(images(), latent_noise())
    )


def test_the_autoencoder_computes_in_the_type_that_is_asked_for(save: Save) -> None:
    path = save()
    full, half = Autoencoder(path=path), Autoencoder(path=path, dtype="bfloat16")
    assert full.fingerprint != half.fingerprint
    latents = half.encode(images(), latent_noise())
    assert latents.dtype == torch.float32
    expected = full.encode(images(), latent_noise())
    assert not torch.equal(latents, expected)
    torch.testing.assert_close(latents, expected, atol=0.1, rtol=0.05)  # 8 bits a number


@torch.no_grad()
def test_tiles_are_diffusers(save: Save) -> None:
    """For images larger than the autoencoder's training size of 32 pixels."""
    path = save(sample_size=32)
    whole, tiled = Autoencoder(path=path), Autoencoder(path=path, tiling=True)
    assert whole.fingerprint != tiled.fingerprint
    large = normal(0, "large images", torch.arange(1), (3, 96, 96))
    network = diffusers.AutoencoderKL.from_pretrained(path)
    network.enable_tiling()
    moments = tiled.moments(large)
    assert torch.equal(moments, network.encode(large).latent_dist.parameters)
    assert not torch.equal(moments, whole.moments(large))


# ---- a repository -------------------------------------------------------------------------------

OFFLINE = """
from dit_lab.codecs.autoencoder import Autoencoder
from dit_lab.codecs.facts import codec_facts, AUTOENCODER
from dit_lab.core.errors import RequestError
path = "hub:someone/tiny-vae/vae"
print(codec_facts(AUTOENCODER, {"path": path}, channels=3, height=8, width=8))
print(Autoencoder(path=path).fingerprint)
try:
    Autoencoder(path="hub:someone/gone")
except RequestError as refusal:
    print(refusal)
"""


def test_a_repository_is_read_from_the_hubs_cache(save: Save, tmp_path: Path) -> None:
    """Read from huggingface_hub's cache, without network; missing files are refused in one line."""
    cached = tmp_path / "cache/models--someone--tiny-vae"
    commit = "0" * 40
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text(commit)
    shutil.copytree(save(), cached / "snapshots" / commit / "vae")
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shape, fingerprint, refusal = done.stdout.splitlines()
    assert shape == "(4, 4, 4)"
    assert fingerprint == Autoencoder(path=save()).fingerprint
    assert refusal.startswith("codec.path=hub:someone/gone: config.json cannot be downloaded (")


# ---- as autoencoders lie on disks ---------------------------------------------------------------


@pytest.mark.parametrize("variant", ["", "fp16", "bf16"])
@pytest.mark.parametrize("pipeline", [False, True])
def test_folders_of_pipelines_and_variants(
    save: Save, tmp_path: Path, variant: str, pipeline: bool
) -> None:
    """The layout of a hub snapshot of Stable Diffusion, with the autoencoder in a subfolder."""
    vae = save("sd/vae" if pipeline else "sd")
    if variant:
        weights = vae / "diffusion_pytorch_model.safetensors"
        weights.rename(vae / f"diffusion_pytorch_model.{variant}.safetensors")
    if pipeline:
        (tmp_path / "sd/model_index.json").write_text("{}")
    found, alone = Autoencoder(path=str(tmp_path / "sd")), Autoencoder(path=str(vae))
    assert found.fingerprint == alone.fingerprint
    facts = codec_facts(AUTOENCODER, {"path": tmp_path / "sd"}, channels=3, height=8, width=12)
    assert facts == found.latent_shape(3, 8, 12) == (4, 4, 6)
