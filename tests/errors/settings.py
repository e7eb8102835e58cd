"""Values and combinations that no training can have."""

from __future__ import annotations

from tests.errors.case import Area, Case
from tests.errors.starts import class_folders, image

Q = "train experiment=quickstart"
DIGITS = "train dataset=digits codec=identity model=pico"
FLOW = f"{DIGITS} objective=rectified_flow"
OWN = "train experiment=own_images dataset.root=images dataset.image_size=8"

AREA = Area(
    title="Settings",
    cases=(
        # ---- types
        Case(
            title="text for a whole number",
            command=f"{Q} training.total_steps=abc",
            says="training.total_steps=abc: expected a whole number at least 1",
        ),
        Case(
            title="a fraction for a whole number",
            command=f"{Q} training.total_steps=1.5",
            says="training.total_steps=1.5: expected a whole number",
        ),
        Case(
            title="text for a number",
            command=f"{Q} optimizer.lr=fast",
            says="optimizer.lr=fast: expected a number above 0",
        ),
        Case(
            title="text for true or false",
            command=f"{Q} ema.warmup=maybe",
            says="ema.warmup=maybe: expected true or false",
        ),
        Case(
            title="one number for a list",
            command=f"{Q} ema.decays=0.9",
            says=r"ema.decays=0.9: expected a list",
        ),
        Case(
            title="text in a list of numbers",
            command=f"{Q} ema.decays=[0.9,slow]",
            says=r"ema.decays\[1\]=slow: expected a list such as \[1, 2\] \(a number each\)",
        ),
        Case(
            title="a list for one value",
            command=f"{Q} seed=[1,2]",
            says=r"seed=\[1, 2\]: expected a whole number",
        ),
        Case(
            title="a value for a whole group of keys",
            command=f"{Q} guidance=2",
            says="guidance=2: expected the keys scale",
        ),
        Case(
            title="no value",
            command=f"{Q} training.total_steps=",
            says="training.total_steps=: expected a whole number",
        ),
        Case(
            title="null where a value is needed",
            command=f"{Q} training.total_steps=null",
            says="training.total_steps=null: expected a whole number",
        ),
        Case(title="a value left open", command=f"{Q} 'seed=\"???\"'", says="seed: missing; give"),
        Case(
            title="a word that is not on the list",
            command=f"{Q} objective.time_sampling=normal",
            says="objective.time_sampling=normal: expected one of uniform, logit_normal, cosmap",
        ),
        # ---- ranges
        Case(
            title="too small",
            command=f"{Q} sampler.steps=0",
            says="sampler.steps=0: expected a whole number at least 1",
        ),
        Case(
            title="not a probability",
            command=f"{Q} model.class_dropout_prob=1",
            says="expected a number at least 0 and below 1",
        ),
        Case(title="a negative seed", command=f"{Q} seed=-1", says="seed=-1: expected a whole"),
        Case(
            title="a chain with too few timesteps",
            command=f"{DIGITS} objective.num_timesteps=20",
            says="objective.num_timesteps=20: expected a whole number at least 21",
        ),
        Case(
            title="not two betas",
            command=f"{Q} optimizer.betas=[0.9]",
            says=r"optimizer.betas=\[0.9\]: expected two numbers from 0 to below 1",
        ),
        Case(
            title="an average that never moves",
            command=f"{Q} ema.decays=[1]",
            says=r"ema.decays=\[1.0\]: expected one or more numbers",
        ),
        # ---- combinations
        Case(
            title="a sampler that does not fit the objective",
            command=f"{FLOW} sampler=ddpm",
            says="sampler=ddpm: does not fit objective=rectified_flow; allowed: auto, heun, ",
        ),
        Case(
            title="steps that no stride visits",
            command=f"{DIGITS} sampler=ddim sampler.steps=300",
            says="no whole stride visits exactly 300 of 1000 timesteps",
        ),
        Case(
            title="more steps than timesteps",
            command=f"{DIGITS} sampler=ddpm sampler.steps=2000",
            says="2000 cannot be spread over 1000 timesteps; use 2 to 1000",
        ),
        Case(
            title="a patch that there is no file for",
            command=f"{Q} patch=3",
            says="patch=3: no such choice; allowed: 1, 2, 4, 8",
        ),
        Case(
            title="a patch that does not divide the image",
            command=f"{Q} model.patch_size=3",
            says="model.patch_size=3: does not divide 8 x 8, what the model sees; use 1, 2, 4, 8",
        ),
        Case(
            title="heads that do not divide the width",
            command=f"{Q} model.num_heads=5",
            says="model.num_heads=5: does not divide model.hidden_size=64; use 1, 2, 4, 8",
        ),
        Case(
            title="a width that is no multiple of 4",
            command=f"{Q} model.hidden_size=6",
            says="model.hidden_size=6: the position embedding needs a multiple of 4; use 8",
        ),
        Case(
            title="a width too small for any heads",
            command=f"{Q} model.hidden_size=4 model.num_heads=3",
            says="model.num_heads=3: does not divide model.hidden_size=4",
        ),
        Case(
            title="guidance in both conventions",
            command=f"{Q} guidance.scale=2 guidance.weight=1",
            says="two ways of saying one thing",
        ),
        Case(
            title="guidance of a model that saw every label",
            command=f"{Q} guidance.scale=2 model.class_dropout_prob=0",
            says="guidance.scale=2: needs a model trained with model.class_dropout_prob > 0",
        ),
        Case(
            title="guidance of a model without classes",
            command=f"{OWN} guidance.scale=2",
            prepare=lambda folder: [image(folder / f"images/{n}.png") for n in range(4)],
            says="guidance.scale=2: the model is unconditional",
        ),
        Case(
            title="guidance over no time",
            command=f"{Q} guidance.interval=[0.5,0.2]",
            says=r"guidance.interval=\[0.5, 0.2\]: expected \[from, to\] with 0 <= from < to <= 1",
        ),
        Case(
            title="guidance of more channels than there are",
            command=f"{Q} guidance.channels=3",
            says="guidance.channels=3: expected all or a count from 1 to 1",
        ),
        Case(
            title="guidance of an unreadable number of channels",
            command=f"{Q} guidance.channels=[1]",
            says=r"guidance.channels=\[1\]: expected all or a count",
        ),
        Case(
            title="no such class",
            command=f"{Q} sample.labels=[3,12]",
            says="12 is no class; allowed: 0 to 9",
        ),
        Case(
            title="an average that is not kept",
            command=f"{Q} sample.weights=ema:0.5",
            says="sample.weights=ema:0.5: not kept; allowed: raw, ema, ema:0.999",
        ),
        Case(
            title="a batch that does not divide",
            command=f"{Q} training.accumulation=3",
            says="training.global_batch_size=128: not divisible by training.accumulation x",
        ),
        Case(
            title="no number of processes",
            command=f"{Q} distributed.num_processes=0",
            says="distributed.num_processes=0: expected a count from 1, or auto",
        ),
        Case(
            title="GPUs to count where there is none",
            command=f"{Q} distributed=fsdp",
            says="distributed.num_processes=auto: this machine shows no GPU to count; give ",
        ),
        Case(
            title="shards in float8",
            command=f"{Q} precision=fp8 distributed=fsdp distributed.num_processes=2",
            says="distributed=fsdp: precision=fp8 is for whole models; use distributed=ddp, or ",
        ),
        Case(
            title="one process that should share",
            command=f"{Q} distributed=ddp distributed.num_processes=1",
            says="distributed=ddp: one process has nobody to share with; give ",
        ),
        Case(
            title="copies of what every process has whole",
            command=f"{Q} distributed.num_processes=2 distributed.processes_per_copy=2",
            says="distributed.processes_per_copy=2: every process has a copy of its own unless",
        ),
        Case(
            title="no shards to offload",
            command=f"{Q} distributed.num_processes=2 distributed.cpu_offload=true",
            says="distributed.cpu_offload=true: only shards are kept in the host's memory",
        ),
        Case(
            title="copies that do not come out even",
            command=f"{Q} distributed=fsdp distributed.num_processes=4 "
            "distributed.processes_per_copy=3",
            says="distributed.processes_per_copy=3: does not divide distributed.num_processes=4",
        ),
        Case(
            title="an unknown way of checkpointing",
            command=f"{Q} model.activation_checkpointing=some",
            says="model.activation_checkpointing=some: expected none, selective .*, or k, which",
        ),
        Case(
            title="an unknown norm",
            command=f"{Q} model.norm=batch",
            says="model.norm=batch: expected one of layer, rms",
        ),
        Case(
            title="rotary positions in heads that are too narrow",
            command=f"{Q} model.rope=true model.num_heads=32",
            says="model.rope=true: a head is 2 numbers wide .* need a multiple of 4",
        ),
        Case(
            title="checkpoints that are kept among all",
            command=f"{Q} training.keep_every_steps=800",
            says="training.keep_every_steps=800: all checkpoints are kept; give training.keep_last",
        ),
        Case(
            title="checkpoints that are never written",
            command=f"{Q} training.keep_last=2 training.keep_every_steps=1000",
            says="training.keep_every_steps=1000: must be a multiple of",
        ),
        Case(
            title="classes that the data does not have",
            command=f"{Q} dataset.num_classes=3",
            says="dataset.num_classes=3: the data has 10 classes",
        ),
        Case(
            title="a size that the data does not have",
            command=f"{Q} dataset.image_size=16",
            says="dataset.image_size=16: the data's images are 8 x 8",
        ),
        Case(
            title="a name that leaves its folder",
            command=f"{Q} name=../x",
            says="name=../x: names a folder; use letters, digits",
        ),
        Case(
            title="the same, without training",
            command="describe experiment=own_images dataset.root=images model.num_heads=7",
            prepare=class_folders,
            says="model.num_heads=7: does not divide model.hidden_size=128",
        ),
    ),
)
