"""Locations of the configurations and experiments of the package and of the user.

In a wheel they are `dit_lab/conf` and `dit_lab/experiments`; in a checkout (editable install) they
are next to the package. Uses only the standard library, since `--help` lists groups and
experiments.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dit_lab.core.errors import RequestError

OF_USERS = ("experiment", "hook")
"""Groups to which users add members, even if the package has none in conf/."""

_PACKAGE = Path(__file__).resolve().parent.parent


def packaged(name: str) -> Path:
    """Return the folder `conf` or `experiments` of the package."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def user_config_dirs(given: Iterable[Path] = ()) -> list[Path]:
    """Return the user's configuration folders: `./conf` and those of `--config-dir`."""
    given = list(given)
    for path in given:
        if not path.is_dir():
            raise RequestError(
                f"--config-dir {path}: no such folder; give the one with your groups"
            )
    candidates = [Path("conf").resolve(), *(path.resolve() for path in given)]
    return [path for path in candidates if path.is_dir() and path != packaged("conf").resolve()]


def own_choices(given: Iterable[Path] = ()) -> str:
    """Return a line on what the user's folders add or replace, or "".

    A member or a recipe of the user replaces the package's one of the same name.
    """
    found = []
    for folder in user_config_dirs(given):
        every = sorted(path for path in folder.glob("*/*.yaml") if not path.name.startswith("_"))
        files = [path for path in every if path.parent.name in groups()]
        foreign = {path.parent.name: None for path in every if path not in files}
        lab = [(packaged("conf") / path.relative_to(folder)).exists() for path in files]
        names = [f"{path.parent.name}={path.stem}" for path in files]
        added = [name for name, is_labs in zip(names, lab, strict=True) if not is_labs]
        replaced = [name for name, is_labs in zip(names, lab, strict=True) if is_labs]
        said = [f"adds {', '.join(added)}"] if added else []
        if replaced:
            said.append(f"replaces {', '.join(replaced)} of the lab")
        if foreign:
            said.append(f"ignores {', '.join(foreign)} (no such group)")
        if said:
            place = "conf/ of this folder" if folder == Path("conf").resolve() else str(folder)
            found.append(f"using {place}: {'; '.join(said)}")
    chosen, labs = experiments(given), packaged("experiments")
    shadowed = [
        name
        for name, folder in chosen.items()
        if (labs / name / "recipe.yaml").exists() and folder.resolve() != (labs / name).resolve()
    ]
    if shadowed:
        places = dict.fromkeys(str(chosen[name].parent) for name in shadowed)
        here = list(places) == ["experiments"]
        where = "experiments/ of this folder" if here else " and ".join(places)
        found.append(f"{where} replaces {', '.join(shadowed)} of the lab")
    return "; ".join(found)


def choices(group: str, config_dirs: Iterable[Path] = ()) -> list[str]:
    """Return the names that `group=NAME` accepts. Files that begin with _ are parts of others."""
    folders = [packaged("conf"), *config_dirs]
    if group == "experiment":
        return sorted(experiments(folders[1:]))
    files = (path for folder in folders for path in (folder / group).glob("*.yaml"))
    names = {path.stem for path in files if path.is_file()}
    return sorted(name for name in names if not name.startswith("_"))


def groups() -> list[str]:
    """Return the names of all config groups, including those for users."""
    found = {path.name for path in packaged("conf").iterdir() if path.is_dir()}
    return sorted({*found, *OF_USERS})


def groups_to_choose(config_dirs: Iterable[Path] = ()) -> list[str]:
    """Return the groups with several members or with a member of the user, and `experiment`."""
    dirs = list(config_dirs)
    least = {group: 1 if group in OF_USERS else 2 for group in groups()}
    return [
        group
        for group in groups()
        if group == "experiment" or len(choices(group, dirs)) >= least[group]
    ]


def experiments(config_dirs: Iterable[Path] = ()) -> dict[str, Path]:
    """Return experiments by name, with the folder of their recipe.yaml.

    They are those of the package, of `./experiments`, and of `experiments` in each configuration
    folder; the last one of a name is used.
    """
    own = [Path("experiments"), *(folder / "experiments" for folder in config_dirs)]
    return {
        recipe.parent.name: recipe.parent
        for folder in (packaged("experiments"), *own)
        for recipe in sorted(folder.glob("*/recipe.yaml"))
    }


def member_file(group: str, name: str, config_dirs: Iterable[Path] = ()) -> Path:
    """Return the file of a group's member, which need not exist.

    Files of the user precede those of the package; of several, the last one is used.
    """
    own = [folder / group / f"{name}.yaml" for folder in config_dirs]
    found = [file for file in own if file.is_file()]
    return found[-1] if found else packaged("conf") / group / f"{name}.yaml"


def experiment_folder(name: str) -> Path:
    """Return the folder of an experiment. Raises RequestError if it is unknown."""
    known = experiments()
    if name not in known:
        raise RequestError(f"{name}: no such experiment; there are {', '.join(sorted(known))}")
    return known[name]


def header(experiment: Path) -> dict[str, str]:
    """Return the comments at the head of a recipe: question, hardware, time, expected."""
    found = {}
    try:
        text = (experiment / "recipe.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # running it reports the reason
        return {}
    for line in text.splitlines():
        if not line.startswith("# "):
            break
        key, _, text = line.removeprefix("# ").partition(": ")
        found[key] = text.strip()
    return found
