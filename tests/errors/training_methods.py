"""Training methods and kinds of guidance: what they cannot be combined with."""

from __future__ import annotations

from pathlib import Path

from tests.errors.case import Case, heavy
from tests.errors.own_parts import MODEL, TRUSTED, own


def encoder(folder: Path) -> None:
    """The configuration of an encoder alone."""
    (folder / "mine").mkdir()
    (folder / "mine/config.json").write_text('{"model_type": "dinov2", "hidden_size": 24}')


FLOW = "train dataset=digits codec=identity model=pico objective=rectified_flow"

# fmt: off
CASES = (
    Case("a method that is none", f"{FLOW} method=[rapa]", "method=rapa: no such"),
    Case("a block that the model has not", f"{FLOW} method=[sra] method.sra.teacher_block=9",
         "method.sra.teacher_block=9: the model has 4 blocks; give at most as many"),
    Case("a route that ends before it begins",
         f"{FLOW} method=[tread] method.tread.first=4 method.tread.last=2",
         "method.tread.first=4: is after last=2"),
    Case("a route of no blocks", f"{FLOW} method=[tread] method.tread.first=4",
         "method=tread: its route would begin at block 4 and end at block 3 of 4; give"),
    Case("two routes", f"{FLOW} method=[tread,sprint]",
         r"method=\[tread,sprint\]: each has a route of its own for the tokens; use one"),
    Case("groups that do not divide a batch", f"{FLOW} method=[dispersive] "
         "method.dispersive.group_images=48",
         "method.dispersive.group_images=48: does not divide the micro-batch of 256 images"),
    Case("times of a chain", "train dataset=digits codec=identity model=pico method=[sra]",
         "method=sra: needs an objective with times from 0 to 1, not objective=ddpm; use"),
    Case("no target to compare with", f"{FLOW} objective=mean_flow method=[contrastive]",
         "method=contrastive: compares the output with the target of a flow or a diffusion, which"),
    Case("a teacher that is no encoder", f"{FLOW} method=[repa] method.repa.teacher=nowhere",
         "method.repa.teacher=nowhere: holds no encoder; give classifier, random, or a folder"),
    heavy("heads of an own model", f"{FLOW} method=[internal_guidance] model=mine {TRUSTED}",
          r"model=mine: takes no heads, which method=\[internal_guidance\] needs; use the lab's",
          prepare=own("model", MODEL)),
    Case("an early output that the model has not", f"{FLOW} guidance.kind=internal",
         "guidance.kind=internal: needs an early output, which this model has not; train with "),
    Case("two outputs to move away from",
         f"{FLOW} method=[internal_guidance] guidance.kind=internal guidance.scale=2 "
         "guidance.weak_run=RUN",
         "guidance.weak_run=.*: guidance.kind=internal moves away from the model's own early",
         start="tiny"),
    Case("a teacher without images",
         "train experiment=tiny dataset=latents dataset.root=latents codec=vae codec.path=vae "
         "patch=1 method=[repa]",
         "method=repa: its teacher looks at images, and dataset=latents has latents alone; use",
         start="encoded"),
    heavy("an encoder without weights", f"{FLOW} method=[repa] method.repa.teacher=mine",
          "mine: transformers cannot load the encoder", prepare=encoder,
          leaves=("outputs*",)),
    Case("an option of another kind of guidance", f"{FLOW} guidance.momentum=-0.5",
         "guidance.momentum=-0.5: is an option of guidance.kind=apg; guidance.kind=cfg ignores"),
    Case("a velocity of zero for a prediction of noise",
         "train dataset=digits codec=identity model=pico guidance.kind=cfg_zero_star "
         "guidance.zero_until=0.1",
         "guidance.zero_until=0.1: sets the velocity to 0, and the model predicts noise; leave"),
)
# fmt: on
