"""What is typed: verbs, options, groups, keys and values."""

from __future__ import annotations

from tests.errors.case import Area, Case
from tests.errors.starts import wrote

Q = "train experiment=quickstart"

AREA = Area(
    title="The command line",
    cases=(
        Case(title="no verb of that name", command="trian", says="trian: no such verb; allowed: t"),
        Case(title="unknown option", command=f"{Q} --fast", says="arguments: --fast; see dit-lab"),
        Case(
            title="an option without its value",
            command="train --config-dir",
            says="--config-dir: expected one argument; see dit-lab train --help",
        ),
        Case(
            title="an option of the wrong type",
            command="describe --flops-per-second fast",
            says="invalid float value: 'fast'",
        ),
        Case(
            title="an option out of range",
            command="describe experiment=quickstart --flops-per-second 0",
            says="--flops-per-second 0: expected a number above 0, such as 1e12",
        ),
        Case(
            title="devices that do not divide the batch",
            command="describe experiment=quickstart --devices 3",
            says="--devices 3: training.global_batch_size=128 is not divisible by ",
        ),
        Case(
            title="a folder of groups that is not there",
            command=f"{Q} --config-dir nowhere",
            says="--config-dir nowhere: no such folder",
        ),
        Case(
            title="a word more than a verb takes",
            command="experiments quickstart more",
            says="unrecognized arguments: more; see dit-lab experiments --help",
        ),
        Case(
            title="a picture of data that is not here",
            command="describe dataset.num_classes=1000 codec=identity --picture first.png",
            says="--picture: .*/imagenet_dataset is not here",
        ),
        Case(
            title="not of the form KEY=VALUE",
            command=f"{Q} 'a b'",
            says="a b: not understood; write KEY=VALUE",
        ),
        Case(
            title="no number, name or list",
            command=f"{Q} 'ema.decays=[0.9'",
            says=r"ema.decays=\[0.9: not understood",
        ),
        Case(
            title="no such group",
            command="train modle=s",
            says=r"modle: no such group or key; did you mean model=NAME\?",
        ),
        Case(
            title="no such member of a group",
            command="train model=xxl",
            says=r"model=xxl: no such choice; allowed: b, l, micro.*did you mean model=xl\?",
        ),
        Case(
            title="no such experiment",
            command="train experiment=quickstrat",
            says=r"no such choice; allowed: .*; did you mean experiment=quickstart\?",
        ),
        Case(
            title="a member that builds on one that is not there",
            command="train model=mine",
            prepare=wrote("conf/model/mine.yaml", "defaults: [base]\n"),
            says="model=base: no such choice; allowed: b, l, micro, mine",
        ),
        Case(
            title="a group's file that is no YAML",
            command="train model=mine",
            prepare=wrote("conf/model/mine.yaml", "hidden_size: [64\n"),
            says=r"FOLDER/conf/model/mine.yaml: line 2: no YAML \(.*\)",
        ),
        Case(
            title="a recipe that is no YAML",
            command="train experiment=mine",
            prepare=wrote("experiments/mine/recipe.yaml", "seed: [1\n"),
            says=r"experiments/mine/recipe.yaml: line 2: no YAML \(.*\)",
        ),
        Case(
            title="a recipe without keys",
            command="train experiment=mine",
            prepare=wrote("experiments/mine/recipe.yaml", "- seed\n"),
            says="experiments/mine/recipe.yaml: expected keys and values",
        ),
        Case(
            title="a recipe with an unknown key",
            command="train experiment=mine",
            prepare=wrote("experiments/mine/recipe.yaml", "trainig: {total_steps: 3}\n"),
            says="trainig.total_steps: no such key; did you mean training",
        ),
        Case(
            title="a recipe that overrides no group",
            command="train experiment=mine",
            prepare=wrote("experiments/mine/recipe.yaml", "defaults: [override /modle: s]\n"),
            says="In 'experiment/mine': Could not override 'modle'",
        ),
        Case(
            title="no such key",
            command=f"{Q} training.totl_steps=3",
            says=r"training.totl_steps: no such key; did you mean training.total_steps\?",
        ),
        Case(
            title="a key without its group",
            command=f"{Q} lr=0.1",
            says=r"lr: no such key; did you mean optimizer.lr\?",
        ),
        Case(
            title="a key like no other",
            command=f"{Q} colour=red",
            says="colour: no such key; dit-lab train --cfg job prints them all",
        ),
        Case(
            title="a new key",
            command=f"{Q} +training.speed=3",
            says="training.speed: no such key",
        ),
        Case(
            title="an option that the chosen member does not have",
            command=f"{Q} sampler.eta=0.5",
            says="sampler.eta: no such key",
        ),
        Case(
            title="a key taken away",
            command=f"{Q} ~training.total_steps",
            says="training.total_steps: missing; give it a value",
        ),
        Case(
            title="a group taken away",
            command=f"{Q} ~optimizer",
            says="optimizer: names no _target_; choose one with optimizer=NAME",
        ),
        Case(
            title="several values at once",
            command=f"{Q} seed=0,1",
            says="seed=0,1: several values at once make a sweep, which needs -m",
        ),
        Case(
            title="an addition of what is there",
            command=f"{Q} +seed=1",
            says=r"An item is already at 'seed'. Either remove \+ prefix: 'seed=1'",
        ),
        Case(
            title="a reference to no key",
            command=f"{Q} 'name=${{nothing}}'",
            says="name: cannot be resolved",
        ),
        Case(
            title="a reference that no resolver knows",
            command=f"{Q} 'name=${{eval:1+1}}'",
            says="name: cannot be resolved",
        ),
    ),
)
