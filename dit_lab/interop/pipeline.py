"""A diffusers pipeline for models exported by DiT Lab. Needs only diffusers and torch.

    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained("FOLDER", trust_remote_code=True)
    images = pipeline([3, 1, 4], guidance_scale=2.0, num_inference_steps=50).images

diffusers requires `trust_remote_code` to run a pipeline file from the folder: this file. diffusers'
own DiTPipeline can also read the folder, but its time frequencies differ slightly from those of
training, its null class is always 1000, and it does not support flows.

Shapes: N images, C channels of a latent, H x W.
"""

# mypy: disable-error-code="attr-defined"
# diffusers sets the components of a pipeline at run time.

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor


class DiTLabPipeline(DiffusionPipeline):
    """Generates images of classes, by DDIM or by Euler's method along a flow.

    Args:
        transformer: the DiTTransformer2DModel.
        scheduler: DDIMScheduler or FlowMatchEulerDiscreteScheduler.
        vae: the autoencoder; None for models in pixel space.
        lab: facts of the training: `objective`, `num_classes` (0: unconditional), `null_label`
            (whether labels were dropped), `class_names`, `levels` (number of pixel values).
    """

    _optional_components = ["vae"]  # noqa: RUF012 - diffusers' convention; None: pixels

    def __init__(
        self, transformer: Any, scheduler: Any, vae: Any = None, lab: dict[str, Any] | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.register_modules(transformer=transformer, scheduler=scheduler, vae=vae)
        self.register_to_config(lab=lab)
        for block in transformer.transformer_blocks:  # divide by 128, not 127
            block.norm1.emb.time_proj.downscale_freq_shift = 0
        betas = scheduler.config.get("trained_betas")
        if betas is not None:  # in float64, where diffusers uses float32
            kept = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), dim=0)
            scheduler.alphas_cumprod = kept.float()

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int | str],
        *,
        guidance_scale: float = 1.0,
        guidance_channels: int | None = None,
        num_inference_steps: int = 50,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Generate images of classes, given by number or name.

        Args:
            class_labels: one label per image.
            guidance_scale: s in uncond + s * (cond - uncond); 1 is off.
            guidance_channels: number of guided channels, from the first (3 in the original DiT);
                None guides all.
            num_inference_steps: number of sampler steps.
            generator: source of the noise.
            latents: initial noise (N, C, H, W).
            output_type: "pil", "np" (N, H, W, c) in [0, 1], or "latent".
            return_dict: whether to return an ImagePipelineOutput instead of a tuple.

        Raises:
            ValueError: if a label is unknown, or guidance is used with a model without a null
                label.
        """
        labels = self._labels(class_labels)
        guided = guidance_scale != 1.0
        if guided and not self.config.lab["null_label"]:
            raise ValueError("guidance_scale: the model was trained without a null label; use 1.0")
        config = self.transformer.config
        size = config.sample_size
        shape = (len(labels), config.in_channels, size, size)
        if latents is None:
            latents = randn_tensor(
                shape, generator=generator, device=labels.device, dtype=self.transformer.dtype
            )
        x = latents.to(labels.device, self.transformer.dtype)
        for t in self.progress_bar(self._timesteps(num_inference_steps)):
            output = self._ask(x, t, labels)
            if guided:
                none = self._ask(x, t, torch.full_like(labels, self.config.lab["num_classes"]))
                k = guidance_channels or config.in_channels
                output[:, :k] = none[:, :k] + guidance_scale * (output[:, :k] - none[:, :k])
            before, x = x, self.scheduler.step(output, t, x).prev_sample
        if width := self._width:  # subtract remaining noise, before + (1 - t) * velocity
            x = x - width * (before + (1 - t / 1000) * output)
        images = x if output_type == "latent" else self._images(self._decoded(x), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _labels(self, class_labels: list[int | str]) -> Tensor:
        names, count = self.config.lab["class_names"], self.config.lab["num_classes"]
        numbers = [
            names.index(label) if isinstance(label, str) and label in names else label
            for label in class_labels
        ]
        wrong = [label for label in numbers if label not in range(max(1, count))]
        if wrong:
            raise ValueError(f"class_labels: {wrong[0]!r} is not a class; the model has {count}")
        return torch.tensor(numbers, device=self._execution_device)

    @property
    def _is_flow(self) -> bool:
        return isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler)

    @property
    def _width(self) -> float:
        """Standard deviation of the noise left at the end of a linear path (`sigma_min`), or 0."""
        objective = self.config.lab["objective"]
        return objective["sigma_min"] or 0.0 if objective.get("path") == "linear" else 0.0

    def _timesteps(self, steps: int) -> Tensor:
        device = self._execution_device
        if self._is_flow:  # equal steps from noise to data
            sigmas = [1 - step / steps for step in range(steps)]
            self.scheduler.set_timesteps(sigmas=sigmas, device=device)
        else:
            self.scheduler.set_timesteps(steps, device=device)
        return self.scheduler.timesteps

    def _ask(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return the output that the scheduler expects at (x, t), without learned variance.

        The shape is (N, C, H, W). diffusers' flow time is 1000 at noise and its velocity points to
        noise; the model's time is 0 at noise and its velocity points to data.
        """
        time = t.float()
        if self._is_flow:
            time = self.config.lab["objective"]["time_scale"] * (1 - time / 1000)
        output = self.transformer(x, timestep=time.expand(len(x)), class_labels=labels).sample
        output = output[:, : x.shape[1]].clone()
        return -output if self._is_flow else output

    def _decoded(self, latents: Tensor) -> Tensor:
        """Decode latents (N, C, H, W) to pixels (N, c, h, w) in about [-1, 1]."""
        if self.vae is None:
            return latents
        config = self.vae.config

        def number(name: str, default: float) -> Tensor:
            found = getattr(config, name, None)
            value = torch.tensor(default if found is None else found)
            return value.reshape(1, -1, 1, 1).to(latents)

        shift = number("shift_factor", 0.0) + number("latents_mean", 0.0)
        scale = number("latents_std", 1.0) / number("scaling_factor", 1.0)
        return self.vae.decode(latents * scale + shift).sample

    def _images(self, pixels: Tensor, output_type: str) -> Any:
        steps = self.config.lab["levels"] - 1
        level = ((pixels.float() + 1) * (steps / 2)).round().clamp(0, steps)
        arrays = (level / steps).permute(0, 2, 3, 1).cpu().numpy()
        if output_type == "np":
            return arrays
        squeezed = (arrays * 255).round().astype("uint8")
        return [Image.fromarray(a.squeeze(-1) if a.shape[-1] == 1 else a) for a in squeezed]
