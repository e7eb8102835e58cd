"""User-defined code, and code that is not trusted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dit_lab.config.components import LISTS
from tests.errors.case import Case, heavy
from tests.errors.starts import all_of, wrote

Q = "train experiment=quickstart"
TRUSTED = "trusted_modules=[mine]"
FLOW = "from dit_lab.objectives.rectified_flow import RectifiedFlow\nclass Mine(RectifiedFlow):\n"
OBJECTIVE = """class Mine:
    interpolant, learn_sigma = None, False
    def time_from_uniform(self, uniform): ...
    def loss(self, predict, batch): ...
    def model_time(self, t): ...
    def prediction(self, output, x, t): ...
"""
TIMES = "    def __init__(self, *, time_sampling='uniform'): ...\n"  # which the recipe sets
NO_FACTS = """class Mine:
    def __init__(self, *, split): ...
    def __len__(self): ...
    def fetch(self, indices, counters): ...
"""
DATASET = f"""{NO_FACTS}
    @staticmethod
    def facts():
        return {{"num_classes": 10}}
"""
MODEL = """from torch import nn
class Mine(nn.Module):
    def __init__(self, *, input_size, in_channels, num_classes, learn_sigma, generator):
        super().__init__()
    def forward(self, x, time, labels): ...
"""
CODEC = """from dit_lab.core.types import Codec
class Mine(Codec):
    def latent_shape(self, channels, height, width): return channels, height
    def moments(self, images): ...
    def decode(self, latents): ...
"""
HOOK = "from dit_lab.core.types import Hook\nclass Mine(Hook):\n"
SCHEDULE = "class Mine:\n    def factor(self, step, total_steps): ...\n"

SGD = "from torch.optim import SGD\nclass Mine(SGD):\n    def __init__(self, params): ...\n"


def own(group: str, source: str) -> Callable[[Path], None]:
    """The user's `mine.py`, whose `Mine` is a member of a group."""
    named = "own: {_target_: mine.Mine}" if group in LISTS else "_target_: mine.Mine"
    return all_of(wrote("mine.py", source), wrote(f"conf/{group}/mine.yaml", f"{named}\n"))


# fmt: off
CASES = (
    Case("code that nobody trusts, on the command line", f"{Q} model._target_=os.system",
         "model._target_=os.system: no registered model; choose one with model=NAME"),
    Case("code in your own file", f"{Q} objective=mine",
         r"objective._target_=mine.Mine: no registered .*, add trusted_modules=\[mine\]",
         prepare=own("objective", f"{FLOW}    ...\n")),
    heavy("a model of your own that cannot be made",
          f"describe experiment=quickstart model=mine {TRUSTED}",
          "model._target_=mine.Mine: cannot be made .ZeroDivisionError: division by zero, FOLDER/m",
          prepare=own("model", MODEL.replace("super().__init__()", "1 / 0"))),
    heavy("a model that does not take what the lab gives", f"{Q} model=mine {TRUSTED}",
          "model._target_=mine.Mine: does not take learn_sigma, generator, which the lab",
          prepare=own("model", MODEL.replace(", learn_sigma, generator", ""))),
    heavy("a model that is no module", f"{Q} model=mine {TRUSTED}",
          "model._target_=mine.Mine: does not extend torch.nn.Module; make it do so",
          prepare=own("model", MODEL.replace("(nn.Module)", ""))),
    heavy("a model without its method", f"{Q} model=mine {TRUSTED}",
          r"model._target_=mine.Mine: has no forward\(x, time, labels\); dit_lab.core.types.Model",
          prepare=own("model", MODEL.replace("forward", "call"))),
    heavy("a model that knows no labels", f"{Q} model=mine {TRUSTED}",
          r"mine.Mine: forward\(x, time\) cannot be called as forward\(x, time, labels\); change",
          prepare=own("model", MODEL.replace(", labels)", ")"))),
    heavy("guidance of a model that was never without its labels",
          f"{Q} model=mine guidance.scale=2 {TRUSTED}",
          r"guidance.scale=2: .*model.class_dropout_prob > 0 \(this one has none\); use guid",
          prepare=own("model", MODEL)),
    heavy("a patch size of a model without patches", f"{Q} model=mine patch=4 {TRUSTED}",
          "model.patch_size: no such key", prepare=own("model", MODEL)),
    Case("an objective without attributes", f"{Q} objective=mine sampler=heun {TRUSTED}",
         "objective._target_=mine.Mine: has no interpolant and no learn_sigma; dit_lab.core",
         prepare=own("objective", OBJECTIVE.replace("interpolant, learn_sigma", "a, b") + TIMES)),
    Case("a schedule that cannot be made", f"{Q} schedule=mine {TRUSTED}",
         "schedule._target_=mine.Mine: cannot be made .ZeroDivisionError: division by zero, FOLDE",
         prepare=own("schedule", f"{SCHEDULE}    def __init__(self, *, warmup_steps=0): 1 / 0\n")),
    Case("a schedule that knows no end", f"{Q} schedule=mine {TRUSTED}",
         r"schedule._target_=mine.Mine: factor\(step\) cannot be called as factor\(step, total_st",
         prepare=own("schedule", SCHEDULE.replace(", total_steps", ""))),
    Case("a codec that says half of a shape", f"{Q} codec=mine {TRUSTED}",
         r"codec._target_=mine.Mine: latent_shape returned \(1, 8\); return \(channels, height, w",
         prepare=own("codec", f"{CODEC}    fingerprint = 'a'\n")),
    Case("a codec without a fingerprint", f"{Q} codec=mine {TRUSTED}",
         "codec._target_=mine.Mine: has no fingerprint; dit_lab.core.types.Codec says what it is",
         prepare=own("codec", CODEC)),
    Case("a hook that nobody wrote", f"{Q} hook=[mine]",
         "hook=mine: there is none yet; write your own as conf/hook/NAME.yaml"),
    Case("a hook that nobody trusts", f"{Q} hook=[mine]",
         r"hook.own._target_=mine.Mine: no registered hook; .*, add trusted_modules=\[mine\]",
         prepare=own("hook", HOOK)),
    Case("an option of a hook that is not listed", f"{Q} hook.own.every_steps=3",
         r"hook.own: not in the list; choose with hook=\[NAME,...\], own among them"),
    Case("a hook that hears nothing", f"{Q} hook=[mine] {TRUSTED}",
         "hook.own._target_=mine.Mine: has none of on_start, on_step, on_metrics,",
         prepare=own("hook", f"{HOOK}    ...\n")),
    Case("a method of a hook that is never called", f"{Q} hook=[mine] {TRUSTED}",
         r"hook.own._target_=mine.Mine: on_metric is never called; did you mean on_metrics\?",
         prepare=own("hook", f"{HOOK}    def on_metric(self, step, metrics): ...\n")),
    Case("a method of a hook that cannot be called", f"{Q} hook=[mine] {TRUSTED}",
         r"hook.own._target_=mine.Mine: on_end\(status\) cannot be called as on_end\(\*, stat",
         prepare=own("hook", f"{HOOK}    def on_end(self, status): ...\n")),
    Case("an option of a hook", f"{Q} hook=[mine] hook.own.every_steps=no {TRUSTED}",
         "hook.own.every_steps=no: expected a whole number",
         prepare=own("hook", f"{HOOK}    def __init__(self, *, every_steps: int = 1): ...\n"
                             "    def on_step(self, step): ...\n")),
    heavy("a hook that fails while it trains",
          f"train experiment=tiny hook=[mine] {TRUSTED}",
          r"failed: HookError: hook.own: on_step raised KeyError: 3 \(traceback in FOLDER/out",
          start="recipe",
          prepare=own("hook", f"{HOOK}    def on_step(self, step): {{}}[step + 2]\n"),
          code=1, leaves=("__pycache__*", "outputs*")),
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
         prepare=own("objective", f"{OBJECTIVE}    def __init__(self, a: complex): ...\n")),
    Case("an annotation that cannot be read", f"{Q} objective=mine {TRUSTED}",
         "its annotations cannot be read .*; import what they name outside of TYPE_CHECK",
         prepare=own("objective", f"{OBJECTIVE}    def __init__(self, a: 'Tensor'): ...\n")),
    Case("a default of another type", f"{Q} objective=mine {TRUSTED}",
         "objective.a: mine.Mine says:",
         prepare=own("objective", f"{OBJECTIVE}    def __init__(self, a: int = 'x'): ...\n")),
    Case("an argument without a value", f"train objective=mine {TRUSTED}",
         "objective.a: missing; give it a value",
         prepare=own("objective", f"{OBJECTIVE}    def __init__(self, a: int): ...\n")),
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
         prepare=own("objective", f"{OBJECTIVE}    samplers = 'euler'\n")),
    Case("a dataset that states no facts", f"{Q} dataset=mine {TRUSTED}",
         "dataset._target_=mine.Mine: has no facts; add a static method",
         prepare=own("dataset", NO_FACTS)),
    heavy("a dataset of the lab that only benchmarks use",
          f"{Q} dataset._target_=dit_lab.data.noise.Noise dataset.shape=[4,4,4]",
          "dataset dit_lab.data.noise.Noise: has no facts; add a static method"),
    Case("facts of the wrong kind", f"{Q} dataset=mine {TRUSTED}",
         r"dataset mine.Mine: facts\(\) returned dict; return dit_lab.core.types.DataFacts",
         prepare=own("dataset", DATASET)),
    Case("a codec that is none", f"{Q} codec=mine {TRUSTED}",
         r"codec._target_=mine.Mine: has no latent_shape\(channels, height, width\); dit_lab",
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
