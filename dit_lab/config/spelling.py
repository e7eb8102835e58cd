"""Suggestions for keys under the names of other training frameworks. Torch-free."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from functools import cache
from typing import Any

from dit_lab.config.components import COMPONENT_GROUPS, COMPONENTS
from dit_lab.config.schema import ADDED, ROOTS

KEYS_OF_OTHERS = {
    "training.global_batch_size": "batch_size train_batch_size global_batch batch bs "
    "per_device_train_batch_size micro_batch_size batch_gpu",
    "training.total_steps": "epochs num_epochs max_epochs num_train_epochs max_steps train_steps "
    "max_train_steps num_steps steps n_steps iterations num_iterations max_iters total_iters",
    "training.accumulation": "gradient_accumulation_steps gradient_accumulation grad_accum "
    "grad_accumulation accumulate_grad_batches accumulation_steps",
    "training.clip_norm": "grad_clip max_grad_norm clip_grad clip_grad_norm gradient_clip_val clip "
    "gradient_clipping clip_value",
    "training.log_every_steps": "log_every log_interval logging_steps log_freq log_every_n_steps",
    "training.checkpoint_every_steps": "ckpt_every save_every save_steps checkpoint_every "
    "checkpoint_interval checkpointing_steps save_interval save_freq",
    "training.evaluate_every_steps": "eval_every eval_steps eval_interval eval_freq",
    "optimizer.lr": "learning_rate base_lr rate max_lr peak_lr",
    "optimizer.weight_decay": "wd decay adam_weight_decay",
    "optimizer.betas": "beta1 beta2 beta adam_beta1 adam_beta2 adam_betas",
    "optimizer.eps": "epsilon adam_eps adam_epsilon",
    "schedule.warmup_steps": "warmup num_warmup_steps lr_warmup_steps warmup_iters lr_warmup",
    "ema.decays": "ema_decay ema_rate ema_beta ema_momentum",
    "model.hidden_size": "hidden_dim dim embed_dim width d_model n_embd hidden channels",
    "model.depth": "num_layers n_layers n_layer layers num_blocks num_hidden_layers",
    "model.num_heads": "heads n_heads n_head num_attention_heads",
    "model.patch_size": "patch",
    "model.class_dropout_prob": "class_dropout label_dropout label_drop_prob cond_drop_prob "
    "p_uncond cfg_dropout uncond_prob dropout",
    "guidance.scale": "cfg_scale cfg guidance_scale w",
    "sampler.steps": "num_steps steps num_sampling_steps sampling_steps num_inference_steps "
    "sample_steps nfe",
    "sample.num_images": "num_samples n_samples",
    "evaluation.num_images": "num_fid_samples fid_samples",
    "objective.min_snr_gamma": "snr_gamma min_snr",
    "objective.loss": "loss_type loss",
    "objective.beta_schedule": "noise_schedule",
    "objective.prediction": "prediction_type parameterization pred_type model_mean_type",
    "objective.path": "path_type",
    "objective.num_timesteps": "timesteps diffusion_steps num_train_timesteps",
    "objective.time_sampling": "weighting_scheme timestep_sampling time_distribution",
    "precision.mixed_precision": "dtype amp fp16 bf16",
    "distributed.num_processes": "num_gpus gpus devices n_gpus nproc_per_node world_size",
    "dataset.root": "data_path data_dir data_root dataset_path dataset_dir",
    "dataset.image_size": "resolution img_size size",
    "dataset.num_workers": "workers dataloader_num_workers",
    "paths.root": "results_dir output_dir outdir out_dir save_dir log_dir workdir",
    "seed": "global_seed random_seed manual_seed",
    "name": "run_name exp_name experiment_name project",
    "init_from": "ckpt checkpoint pretrained load_from init_checkpoint",
}
"""Key of this package -> names in other training frameworks."""

_MEANT: dict[str, list[str]] = {}
for _key, _names in KEYS_OF_OTHERS.items():
    for _name in _names.split():
        _MEANT.setdefault(_name, []).append(_key)


def meant(key: str, known: Iterable[str]) -> str:
    """Return the known keys that another framework's name may stand for, joined by "or"; else "".

    For a key in a section, only keys of that section are returned.
    """
    section, _, leaf = key.rpartition(".")
    names = set(known)
    found = [
        name
        for name in _MEANT.get(leaf.replace("-", "_").lower(), [])
        if name in names and name != key and (not section or name.startswith(f"{section}."))
    ]
    return " or ".join(found)


def lacking(key: str) -> str:
    """Return the option that such a name stands for but the chosen component lacks, or ""."""
    names = [name for name in _MEANT.get(key, []) if name.partition(".")[0] in COMPONENT_GROUPS]
    return "" if "." in key or not names else names[0]


def names_option(key: str, known: Iterable[str]) -> bool:
    """Return whether a name without a section is an option, here or in another framework."""
    leaves = {name.rpartition(".")[2] for name in known}
    return key in leaves or bool(meant(key, known) or lacking(key))


def unknown_key(key: str, candidates: Iterable[str], *, verb: str = "train") -> str:
    """Return the message for an unknown key of the command `verb`."""
    names = sorted(name for name in candidates if not name.endswith("._target_"))
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.51)  # more than half alike
    if known := meant(key, names):
        return f"{key}: no such key; did you mean {known}?"
    if verb == "train" and (option := lacking(key)):
        group = option.partition(".")[0]
        return f"{key}: no such key; the lab calls it {option}, which the chosen {group} has not"
    leaf = key.rpartition(".")[2]
    same_leaf = [name for name in names if name.rpartition(".")[2] == leaf]
    if same_leaf or close:
        return f"{key}: no such key; did you mean {(same_leaf or close)[0]}?"
    if verb in ("sample", "evaluate"):
        taken = ", ".join(
            field.name for field in dataclasses.fields(ROOTS[verb]) if field.name != ADDED
        )
        return f"{key}: no such key; dit-lab {verb} takes {taken}"
    return f"{key}: no such key; dit-lab train --cfg job prints them all"


@cache
def takes_list(key: str) -> bool:
    """Return whether a key of a training configuration is a list, by the package's classes."""
    group, _, name = key.partition(".")
    if group in COMPONENTS:
        return any(_is_list(schema, name) for schema in COMPONENTS[group].values())
    kind: Any = ROOTS["train"]
    if name:
        kind = typing.get_type_hints(kind).get(group)
    return dataclasses.is_dataclass(kind) and _is_list(kind, name or group)


def _is_list(schema: Any, name: str) -> bool:
    return holds_lists(typing.get_type_hints(schema).get(name))


def holds_lists(hint: Any) -> bool:
    """Return whether a type is a list, or a list or null."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = set(typing.get_args(hint) if union else (hint,)) - {type(None)}
    return bool(members) and all(typing.get_origin(member) in (list, tuple) for member in members)
