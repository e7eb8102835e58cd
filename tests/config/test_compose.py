"""Composed configs, and agreement of schema, conf/ and constructors."""

from __future__ import annotations

import dataclasses
import inspect
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf
from packaging.requirements import Requirement

from dit_lab.config import search_path
from dit_lab.config.axes import asks_for_sweep
from dit_lab.config.compatibility import SAMPLERS
from dit_lab.config.components import COMPONENTS, LISTS, load_component
from dit_lab.config.compose import compose_train
from dit_lab.config.contracts import CONTRACTS, given_in_code
from dit_lab.config.objects import to_tree
from dit_lab.config.validate import to_plain
from dit_lab.config.yaml_files import to_yaml
from dit_lab.core import trust
from dit_lab.core.errors import RequestError
from dit_lab.core.options import defaults
from dit_lab.data.options import Dataset
from dit_lab.evaluation.options import Metric
from dit_lab.sweeps.plan import plan_sweep
from dit_lab.training.optimizers.options import Optimizer

CONF = search_path.packaged("conf")
REGISTERED = [(group, target) for group, of_it in COMPONENTS.items() for target in of_it]
HEADER = {"question", "command", "hardware", "time", "expected"}
COMPONENT_FILES = [
    file
    for group in ("objective", "sampler", "dataset", "codec", "optimizer", "schedule")
    for file in sorted((CONF / group).glob("*.yaml"))
    if "_target_" in file.read_text()  # others choose a component or build on one
]


def composed(overrides: list[str], **how: Any) -> dict[str, Any]:
    """Return a config as stored in files."""
    return to_tree(compose_train(overrides, **how))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_default_is_the_papers() -> None:
    config = composed([])
    assert config["model"] | {"patch_size": 2} == config["model"]
    assert [config["model"][k] for k in ("depth", "hidden_size", "num_heads")] == [28, 1152, 16]
    assert config["objective"]["_target_"].endswith("DDPM")
    assert config["objective"]["learn_sigma"] is True
    assert config["dataset"]["image_size"] == 256
    assert config["codec"]["_target_"].endswith("Autoencoder")
    assert config["training"]["global_batch_size"] == 256
    assert (config["optimizer"]["lr"], config["optimizer"]["weight_decay"]) == (1e-4, 0.0)
    assert config["ema"]["decays"] == [0.9999]
    assert config["precision"]["mixed_precision"] == "bf16"
    assert config["model"]["class_dropout_prob"] == 0.1
    assert config["training"]["clip_norm"] == 1.0
    assert config["dataset"]["horizontal_flip"] is True


def test_every_member_of_every_group_composes() -> None:
    """Composes one member of each group at a time, and the first again if a group has fewer."""
    members = {group: search_path.choices(group) for group in search_path.groups()}
    del members["experiment"], members["hook"]  # of which the package has none
    for turn in range(max(map(len, members.values()))):
        chosen = {group: names[turn % len(names)] for group, names in members.items()}
        config = composed([f"{group}={name}" for group, name in chosen.items()])
        for group, name in chosen.items():
            if group in LISTS:
                assert list(config[group]) == [name]
            elif name != "auto":
                assert config["choices"][group] == name


def test_several_metrics_are_chosen_and_set() -> None:
    chosen = ["metric=[kid,two_sample]", "metric.kid.every_steps=5"]
    metrics = composed(chosen)["metric"]
    assert list(metrics) == ["kid", "two_sample"]
    assert (metrics["kid"]["every_steps"], metrics["two_sample"]["every_steps"]) == (5, None)
    assert composed(["metric=[]"])["metric"] == {}
    usual = ["two_sample", "precision_recall", "memorisation", "class_accuracy"]
    assert list(composed([])["metric"]) == usual


@pytest.mark.parametrize("name", search_path.experiments())
def test_every_experiment_composes_and_names_its_question(name: str) -> None:
    config = composed([f"experiment={name}"])
    assert config["name"] == name
    assert set(search_path.header(search_path.experiments()[name])) == HEADER


def test_the_command_line_beats_the_experiment() -> None:
    config = composed(["experiment=quickstart", "seed=7", "model=pico", "optimizer.lr=0.5"])
    assert (config["seed"], config["model"]["hidden_size"], config["optimizer"]["lr"]) == (
        7,
        64,
        0.5,
    )


@pytest.mark.parametrize("objective", ["ddpm", "rectified_flow", "flow_matching"])
def test_auto_is_the_objectives_natural_sampler(objective: str) -> None:
    config = composed([f"objective={objective}", "sampler.steps=7"])
    natural = SAMPLERS[config["objective"]["_target_"]][0]
    assert config["choices"]["sampler"] == natural
    assert config["sampler"]["steps"] == 7


@pytest.mark.parametrize(
    "given", ["tags={topic: grown, n: 3}", "tags.topic=grown", "+tags.topic=grown"]
)
def test_tags_have_names_of_the_users(given: str) -> None:
    config = compose_train(["dataset=digits", "codec=identity", given, "note='of 3, at last'"])
    assert config.tags == {"topic": "grown"} | ({"n": "3"} if "n:" in given else {})
    assert config.note == "of 3, at last"


def test_guidance_weight_is_the_other_convention() -> None:
    assert composed(["guidance.weight=3"])["guidance"]["scale"] == 4.0
    assert composed([])["guidance"]["scale"] == 1.0


def test_paths_are_absolute_and_the_store_is_sqlite(tmp_path: Path) -> None:
    config = composed([])
    assert config["paths"]["root"] == str(tmp_path / "outputs")
    assert config["tracking"]["uri"] == f"sqlite:///{tmp_path}/outputs/mlflow.db"


def test_a_users_conf_folder_adds_choices(tmp_path: Path) -> None:
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/wee.yaml").write_text(
        "defaults: [_dit]\nhidden_size: 32\ndepth: 1\nnum_heads: 2\n"
    )
    assert composed(["model=wee"])["model"]["hidden_size"] == 32
    elsewhere = tmp_path / "my lab, 2nd"
    elsewhere.mkdir()
    (tmp_path / "conf").rename(elsewhere / "conf")
    with pytest.raises(RequestError, match="model=wee: no such choice"):
        composed(["model=wee"])
    assert composed(["model=wee"], config_dirs=[elsewhere / "conf"])


def test_a_users_experiment_is_found(tmp_path: Path) -> None:
    (tmp_path / "experiments/mine").mkdir(parents=True)
    (tmp_path / "experiments/mine/recipe.yaml").write_text("seed: 5\n")
    assert composed(["experiment=mine"])["seed"] == 5


def test_an_experiment_can_be_built_on_another(tmp_path: Path) -> None:
    (tmp_path / "experiments/mine").mkdir(parents=True)
    (tmp_path / "experiments/mine/recipe.yaml").write_text("defaults: [quickstart]\nseed: 5\n")
    found, base = (composed([f"experiment={name}"]) for name in ("mine", "quickstart"))
    assert found["seed"] == 5
    assert found["training"] == base["training"]
    assert found["choices"]["experiment"] == "mine"


OWN_OBJECTIVE = """
from dit_lab.objectives.rectified_flow import RectifiedFlow

class Mine(RectifiedFlow):
    samplers = ("heun",)
    def __init__(self, *, strength: float, mode: str = "soft") -> None: ...
"""


def test_a_users_component_is_typed_by_its_own_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mylab_objective.py").write_text(OWN_OBJECTIVE)
    (tmp_path / "conf/objective").mkdir(parents=True)
    recipe = "_target_: mylab_objective.Mine\nstrength: 0.5\n"
    (tmp_path / "conf/objective/mine.yaml").write_text(recipe)
    with pytest.raises(RequestError, match=r"add trusted_modules=\[mylab_objective\]"):
        composed(["objective=mine"])
    trust.trust_modules(["mylab_objective"])
    config = composed(["objective=mine"])
    assert config["objective"] == {
        "_target_": "mylab_objective.Mine", "strength": 0.5, "mode": "soft"
    }  # fmt: skip
    assert config["choices"]["sampler"] == "heun"
    with pytest.raises(RequestError, match=r"objective\.strength=much: expected a number"):
        composed(["objective=mine", "objective.strength=much"])
    with pytest.raises(RequestError, match=r"objective.strenth.*did you mean objective.strength"):
        composed(["objective=mine", "+objective.strenth=1"])


# ---- extending a run ----------------------------------------------------------------------------

DIGITS = ["dataset=digits", "codec=identity", "model=pico", "objective=rectified_flow"]


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A run folder with only a config, in which many values are not the defaults."""
    config = composed([*DIGITS, "name=mine", "seed=5", "optimizer.lr=0.5", "patch=4"])
    folder = tmp_path / "outputs/runs/mine/0123456789ab"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder, config


@pytest.mark.parametrize("force", ["", "force:"])
def test_an_extension_is_what_the_run_recorded(
    recorded: tuple[Path, dict[str, Any]], force: str
) -> None:
    folder, config = recorded
    assert composed([f"resume={force}{folder}"]) == {**config, "resume": f"{force}{folder}"}
    # by its name, where the command is typed
    again = composed([f"resume={force}outputs/runs/mine"])
    assert again["resume"] == f"{force}{folder}"


def test_what_is_given_anew_beats_what_was_recorded(
    recorded: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, config = recorded
    given = ["training.total_steps=7", "schedule=cosine", "sampler=euler", "paths.root=elsewhere"]
    longer = composed([f"resume={folder}", *given])
    assert longer["training"] == {**config["training"], "total_steps": 7}
    assert longer["schedule"]["_target_"].endswith("Cosine")
    assert longer["choices"] == {**config["choices"], "schedule": "cosine", "sampler": "euler"}
    assert longer["paths"]["root"] == str(tmp_path / "elsewhere")
    store = f"sqlite:///{tmp_path}/elsewhere/mlflow.db"  # where this command writes
    assert longer["tracking"] == {**config["tracking"], "uri": store}
    for key in ("model", "objective", "optimizer", "dataset", "seed", "name"):
        assert longer[key] == config[key]


def test_what_a_run_trusted_is_not_trusted_by_extending_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "extended_objective.py").write_text(OWN_OBJECTIVE)
    (tmp_path / "conf/objective").mkdir(parents=True)
    (tmp_path / "conf/objective/mine.yaml").write_text(
        "_target_: extended_objective.Mine\nstrength: 0.5\n"
    )
    with trust.this_command():
        trust.trust_modules(["extended_objective"])
        config = composed([*DIGITS[:-1], "objective=mine"])
    folder = tmp_path / "outputs/runs/mine/0123456789ab"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    recorded = (folder / "config.yaml").read_text() + "trusted_modules: [extended_objective]\n"
    (folder / "config.yaml").write_text(recorded)
    with pytest.raises(RequestError, match=r"add trusted_modules=\[extended_objective\]"):
        composed([f"resume={folder}"])
    trust.trust_modules(["extended_objective"])
    assert composed([f"resume={folder}"])["objective"] == config["objective"]


# ---- one home for each thing: types in the schema, values in conf/, arguments in the classes ----


@pytest.mark.parametrize(("group", "target"), REGISTERED)
def test_schema_mirrors_the_constructor(group: str, target: str) -> None:
    component = load_component(target, key=f"{group}._target_")
    arguments = set(inspect.signature(component).parameters)
    fields = {field.name for field in dataclasses.fields(COMPONENTS[group][target])} - {"_target_"}
    given = set().union(*map(given_in_code, CONTRACTS))
    if issubclass(COMPONENTS[group][target], Metric):
        fields -= {"every_steps"}
    if issubclass(COMPONENTS[group][target], Dataset):
        fields -= {"num_workers", "num_classes", "image_size", "images_root"} - arguments
    if issubclass(COMPONENTS[group][target], Optimizer):
        fields -= {"groups"}
    assert fields <= arguments
    if target.startswith("dit_lab."):
        assert arguments - given == fields - given


@pytest.mark.parametrize(("group", "target"), REGISTERED)
def test_options_have_the_constructors_defaults(group: str, target: str) -> None:
    """Where a constructor has a default, that of its options differs by decision only."""
    decided = {"torch.optim.AdamW": ["lr", "weight_decay", "fused"]}.get(target, [])
    parameters = inspect.signature(load_component(target, key=f"{group}._target_")).parameters
    for name, value in defaults(COMPONENTS[group][target]).items():
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        if default is not inspect.Parameter.empty and name not in decided:
            assert (tuple(value) if isinstance(value, list) else value) == default, name


@pytest.mark.parametrize("file", COMPONENT_FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_conf_repeats_no_default(file: Path) -> None:
    options = to_plain(OmegaConf.load(file))
    by_default = defaults(COMPONENTS[file.parent.name][options.pop("_target_")])
    assert not [
        name for name in options if name in by_default and by_default[name] == options[name]
    ]


def test_only_versions_of_hydra_are_allowed_whose_private_name_is_known() -> None:
    """`ConfigLoaderImpl._apply_overrides_to_config` is in every 1.3; a 1.4 must be tried first."""
    needed = Requirement(next(r for r in requires("dit-lab") or () if r.startswith("hydra-core")))
    assert needed.specifier.contains("1.3.8") and not needed.specifier.contains("1.4.0")
    assert needed.specifier.contains(version("hydra-core"))
    assert callable(ConfigLoaderImpl._apply_overrides_to_config)


OWN = "hidden_size: 32\ndepth: 1\nnum_heads: 2\n"


def wrote(path: str, text: str) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_what_is_the_users_own_comes_before_the_labs() -> None:
    """User-defined members and recipes take precedence over the lab's.

    They come from the current folder and from given folders, of which the last takes precedence.
    Other files in such a folder are ignored; they may belong to other programs.
    """
    wrote("conf/model/pico.yaml", f"defaults: [_dit]\n{OWN}")
    wrote("conf/model/_dit.yaml", "nonsense: 1\n")
    wrote("conf/train.yaml", "nonsense: 1\n")
    wrote("given/sampler/heun.yaml", "defaults: [euler]\nsteps: 7\n")
    wrote("given/experiments/mine/recipe.yaml", "defaults: [/experiment/quickstart]\nseed: 5\n")
    wrote("experiments/mine/recipe.yaml", "defaults: [/experiment/quickstart]\nseed: 4\n")
    here = composed(["experiment=mine"])
    assert (here["model"]["hidden_size"], here["seed"]) == (32, 4)
    assert here["model"]["mlp_ratio"] == 4.0  # of the lab's own part
    assert here["sampler"]["_target_"].endswith("Heun")
    there = composed(["experiment=mine", "sampler=heun"], config_dirs=[Path("given")])
    assert (there["model"]["hidden_size"], there["seed"]) == (32, 5)
    assert (there["sampler"]["_target_"].rpartition(".")[2], there["sampler"]["steps"]) == (
        "Euler", 7,
    )  # fmt: skip
    wrote("given/model/pico.yaml", f"defaults: [_dit]\n{OWN}mlp_ratio: 2.0\n")
    assert composed(["model=pico"], config_dirs=[Path("given")])["model"]["mlp_ratio"] == 2.0
    assert search_path.own_choices([Path("given")]) == (
        "using conf/ of this folder: replaces model=pico of the lab; "
        f"using {Path('given').resolve()}: replaces model=pico, sampler=heun of the lab"
    )


def test_a_sweep_may_be_a_recipe_below_a_given_folder() -> None:
    wrote(
        "given/experiments/two/recipe.yaml",
        "defaults: [/experiment/quickstart]\nhydra:\n  mode: MULTIRUN\n"
        "  sweeper: {params: {seed: '0,1'}}\n",
    )
    given = ["experiment=two"]
    assert asks_for_sweep(given, [Path("given")])
    plan = plan_sweep(given, config_dirs=[Path("given")])
    assert [config.seed for config in plan.configs] == [0, 1]
    assert not asks_for_sweep(given)  # it is not known without the folder
