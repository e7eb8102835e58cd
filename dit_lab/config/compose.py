"""Composition of the configurations of commands, from overrides to typed objects.

Everything is composed once, before torch is imported. Begin with `compose_train` and
`compose_for_run`. `hydra_compose.py` calls Hydra, and `layers.py` defines the precedence of values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from dit_lab.codecs.facts import HUB
from dit_lab.config import search_path
from dit_lab.config.arms import Arm, arms_of, defines_arms, with_arm
from dit_lab.config.hydra_compose import Request, plain, user_folders
from dit_lab.config.layers import Composition, composition
from dit_lab.config.objects import to_config, to_tree
from dit_lab.config.overrides import option
from dit_lab.config.recorded import read_recorded
from dit_lab.config.schema import (
    CheckConfig,
    EncodeConfig,
    EvaluateConfig,
    RunConfig,
    SampleConfig,
    TrainConfig,
)
from dit_lab.config.validate import checked_types, without_patches
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.text import checked_name, local_path
from dit_lab.data.pair_facts import pairs_folder
from dit_lab.methods.options import TEACHERS
from dit_lab.runs.access import refuse_unreadable
from dit_lab.runs.finding import find_run
from dit_lab.runs.folder import RunFolder

Tree = dict[str, Any]
ForRun = TypeVar("ForRun", SampleConfig, EvaluateConfig)
OfData = TypeVar("OfData", EncodeConfig, CheckConfig)

PATHS = (
    "paths.root", "dataset.root", "dataset.images_root", "codec.path", "coupling.pairs", "out",
    "evaluation.weights_path",
)  # fmt: skip
"""Keys that hold a path; relative paths are relative to the current folder."""

RESUME_WORDS = ("auto", "never", "force")


def compose_train(
    overrides: Sequence[str],
    *,
    config_dirs: Iterable[Path] = (),
    on_note: Callable[[str], None] = lambda note: None,
) -> RunConfig:
    """Compose a training configuration, `conf/train.yaml` with overrides.

    With `resume=RUN`, the configuration of RUN replaces the defaults. The result names the chosen
    members of groups under `choices`, and its paths are absolute.

    Args:
        config_dirs: Further configuration folders of the user.
        on_note: Called with a note on each value of a recipe or an arm that does not apply.

    Raises:
        RequestError: A key is unknown, or a value has the wrong type or range.
    """
    found = Composer(config_dirs).compose(overrides)
    for note in found.notes:
        on_note(note)
    return of_one_training(found.config)


def of_one_training(config: TrainConfig) -> RunConfig:
    """Return the configuration without `sweep`, which runs do not record."""
    return RunConfig(**{field.name: getattr(config, field.name) for field in fields(RunConfig)})


@dataclass(frozen=True, slots=True)
class Composed:
    """A composed training configuration, with notes on its composition."""

    config: TrainConfig
    notes: Sequence[str]  # values of a recipe or an arm that do not apply, and why
    dropped: Mapping[str, str]  # overridden options that the members do not have -> note


class Composer:
    """Composes training configurations, and reads the user's configuration folders only once."""

    def __init__(self, config_dirs: Iterable[Path] = ()) -> None:
        self._folders = user_folders(config_dirs)
        self._arms: dict[tuple[str, ...], dict[str, Arm]] = {}

    def compose(
        self, overrides: Sequence[str], *, recipe_axes: Collection[str] = (), of_sweep: bool = False
    ) -> Composed:
        """Compose a configuration as `compose_train` does, but with `sweep`.

        Args:
            recipe_axes: Options that are axes of the recipe; they are dropped for members that do
                not have them.
            of_sweep: With `sweep.on_refusal=drop_option`, this applies to all options.
        """
        typed, of_arm = with_arm(overrides, self._arms_of)
        extended = _extended_run(typed)
        if extended is not None:
            recorded = read_recorded(extended, root=typed_root(typed), hooks=True)
            before = _recorded_nodes(to_tree(recorded))
            found = composition(Request("extend", typed, self._folders, before))
            found.choices = _filled(found.choices, recorded.choices)
        else:
            request = Request("train", typed, self._folders)
            found = composition(request, recipe_axes=recipe_axes, of_sweep=of_sweep)
        given = any(option(typed, key) for key in ("patch", "model.patch_size"))
        config = _finished(found, extended, patches=given)
        notes = dict.fromkeys([*of_arm, *found.notes, *found.dropped.values()])
        return Composed(to_config(TrainConfig, config), list(notes), found.dropped)

    def _arms_of(self, overrides: Sequence[str]) -> dict[str, Arm]:
        key = tuple(filter(defines_arms, overrides))
        if key not in self._arms:
            self._arms[key] = arms_of(key, self._folders.paths)
        return self._arms[key]


def _finished(found: Composition, extended: RunFolder | None, *, patches: bool) -> Tree:
    """Return the checked configuration with derived values. Raises RequestError.

    `patches` says whether the command sets the patch size.
    """
    try:
        tree = plain(found.config)
        if not patches:
            found.choices = without_patches(tree, found.choices)
        config = checked_types("train", tree)
    except RequestError as refusal:
        raise RequestError(f"{refusal}{found.blamed(str(refusal))}") from None
    config = _finish(config, objective=config["objective"])
    config["choices"] = found.choices
    if (begin := config["init_from"]) is not None:
        path = local_path(begin, "init_from=").absolute()
        config["init_from"] = str(path) if path.exists() else begin  # else an MLflow run id
    if pairs := config["coupling"].get("pairs"):
        config["coupling"]["pairs"] = str(pairs_folder(Path(pairs)))
    if extended is not None:
        forced = config["resume"].startswith("force:")
        config["resume"] = f"{'force:' if forced else ''}{extended.root}"
    tracking = config["tracking"]
    config["name"] = checked_name("name", config["name"] or _default_name(found.choices))
    own = trust.default_store(config["paths"]["root"])
    tracking["uri"] = trust.without_password(tracking["uri"] or own)
    trust.trust_own_store(config["paths"]["root"])
    tracking["experiment"] = tracking["experiment"] or config["name"]
    return config


def compose_for_run(
    kind: type[ForRun],
    overrides: Sequence[str],
    *,
    recorded: RunConfig,
    config_dirs: Iterable[Path] = (),
) -> ForRun:
    """Compose `conf/sample.yaml` or `conf/evaluate.yaml` over what a run recorded.

    Otherwise as `compose_train`.
    """
    verb, before = ("sample" if kind is SampleConfig else "evaluate"), to_tree(recorded)
    if option(overrides, "guidance.weight") is not None:
        before["guidance"]["scale"] = None  # the override in the other convention replaces it
    nodes = _recorded_nodes(before, only=("guidance", "sample", "paths"))
    request = Request(verb, overrides, user_folders(config_dirs), nodes)
    found = composition(request, objective=before["objective"]["_target_"])
    config = _finish(checked_types(verb, plain(found.config)), objective=before["objective"])
    config["choices"] = _filled(found.choices, recorded.choices)
    return to_config(kind, config)


def compose_reflow(
    overrides: Sequence[str], *, recorded: RunConfig, config_dirs: Iterable[Path] = ()
) -> RunConfig:
    """Compose the training of a reflow from the configuration that a run recorded.

    The folder of the pairs is not set yet.
    """
    name = option(overrides, "name") or f"{recorded.name}-reflow"
    before = {**to_tree(recorded), "name": name, "resume": "auto", "init_from": None}
    nodes = _recorded_nodes(before)
    request = Request("reflow", overrides, user_folders(config_dirs), nodes)
    found = composition(request, objective=before["objective"]["_target_"])
    config = checked_types("train", plain(found.config))
    checked_name("name", config["name"])
    config = _finish(config, objective=config["objective"])
    config["choices"] = _filled(found.choices, recorded.choices)
    return of_one_training(to_config(TrainConfig, config))


def compose_data(
    kind: type[OfData], overrides: Sequence[str], *, config_dirs: Iterable[Path] = ()
) -> OfData:
    """Compose `conf/encode.yaml` or `conf/check.yaml`, the commands about a dataset."""
    verb = "encode" if kind is EncodeConfig else "check"
    found = composition(Request(verb, overrides, user_folders(config_dirs)))
    config = _with_absolute_paths(checked_types(verb, plain(found.config)))
    config["choices"] = found.choices
    return to_config(kind, config)


def _extended_run(overrides: Sequence[str]) -> RunFolder | None:
    """Return the run that `resume=RUN` or `resume=force:RUN` names, or None."""
    given = option(overrides, "resume")
    if given is None or given in RESUME_WORDS:
        return None
    root = root_option(overrides).absolute()
    name = str(given).removeprefix("force:")
    try:
        folder, checkpoint = find_run(name, root=root)
    except RequestError as error:
        reason = str(error).partition(": ")[2]
        raise RequestError(
            f"resume={given}: not auto, never or force, and no run: {reason}"
        ) from None
    if checkpoint is not None:
        raise RequestError(f"resume={given}: a checkpoint; give its run folder, {folder.root}")
    refuse_unreadable(f"resume={given}", folder, None)
    return folder


def _recorded_nodes(recorded: Tree, only: Sequence[str] | None = None) -> Tree:
    """Return a run's configuration as member `recorded` of all groups: `group/name` -> values."""
    groups = {name: recorded[name] for name in search_path.groups() if name in recorded}
    rest = only or [key for key in recorded if key not in (*groups, "choices")]
    return {
        **{f"{name}/recorded": values for name, values in groups.items()},
        "recorded": {key: recorded[key] for key in rest},
        "patch/recorded": {},  # the patch size is part of the model
    }


def _filled(choices: dict[str, str], recorded: dict[str, str]) -> dict[str, str]:
    """Return the names of the chosen members; for `recorded`, the name that the run recorded."""
    return {**recorded, **{group: name for group, name in choices.items() if name != "recorded"}}


def over(recorded: RunConfig, chosen: SampleConfig | EvaluateConfig) -> RunConfig:
    """Return the recorded configuration with the values of a later command."""
    names = {field.name for field in fields(RunConfig)}
    anew = {f.name: getattr(chosen, f.name) for f in fields(chosen) if f.name in names}
    return replace(recorded, **anew)


def given_run(overrides: Sequence[str]) -> tuple[str, Path, RunFolder, RunConfig]:
    """Find `run=RUN` of a command, and read its configuration.

    Returns:
        RUN, the root folder of the search, the run folder, and the recorded configuration.

    Raises:
        RequestError: There is no such run, or it cannot be read.
    """
    wanted = option(overrides, "run")
    if not wanted:
        raise RequestError("run: missing; give run=RUN, a folder below outputs/runs")
    root = root_option(overrides)
    folder, checkpoint = find_run(str(wanted), root=root)
    refuse_unreadable(f"run={wanted}", folder, checkpoint)
    recorded = read_recorded(folder, root=typed_root(overrides))
    trust.trust_own_store(recorded.paths.root)
    return str(wanted), root, folder, recorded


def typed_root(overrides: Sequence[str]) -> Path | None:
    """Return the absolute `paths.root` if it is overridden, else None."""
    given = option(overrides, "paths.root") is not None
    return root_option(overrides).absolute() if given else None


def root_option(overrides: Sequence[str]) -> Path:
    """Return the `paths.root` of the overrides, or its default, before anything is composed."""
    return local_path(option(overrides, "paths.root") or "outputs", "paths.root=")


# ---- derived values -----------------------------------------------------------------------------


def _finish(config: Tree, *, objective: Tree) -> Tree:
    """Make paths absolute and convert guidance to a scale; `objective` is that of the model."""
    config = _with_absolute_paths(config)
    guidance = config["guidance"]
    if guidance["scale"] is not None and guidance["weight"] is not None:
        raise RequestError(
            f"guidance.scale={guidance['scale']} and guidance.weight={guidance['weight']}: two "
            "conventions of one setting (scale = 1 + weight); give one of them"
        )
    if guidance["scale"] is None:
        guidance["scale"] = 1.0 + (guidance["weight"] or 0.0)
    guidance["weight"] = None
    if guidance["weak_run"] is not None:
        guidance["weak_run"] = str(_weak_run(config, objective))
    return config


def _with_absolute_paths(config: Tree) -> Tree:
    for path in PATHS:
        *parents, leaf = path.split(".")
        node = config
        for parent in parents:
            node = node.get(parent, {})
        if isinstance(node.get(leaf), str) and not node[leaf].startswith(HUB):
            node[leaf] = str(local_path(node[leaf], f"{path}=").absolute())
    for group, key, words in (("metric", "reference", ()), ("method", "teacher", TEACHERS)):
        for name, options in config.get(group, {}).items():
            if (given := options.get(key)) not in (None, *words):
                options[key] = str(local_path(given, f"{group}.{name}.{key}=").absolute())
    return config


def _weak_run(config: Tree, objective: Tree) -> Path:
    """Return the folder of the weak run or checkpoint for autoguidance.

    Raises RequestError if its objective differs, because its outputs would not be comparable.
    """
    given = f"guidance.weak_run={config['guidance']['weak_run']}"
    try:
        folder, checkpoint = find_run(
            config["guidance"]["weak_run"], root=Path(config["paths"]["root"])
        )
    except RequestError as error:
        raise RequestError(f"{given}: {str(error).partition(': ')[2]}") from None
    refuse_unreadable(given, folder, checkpoint)
    weak = to_tree(read_recorded(folder))["objective"]
    other = [key for key in {**objective, **weak} if weak.get(key) != objective.get(key)]
    if other:
        raise RequestError(
            f"{given}: was trained with objective.{other[0]}={weak.get(other[0])}, not "
            f"{objective.get(other[0])}; its outputs cannot be compared with this model's"
        )
    return checkpoint or folder.root


def _default_name(choices: dict[str, str]) -> str:
    """Return the default name of a run: the experiment, or the chosen members."""
    parts = (choices.get(group, "") for group in ("dataset", "model", "patch", "objective"))
    return choices.get("experiment") or "-".join(filter(None, parts))
