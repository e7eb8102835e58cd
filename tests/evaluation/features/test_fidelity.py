"""Extractors: torch-fidelity's networks with weights from files, and the lab's DINOv2.

The weights are random, so outputs are only compared.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dit_lab.core.errors import RequestError
from dit_lab.evaluation.features import fidelity
from dit_lab.evaluation.features.dinov2 import TRAINED_SIDE, VisionTransformer
from dit_lab.evaluation.features.fidelity import DinoV2, Inception

torch_fidelity = pytest.importorskip("torch_fidelity")

CPU = torch.device("cpu")
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
DINO_FILE = "dinov2_vitl14_pretrain.pth"


class SmallDinoV2(DinoV2):
    width, depth = 128, 2


def images(count: int = 2, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 20, 32, channels), generator=generator).byte()


def shaken(network: nn.Module) -> dict[str, Tensor]:
    """Perturb all tensors of a network: constant ones and zeros would hide wrong wiring."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: tensor + 0.05 * torch.rand(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in network.state_dict().items()
    }


@pytest.fixture(scope="module")
def inception_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose features vary, so that predicted classes differ between images."""
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        # the only way to its layers: a constructor that loads nothing into them
        patch.setattr(torch, "load", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        torch.manual_seed(0)
        network = torch_fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], "")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(network.state_dict(), folder / INCEPTION_FILE)
    return folder


@pytest.fixture(scope="module")
def inception(inception_folder: Path) -> Inception:
    return Inception(str(inception_folder), CPU)


@pytest.fixture
def dino_folder(tmp_path: Path) -> Path:
    torch.save(shaken(VisionTransformer(128, 2)), tmp_path / DINO_FILE)
    return tmp_path


# ---- Inception ----------------------------------------------------------------------------------


def test_inception_is_torch_fidelitys(inception: Inception, inception_folder: Path) -> None:
    """Compared with torch-fidelity's module, which loads the file itself."""
    network = torch_fidelity.FeatureExtractorInceptionV3(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        feature_extractor_weights_path=str(inception_folder / INCEPTION_FILE),
    )
    expected, logits = network(images().permute(0, 3, 1, 2))
    found = inception.features(images())
    assert (found.shape, found.dtype) == ((2, 2048), np.float32)
    assert np.array_equal(found, expected.numpy())
    assert np.array_equal(found, inception.features(images()))
    assert found.std(axis=0).max() > 1e-3  # images differ

    probabilities = inception.probabilities(inception.features(images()))
    assert (probabilities.shape, probabilities.dtype) == ((2, 1008), np.float64)
    assert np.array_equal(probabilities, logits.double().softmax(1).numpy())
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert probabilities.std(axis=0).max() > 1e-6


def test_images_do_not_depend_on_each_other(
    inception: Inception, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = inception.features(images()), inception.probabilities(inception.features(images()))
    monkeypatch.setattr(fidelity, "IMAGES_AT_ONCE", 1)
    # convolutions may sum in another order for another batch size
    np.testing.assert_allclose(inception.features(images()), whole[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        inception.probabilities(inception.features(images())), whole[1], rtol=1e-4
    )


def test_one_channel_is_seen_as_three(inception: Inception) -> None:
    grey = images(1, channels=1)
    assert np.array_equal(inception.features(grey), inception.features(grey.repeat(1, 1, 1, 3)))


def test_fingerprints(inception: Inception, inception_folder: Path, dino_folder: Path) -> None:
    """Of the file's bytes, the name, and how images are resized."""
    content = (inception_folder / INCEPTION_FILE).read_bytes()
    content += b"inception 299 bilinear, TensorFlow 1's"
    assert inception.fingerprint == hashlib.sha256(content).hexdigest()[:12]
    before = SmallDinoV2(str(dino_folder), CPU).fingerprint
    assert before == SmallDinoV2(str(dino_folder), CPU).fingerprint
    weights = torch.load(dino_folder / DINO_FILE, weights_only=True)
    weights["norm.bias"][0] += 1e-3
    torch.save(weights, dino_folder / DINO_FILE)
    assert SmallDinoV2(str(dino_folder), CPU).fingerprint != before


# ---- DINOv2 -------------------------------------------------------------------------------------


def test_dinov2_is_torch_fidelitys(dino_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses torch-fidelity's constructor, with this network in place of its download."""
    network = VisionTransformer(128, 2)
    network.load_state_dict(torch.load(dino_folder / DINO_FILE, weights_only=True))
    monkeypatch.setattr(torch.hub, "load", lambda *_: network)
    theirs = torch_fidelity.FeatureExtractorDinoV2("dinov2-vit-l-14", ["dinov2"])
    (expected,) = theirs(images().permute(0, 3, 1, 2))

    ours = SmallDinoV2(str(dino_folder), CPU)
    found = ours.features(images())
    assert (found.shape, found.dtype) == ((2, 128), np.float32)
    assert np.array_equal(found, expected.numpy())
    assert ours.probabilities(ours.features(images())) is None
    assert (ours.name, Inception.name) == ("dinov2", "inception")
    monkeypatch.setattr(fidelity, "IMAGES_AT_ONCE", 1)
    # products may sum in another order for another batch size
    np.testing.assert_allclose(ours.features(images()), found, rtol=1e-4, atol=1e-5)


def test_the_transformer_is_torchs() -> None:
    """Compared with torch's own layers, with the layer scales folded into the matrices.

    The image has the size of the position embeddings, so these are not interpolated.
    """
    network = VisionTransformer(128, 2)
    weights = shaken(network)
    network.load_state_dict(weights)
    layers = []
    for number in range(2):
        of = {name.removeprefix(f"blocks.{number}."): w for name, w in weights.items()}
        layer = nn.TransformerEncoderLayer(
            128, 2, 512, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        )
        renamed = {
            "self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.",
            "linear1.": "mlp.fc1.", "linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2.",
        }  # fmt: skip
        state = {a + kind: of[b + kind] for a, b in renamed.items() for kind in ("weight", "bias")}
        for name, scale in (("self_attn.out_proj.", "ls1"), ("linear2.", "ls2")):
            state[f"{name}weight"] = of[f"{scale}.gamma"][:, None] * state[f"{name}weight"]
            state[f"{name}bias"] = of[f"{scale}.gamma"] * state[f"{name}bias"]
        layer.load_state_dict(state)
        layers.append(layer)

    side = 14 * TRAINED_SIDE
    picture = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    patches = picture.unfold(2, 14, 14).unfold(3, 14, 14)  # (1, 3, rows, columns, 14, 14)
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(1, TRAINED_SIDE**2, -1)
    kernel = weights["patch_embed.proj.weight"].flatten(1)
    tokens = patches @ kernel.T + weights["patch_embed.proj.bias"]
    tokens = torch.cat([weights["cls_token"], tokens], 1) + weights["pos_embed"]
    with torch.no_grad():
        for layer in layers:
            tokens = layer(tokens)
        mean, variance = tokens[:, 0].mean(1), tokens[:, 0].var(1, correction=0)
        normed = (tokens[:, 0] - mean[:, None]) / (variance + 1e-6).sqrt()[:, None]
        expected = normed * weights["norm.weight"] + weights["norm.bias"]
        # numbers of order one through a few float32 sums of a thousand terms
        torch.testing.assert_close(network(picture), expected, rtol=1e-4, atol=1e-4)


def cubic(distance: float, a: float = -0.75) -> float:
    """Keys' kernel with torch's coefficient."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def test_positions_are_scaled_by_the_published_rule() -> None:
    """Along each axis, patch i of n is at (i + 1/2) 37 / (n + 1/10) - 1/2 of the trained positions.

    Beyond the last position, its value is repeated.
    """
    network = VisionTransformer(64, 0)
    squares = torch.arange(TRAINED_SIDE).double() ** 2 / TRAINED_SIDE
    grid = torch.zeros(TRAINED_SIDE, TRAINED_SIDE, 64)
    grid[..., 0], grid[..., 1] = squares[:, None], squares
    network.pos_embed.data[:, 1:] = grid.flatten(0, 1)
    network.pos_embed.data[:, 0] = 7
    with torch.no_grad():
        found = network._positions(16, 20)
    assert torch.equal(found[:, 0], torch.full((1, 64), 7.0))
    scaled = found[0, 1:].view(16, 20, 64)

    def expected(count: int) -> list[float]:
        places = [(i + 0.5) * TRAINED_SIDE / (count + 0.1) - 0.5 for i in range(count)]
        return [
            sum(
                cubic(place - n) * float(squares[min(max(n, 0), TRAINED_SIDE - 1)])
                for n in range(-3, TRAINED_SIDE + 3)
            )
            for place in places
        ]

    # float32 of numbers up to 36, whose places are right to 4e-6 of a patch, each worth up to 2
    np.testing.assert_allclose(scaled[:, 3, 0], expected(16), rtol=0, atol=1e-4)
    np.testing.assert_allclose(scaled[3, :, 1], expected(20), rtol=0, atol=1e-4)


# ---- what cannot be done ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extractor", "file", "address"),
    [
        (Inception, INCEPTION_FILE, "https://github.com/toshas/torch-fidelity/releases/"),
        (DinoV2, DINO_FILE, "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/"),
    ],
)
def test_weights_that_are_not_there(
    extractor: type[Inception | DinoV2],
    file: str,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("downloads")

    for place in ("torch.hub.load", "torch.hub.load_state_dict_from_url"):
        monkeypatch.setattr(place, refused)
    for path in (None, str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(RequestError) as error:
            extractor(path, CPU)
        said = str(error.value)
        assert said.startswith(f"evaluation.weights_path={path or 'null'}: ")
        assert file in said
        assert address in said
        assert "nothing is downloaded automatically" in said
        assert "\n" not in said


class Planted:
    """An object whose unpickling creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("extractor", [Inception, SmallDinoV2])
def test_what_is_not_its_weights(
    extractor: type[Inception | SmallDinoV2], dino_folder: Path
) -> None:
    file = dino_folder / (INCEPTION_FILE if extractor is Inception else DINO_FILE)
    whole = torch.load(dino_folder / DINO_FILE, weights_only=True)

    def said() -> str:
        with pytest.raises(RequestError) as error:
            extractor(str(dino_folder), CPU)
        return str(error.value)

    for content in (
        {name: w for name, w in whole.items() if name != "norm.bias"},
        {**whole, "norm.bias": torch.zeros(7)},
        [1, 2],
        Planted(dino_folder / "planted"),
    ):
        torch.save(content, file)
        assert said().startswith(f"{file}: not the weights of {extractor.name}, or damaged; get")
        assert "\n" not in said()
    for content in (b"", b"half of", (dino_folder / DINO_FILE).read_bytes()[:1000]):
        file.write_bytes(content)
        assert "damaged" in said()
    assert not (dino_folder / "planted").exists()


@pytest.mark.parametrize("extractor", [Inception, DinoV2])
def test_without_torch_fidelity(
    extractor: type[Inception | DinoV2], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(RequestError) as error:
        extractor(None, CPU)
    assert str(error.value) == (
        f"the extractor {extractor.name} needs torch-fidelity; pip install 'dit-lab[eval]'"
    )
