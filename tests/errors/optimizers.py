"""Invalid optimizers and parameter groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.errors.case import Case, heavy
from tests.errors.starts import wrote

DIGITS = "train dataset=digits codec=identity model=pico objective=rectified_flow"
SHARDS = f"{DIGITS} distributed=fsdp distributed.num_processes=2"


def member(name: str) -> Callable[[Path], None]:
    """An optimizer of torch as a member of the group, in the user's own folder."""
    return wrote("conf/optimizer/mine.yaml", f"_target_: torch.optim.{name}\n")


def groups(*entries: str) -> str:
    return f'"optimizer.groups=[{", ".join(entries)}]"'


# fmt: off
CASES = (
    # ---- what is chosen
    Case("an optimizer of sparse gradients", f"{DIGITS} optimizer=mine",
         "optimizer._target_=torch.optim.SparseAdam: takes sparse gradients", slow=True,
         prepare=member("SparseAdam")),
    Case("an optimizer of matrices alone", f"{DIGITS} optimizer=mine",
         "optimizer._target_=torch.optim.Muon: takes matrices alone; use", slow=True,
         prepare=member("Muon")),
    Case("an average of nothing", f"{DIGITS} optimizer=schedule_free_adamw optimizer.betas=[0,0.9]",
         r"optimizer.betas=\[0.0, 0.9\]: schedule-free needs a first beta above 0"),
    Case("a falling rate where an average is in its place",
         f"{DIGITS} optimizer=schedule_free_adamw schedule=cosine",
         "schedule=cosine: optimizer=schedule_free_adamw replaces learning-rate decay"),
    Case("an average that another optimizer keeps", f"{DIGITS} sample.weights=schedule_free",
         "sample.weights=schedule_free: not kept; allowed: raw, ema, ema:0.9999"),
    Case("Nesterov without momentum",
         f"{DIGITS} optimizer=sgd optimizer.nesterov=true optimizer.momentum=0",
         "optimizer.nesterov=true: needs a momentum above 0"),
    Case("the same of Muon", f"{DIGITS} optimizer=muon optimizer.momentum=0",
         "optimizer.nesterov=true: needs a momentum above 0; give momentum=0.95"),
    Case("one small number where there are two",
         f"{DIGITS} optimizer=adafactor optimizer.eps=[0.001]",
         r"optimizer.eps=\[0.001\]: expected two numbers of at least 0; the first may"),
    Case("matrices by no expression", f"{DIGITS} optimizer=muon 'optimizer.matrices=\"(\"'",
         r"optimizer.matrices=\(: no regular expression \("),
    heavy("matrices that are not there", f"{DIGITS} optimizer=muon optimizer.matrices=layers.*",
         r"optimizer.matrices=layers.\*: matches no matrix; give an"),
    # ---- shards
    Case("shards by rows and columns", f"{SHARDS} optimizer=adafactor",
         "optimizer=adafactor: does not support sharded parameters .distributed=fsdp.; use dist"),
    Case("shards by an optimizer of torch", f"{SHARDS} optimizer=mine",
         "optimizer._target_=torch.optim.Rprop: does not support sharded", slow=True,
         prepare=member("Rprop")),
    Case("shards in one kernel", f"{SHARDS} optimizer=mine optimizer.fused=true",
         "optimizer._target_=torch.optim.SGD optimizer.fused=true: does not support", slow=True,
         prepare=member("SGD")),
    Case("shards in a group", f"{SHARDS} {groups('{match:.*bias, optimizer:prodigy}')}",
         "optimizer=prodigy: does not support sharded"),
    # ---- groups
    Case("a group without an expression", f"{DIGITS} {groups('{weight_decay:0}')}",
         r"optimizer.groups\[0\]={'weight_decay': 0}: expected {match: REGULAR_EXPRESSION} with"),
    Case("a group of something unknown", f"{DIGITS} {groups('{match:.*bias, momentum:0}')}",
         r"optimizer.groups\[0\].momentum: no such key; an entry has match, lr, weight_decay, opt"),
    Case("a group by no expression", f"{DIGITS} {groups('{match:*bias, weight_decay:0}')}",
         r"optimizer.groups\[0\].match=\*bias: no regular expression \(nothing to repeat"),
    Case("a group that changes nothing", f"{DIGITS} {groups('{match:.*bias}')}",
         r"optimizer.groups\[0\]: changes nothing; give lr, weight_decay or optimizer"),
    Case("a group with a rate that is none", f"{DIGITS} {groups('{match:.*bias, lr:0}')}",
         r"optimizer.groups\[0\].lr=0: expected a number above 0"),
    Case("a group of an optimizer that is none",
         f"{DIGITS} {groups('{match:.*bias, optimizer:adam}')}",
         r"optimizer.groups\[0\].optimizer=adam: expected one of adamw, sgd, muon, adafactor"),
    Case("a rate of its own for a step size that is found",
         f"{DIGITS} optimizer=prodigy {groups('{match:.*bias, lr:0.1}')}",
         r"optimizer.groups\[0\].lr=0.1: Prodigy finds one step size for all its weights"),
    Case("a decay that the optimizer does not have",
         f"{DIGITS} optimizer=mine {groups('{match:.*bias, weight_decay:0.1}')}",
         r"optimizer.groups\[0\].weight_decay=0.1: torch.optim.Rprop has no", slow=True,
         prepare=member("Rprop")),
    heavy("a group of no parameter",
         f"{DIGITS} {groups('{match:.*bias, lr:0.1}', '{match:bias, weight_decay:0}')}",
         r"optimizer.groups\[1\].match=bias: matches no parameter that is left by"),
)
