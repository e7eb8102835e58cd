"""Code of the user's own, and code that nobody has said to trust."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.errors.case import Case, heavy
from tests.errors.starts import all_of, wrote

Q = "train experiment=quickstart"
TRUSTED = "trusted_modules=[mine]"
FLOW = "from dit_lab.objectives.rectified_flow import RectifiedFlow\nclass Mine(RectifiedFlow):\n"
DATASET = """class Mine:
    @staticmethod
    def facts():
        return {"num_classes": 10}
"""
MODEL = """class Mine:
    def __init__(
        self, *, input_size, in_channels, num_classes, learn_sigma, generator,
        patch_size: int = 2, class_dropout_prob: float = 0.1
    ): ...
"""

SGD = "from torch.optim import SGD\nclass Mine(SGD):\n    def __init__(self, params): ...\n"


def own(group: str, source: str) -> Callable[[Path], None]:
    """The user's `mine.py`, whose `Mine` is a member of a group."""
    return all_of(
        wrote("mine.py", source), wrote(f"conf/{group}/mine.yaml", "_target_: mine.Mine\n")
    )


# fmt: off
CASES = (
    Case("code that nobody trusts, on the command line", f"{Q} model._target_=os.system",
         "model._target_=os.system: no registered model; choose one with model=NAME"),
    Case("code in your own file", f"{Q} objective=mine",
         r"objective._target_=mine.Mine: no registered .*, add trusted_modules=\[mine\]",
         prepare=own("objective", f"{FLOW}    ...\n")),
    Case("the cost of an architecture of your own",
         f"describe experiment=quickstart model=mine {TRUSTED}",
         "model._target_=mine.Mine: only a DiT of the lab is counted", prepare=own("model", MODEL)),
    Case("a command of the system, in your own file", f"{Q} model=mine",
         "model._target_=os.system: no registered model",
         prepare=wrote("conf/model/mine.yaml", "_target_: os.system\n")),
    Case("a trusted module that passes on other code", f"{Q} objective=mine {TRUSTED}",
         "objective._target_=mine.Mine: is posix.system, which is not in a trusted module",
         prepare=own("objective", "from os import system as Mine\n")),
    Case("`_target_` below a component", f"{Q} +training._target_=os.system",
         "training._target_: no such key"),
    Case("trusted modules that are no list", f"{Q} trusted_modules=mine",
         r"trusted_modules=mine: expected a list; write trusted_modules=\[mine\]"),
    Case("trusted modules that are no names", f"{Q} trusted_modules=null",
         r"trusted_modules=null: expected a list; write trusted_modules=\[PACKAGE\]"),
    Case("a trusted module that is not there", f"{Q} trusted_modules=[nowhere]",
         "trusted_modules=nowhere: no such package; type the command in the folder where"),
    Case("a member that names no class", f"{Q} objective=mine",
         "objective: names no _target_; choose one with objective=NAME",
         prepare=wrote("conf/objective/mine.yaml", "sigma: 1\n")),
    Case("a target that is no name", f"{Q} objective._target_=3",
         "objective._target_=3: no registered objective; choose one with objective=NAME"),
    Case("a class that is not there", f"{Q} model._target_=dit_lab.models.dit.DIT",
         "model._target_=dit_lab.models.dit.DIT: no registered model; choose one with model=NAME"),
    Case("a module with a mistake", f"{Q} objective=mine {TRUSTED}",
         "ZeroDivisionError: division by zero, FOLDER/mine.py line 2",
         prepare=own("objective", "\nlimit = 1 / 0\n")),
    Case("a target that is no class", f"{Q} objective=mine {TRUSTED}",
         "objective._target_=mine.Mine: is of type int; name a class or a function",
         prepare=own("objective", "Mine = 3\n")),
    Case("an argument that no key can hold", f"{Q} objective=mine {TRUSTED}",
         "objective.a: mine.Mine says complex, which no key can hold; annotate it with",
         prepare=own("objective", "class Mine:\n    def __init__(self, a: complex): ...\n")),
    Case("an annotation that cannot be read", f"{Q} objective=mine {TRUSTED}",
         "its annotations cannot be read .*; import what they name outside of TYPE_CHECK",
         prepare=own("objective", "class Mine:\n    def __init__(self, a: 'Tensor'): ...\n")),
    Case("a default of another type", f"{Q} objective=mine {TRUSTED}",
         "objective.a: mine.Mine says:",
         prepare=own("objective", "class Mine:\n    def __init__(self, a: int = 'x'): ...\n")),
    Case("an argument without a value", f"train objective=mine {TRUSTED}",
         "objective.a: missing; give it a value",
         prepare=own("objective", "class Mine:\n    def __init__(self, a: int): ...\n")),
    heavy("an optimizer that needs a closure", f"{Q} optimizer._target_=torch.optim.LBFGS",
         r"optimizer._target_=torch.optim.LBFGS: its step\(\) needs closure; name an optimizer"),
    heavy("an optimizer of your own that needs a closure", f"{Q} optimizer=mine {TRUSTED}",
         r"optimizer._target_=mine.Mine: its step\(\) needs again; name an optimizer",
         prepare=own("optimizer", f"{SGD}    def step(self, again): ...\n")),
    heavy("an optimizer of two steps", f"{Q} optimizer=mine {TRUSTED}",
         "optimizer._target_=mine.Mine: has two steps for each batch; name an optimizer",
         prepare=own("optimizer", f"{SGD}    def first_step(self): ...\n")),
    heavy("an optimizer with modes", f"{Q} optimizer=mine {TRUSTED}",
         "optimizer._target_=mine.Mine: has weights of its own for evaluation, which train",
         prepare=own("optimizer", f"{SGD}    def eval(self): ...\n")),
    Case("an optimizer that is none", f"{Q} optimizer=mine {TRUSTED}",
         "optimizer._target_=mine.Mine: is no torch.optim.Optimizer; name an optimizer that takes",
         prepare=own("optimizer", "class Mine:\n    def __init__(self, params): ...\n")),
    heavy("an option that the class does not take",
         f"{Q} objective=mine {TRUSTED} objective.logit_mena=1",
         r"objective.logit_mena: no such key; did you mean objective.logit_mean\?",
         prepare=own("objective", f"{FLOW}    ...\n")),
    Case("samplers that are no list of names", f"{Q} objective=mine {TRUSTED}",
         "samplers = 'euler'; expected the names of those that fit",
         prepare=own("objective", "class Mine:\n    samplers = 'euler'\n")),
    Case("a dataset that states no facts", f"{Q} dataset=mine {TRUSTED}",
         "dataset mine.Mine: has no facts; add a static method",
         prepare=own("dataset", "class Mine: ...\n")),
    Case("facts of the wrong kind", f"{Q} dataset=mine {TRUSTED}",
         r"dataset mine.Mine: facts\(\) returned dict; return dit_lab.core.types.DataFacts",
         prepare=own("dataset", DATASET)),
    Case("a codec of your own", f"{Q} codec=mine {TRUSTED}", "codec mine.Mine: unknown; use",
         prepare=own("codec", "class Mine: ...\n")),
    heavy("a sampler that the objective names and that does not fit it",
         f"train experiment=tiny objective=mine sampler=ddpm {TRUSTED}",
         "sampler ddpm: needs a model trained on a chain of timesteps", start="recipe",
         prepare=own("objective", f"{FLOW}    samplers = ('ddpm',)\n"),
         leaves=("__pycache__*", "outputs*")),
    heavy("an objective that fails while it trains",
         f"train experiment=tiny objective=mine {TRUSTED}",
         r"failed: KeyError: 'loss' \(traceback in FOLDER/outputs/runs/tiny/HASH/train.log",
         start="recipe",
         prepare=own("objective", f"{FLOW}    def loss(self, predict, batch): {{}}['loss']\n"),
         code=1, leaves=("__pycache__*", "outputs*")),
)
