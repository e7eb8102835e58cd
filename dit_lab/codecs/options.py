"""Options of the codecs. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from dit_lab.core.options import Component, option

CODEC_DTYPE = ("float32", "bfloat16", "float16")


@dataclass
class Autoencoder(Component):
    path: str = option("sd-vae-ft-ema", help="a folder, or hub:OWNER/NAME")
    dtype: str = option(
        "float32",
        choices=CODEC_DTYPE,
        help="precision of the autoencoder; bfloat16 and float16 are faster and change the "
        "latents slightly",
    )
    chunk_images: int = option(16, at_least=1, help="images that are encoded or decoded at once")
    tiling: bool = option(
        False, help="true: encode large images in overlapping tiles, to save memory"
    )


COMPONENTS: dict[str, dict[str, type[Component]]] = {
    "codec": {
        "dit_lab.codecs.identity.Identity": Component,
        "dit_lab.codecs.autoencoder.Autoencoder": Autoencoder,
    }
}
