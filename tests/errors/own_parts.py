"""Code of the user's own, and code that nobody has said to trust."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.errors.case import Area, Case
from tests.errors.starts import all_of, wrote

Q = "train experiment=quickstart"
TRUSTED = "trusted_modules=[mine]"
OBJECTIVE = "from dit_lab.objectives.rectified_flow import RectifiedFlow\n\n\n"
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


def own(group: str, source: str) -> Callable[[Path], None]:
    """The user's `mine.py`, whose `Mine` is a member of a group."""
    return all_of(
        wrote("mine.py", source), wrote(f"conf/{group}/mine.yaml", "_target_: mine.Mine\n")
    )


AREA = Area(
    title="Your own parts, and what is trusted",
    cases=(
        Case(
            title="code that nobody trusts, on the command line",
            command=f"{Q} model._target_=os.system",
            says=r"model._target_=os.system: not in a trusted module \(dit_lab, torch.optim\)",
        ),
        Case(
            title="a loader of pickles",
            command=f"{Q} optimizer._target_=torch.load",
            says="optimizer._target_=torch.load: not in a trusted module",
        ),
        Case(
            title="code in your own file",
            command=f"{Q} objective=mine",
            prepare=own("objective", f"{OBJECTIVE}class Mine(RectifiedFlow): ...\n"),
            says="objective._target_=mine.Mine: not in a trusted module",
        ),
        Case(
            title="the cost of an architecture of your own",
            command=f"describe experiment=quickstart model=mine {TRUSTED}",
            prepare=own("model", MODEL),
            says="model._target_=mine.Mine: only a DiT of the lab is counted",
        ),
        Case(
            title="a command of the system, in your own file",
            command=f"{Q} model=mine {TRUSTED}",
            prepare=wrote("conf/model/mine.yaml", "_target_: os.system\n"),
            says=r"model._target_=os.system: not in a trusted module",
        ),
        Case(
            title="a trusted module that passes on other code",
            command=f"{Q} objective=mine {TRUSTED}",
            prepare=own("objective", "from os import system as Mine\n"),
            says="objective._target_=posix.system: not in a trusted module",
        ),
        Case(
            title="`_target_` below a component",
            command=f"{Q} +training._target_=os.system",
            says="training._target_: no such key",
        ),
        Case(
            title="trusted modules that are no list",
            command=f"{Q} trusted_modules=mine",
            says=r"trusted_modules=mine: expected a list; write trusted_modules=\[mine\]",
        ),
        Case(
            title="trusted modules that are no names",
            command=f"{Q} trusted_modules=null",
            says=r"trusted_modules=null: expected a list; write trusted_modules=\[PACKAGE\]",
        ),
        Case(
            title="a trusted module that is not there",
            command=f"{Q} trusted_modules=[nowhere]",
            says="trusted_modules=nowhere: no such package; type the command in the folder where",
        ),
        Case(
            title="a member that names no class",
            command=f"{Q} objective=mine",
            prepare=wrote("conf/objective/mine.yaml", "sigma: 1\n"),
            says="objective: names no _target_; choose one with objective=NAME",
        ),
        Case(
            title="a target that is no name",
            command=f"{Q} objective._target_=3",
            says="objective._target_=3: not in a trusted module",
        ),
        Case(
            title="a class that is not there",
            command=f"{Q} model._target_=dit_lab.models.dit.DIT",
            says="has no attribute 'DIT'",
            slow=True,
        ),
        Case(
            title="a module with a mistake",
            command=f"{Q} objective=mine {TRUSTED}",
            prepare=own("objective", "\nlimit = 1 / 0\n"),
            says="ZeroDivisionError: division by zero, FOLDER/mine.py line 2",
        ),
        Case(
            title="a target that is no class",
            command=f"{Q} objective=mine {TRUSTED}",
            prepare=own("objective", "Mine = 3\n"),
            says="objective._target_=mine.Mine: is of type int; name a class or a function",
        ),
        Case(
            title="an argument that no key can hold",
            command=f"{Q} objective=mine {TRUSTED}",
            prepare=own("objective", "class Mine:\n    def __init__(self, a: complex): ...\n"),
            says="objective.a: mine.Mine says complex, which no key can hold; annotate it with",
        ),
        Case(
            title="an annotation that cannot be read",
            command=f"{Q} objective=mine {TRUSTED}",
            prepare=own("objective", "class Mine:\n    def __init__(self, a: 'Tensor'): ...\n"),
            says="its annotations cannot be read .*; import what they name outside of TYPE_CHECK",
        ),
        Case(
            title="a default of another type",
            command=f"{Q} objective=mine {TRUSTED}",
            prepare=own("objective", "class Mine:\n    def __init__(self, a: int = 'x'): ...\n"),
            says="objective.a: mine.Mine says:",
        ),
        Case(
            title="an argument without a value",
            command=f"train objective=mine {TRUSTED}",
            prepare=own("objective", "class Mine:\n    def __init__(self, a: int): ...\n"),
            says="objective.a: missing; give it a value",
        ),
        Case(
            title="an option that the class does not take",
            command=f"{Q} objective=mine {TRUSTED} objective.logit_mena=1",
            prepare=own("objective", f"{OBJECTIVE}class Mine(RectifiedFlow): ...\n"),
            says=r"objective.logit_mena: no such key; did you mean objective.logit_mean\?",
            slow=True,
        ),
        Case(
            title="samplers that are no list of names",
            command=f"{Q} objective=mine {TRUSTED}",
            prepare=own("objective", "class Mine:\n    samplers = 'euler'\n"),
            says="samplers = 'euler'; expected the names of those that fit",
        ),
        Case(
            title="a dataset that states no facts",
            command=f"{Q} dataset=mine {TRUSTED}",
            prepare=own("dataset", "class Mine: ...\n"),
            says="dataset mine.Mine: has no facts; add a static method",
        ),
        Case(
            title="facts of the wrong kind",
            command=f"{Q} dataset=mine {TRUSTED}",
            prepare=own("dataset", DATASET),
            says=r"dataset mine.Mine: facts\(\) returned dict; return dit_lab.core.types.DataFacts",
        ),
        Case(
            title="a codec of your own",
            command=f"{Q} codec=mine {TRUSTED}",
            prepare=own("codec", "class Mine: ...\n"),
            says="codec mine.Mine: unknown; use",
        ),
        Case(
            title="a sampler that the objective names and that does not fit it",
            command=f"train experiment=tiny objective=mine sampler=ddpm {TRUSTED}",
            start="recipe",
            prepare=own(
                "objective", f"{OBJECTIVE}class Mine(RectifiedFlow):\n    samplers = ('ddpm',)\n"
            ),
            says="sampler ddpm: needs a model trained on a chain of timesteps",
            slow=True,
            leaves=("__pycache__*", "outputs*"),
        ),
        Case(
            title="an objective that fails while it trains",
            command=f"train experiment=tiny objective=mine {TRUSTED}",
            start="recipe",
            prepare=own(
                "objective",
                f"{OBJECTIVE}class Mine(RectifiedFlow):\n"
                "    def loss(self, predict, batch):\n        return {}['loss']\n",
            ),
            says=r"failed: KeyError: 'loss' \(traceback in FOLDER/outputs/runs/tiny/HASH/train.log",
            code=1,
            slow=True,
            leaves=("__pycache__*", "outputs*"),
        ),
    ),
)
