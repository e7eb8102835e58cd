"""Where the package's own configuration and experiments lie, and where users put theirs.

In a wheel they are `dit_lab/conf` and `dit_lab/experiments`; in a checkout (editable install) they
stand beside the package. Standard library only: `--help` lists groups and experiments from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dit_lab.core.errors import RequestError

OF_USERS = ("experiment", "hook")
"""Groups to which users add, whether or not the package has members of them in conf/."""

_PACKAGE = Path(__file__).resolve().parent.parent


def packaged(name: str) -> Path:
    """The folder `conf` or `experiments` that came with the package."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def user_config_dirs(given: Iterable[Path] = ()) -> list[Path]:
    """Further configuration folders: `./conf` and those given by `--config-dir`."""
    given = list(given)
    for path in given:
        if not path.is_dir():
            raise RequestError(
                f"--config-dir {path}: no such folder; give the one with your groups"
            )
    candidates = [Path("conf").resolve(), *(path.resolve() for path in given)]
    return [path for path in candidates if path.is_dir() and path != packaged("conf").resolve()]


def own_choices(given: Iterable[Path] = ()) -> str:
    """What the user's own folders mean for a command, in one line; "" where there are none.

    A member or a recipe of the user's own comes before the lab's of the same name.
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
    """The names that `group=NAME` accepts; files that start with _ are parts of others."""
    folders = [packaged("conf"), *config_dirs]
    if group == "experiment":
        return sorted(experiments(folders[1:]))
    files = (path for folder in folders for path in (folder / group).glob("*.yaml"))
    names = {path.stem for path in files if path.is_file()}
    return sorted(name for name in names if not name.startswith("_"))


def groups() -> list[str]:
    """The configuration groups, those of users included."""
    found = {path.name for path in packaged("conf").iterdir() if path.is_dir()}
    return sorted({*found, *OF_USERS})


def groups_to_choose(config_dirs: Iterable[Path] = ()) -> list[str]:
    """Those with more than one member or with one of the user's own, and `experiment`."""
    dirs = list(config_dirs)
    least = {group: 1 if group in OF_USERS else 2 for group in groups()}
    return [
        group
        for group in groups()
        if group == "experiment" or len(choices(group, dirs)) >= least[group]
    ]


def experiments(config_dirs: Iterable[Path] = ()) -> dict[str, Path]:
    """Named experiments: name -> folder with recipe.yaml, of the package, of `./experiments` and
    below `experiments` of each configuration folder; of one name the last counts."""
    own = [Path("experiments"), *(folder / "experiments" for folder in config_dirs)]
    return {
        recipe.parent.name: recipe.parent
        for folder in (packaged("experiments"), *own)
        for recipe in sorted(folder.glob("*/recipe.yaml"))
    }


def member_file(group: str, name: str, config_dirs: Iterable[Path] = ()) -> Path:
    """The file of a group's member: the user's own before the package's, of several the last. It
    need not exist."""
    own = [folder / group / f"{name}.yaml" for folder in config_dirs]
    found = [file for file in own if file.is_file()]
    return found[-1] if found else packaged("conf") / group / f"{name}.yaml"


def experiment_folder(name: str) -> Path:
    """The folder of a named experiment. Raises RequestError."""
    known = experiments()
    if name not in known:
        raise RequestError(f"{name}: no such experiment; there are {', '.join(sorted(known))}")
    return known[name]


def header(experiment: Path) -> dict[str, str]:
    """What the comments at the head of a recipe say: question, hardware, time, expected."""
    found = {}
    try:
        text = (experiment / "recipe.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # who runs it is told why
        return {}
    for line in text.splitlines():
        if not line.startswith("# "):
            break
        key, _, text = line.removeprefix("# ").partition(": ")
        found[key] = text.strip()
    return found
