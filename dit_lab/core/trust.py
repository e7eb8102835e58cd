"""What this command trusts: the user's own modules, whose code may run, and MLflow stores, which
may be contacted.

The command line says it, or an environment variable, or `trust.yaml` in the user's configuration
folder. No run, sweep, record, recipe or folder of configurations does: somebody else may have made
those. Processes that a command starts get it through their environment.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dit_lab.core.errors import RequestError
from dit_lab.core.text import store_uri

MODULES, STORES, PASSWORD = (
    "DIT_LAB_TRUSTED_MODULES", "DIT_LAB_TRACKING_URIS", "DIT_LAB_TRACKING_PASSWORD",
)  # fmt: skip
"""Environment variables: modules divided by commas, addresses divided by spaces, and the password
of the store."""

FILE_KEYS = ("trusted_modules", "tracking_uris")
"""What trust.yaml may say: two lists."""

PACKAGE = Path(__file__).resolve().parent.parent

LIBRARIES = (
    "dit_lab", "torch", "torchvision", "numpy", "scipy", "sklearn", "PIL", "yaml", "omegaconf",
    "hydra", "accelerate", "diffusers", "safetensors", "mlflow", "rich",
)  # fmt: skip

NEVER = frozenset({*LIBRARIES, *sys.stdlib_module_names})
"""Packages that nobody can trust as a whole: they hold more than components."""


@dataclass(slots=True)
class _Grants:
    """What the command line or the user's Python has granted."""

    modules: list[str] = field(default_factory=list)
    stores: list[str] = field(default_factory=list)
    own_stores: list[str] = field(default_factory=list)
    password: str | None = None


_granted = _Grants()


@contextmanager
def this_command() -> Iterator[None]:
    """Whatever is granted inside ends with the command."""
    global _granted
    before, _granted = _granted, _Grants()
    try:
        yield
    finally:
        _granted = before


def taken_from(words: Sequence[str]) -> list[str]:
    """The words of a command line without `trusted_modules=[...]`, which is granted, and without
    the password of `tracking.uri=ADDRESS`, which may be contacted. Raises RequestError."""
    trusted_modules()  # what the environment and the user's own file say is checked at once
    kept = []
    for word in words:
        key, found, value = word.partition("=")
        if found and key.lstrip("+") == "trusted_modules":
            trust_modules(_as_list(value))
        elif found and key.lstrip("+") == "tracking.uri":
            uri = value.strip("'\"")
            kept.append(word.replace(uri, trust_store(uri)) if uri else word)
        else:
            kept.append(word)
    return kept


def _as_list(value: str) -> Any:
    import yaml  # only where there is something to read: help must answer at once

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def environment() -> dict[str, str]:
    """What this command trusts, for the processes that it starts."""
    kept = {MODULES: ",".join(trusted_modules()), STORES: " ".join(trusted_stores())}
    if password := _password():
        kept[PASSWORD] = password
    return {name: value for name, value in kept.items() if value}


def user_file() -> Path:
    """The user's own file, `~/.config/dit-lab/trust.yaml`."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "dit-lab" / "trust.yaml"


def _said_by_user(key: str) -> list[str]:
    """A list in the user's own file. Raises RequestError where that says anything else."""
    file = user_file()
    try:
        content = file.read_bytes()
    except OSError:  # mostly there is none
        return []
    import yaml

    try:
        said = yaml.safe_load(content)
    except yaml.YAMLError:  # or no text
        said = None
    lists = said.values() if isinstance(said, Mapping) and set(said) <= set(FILE_KEYS) else [None]
    if not all(isinstance(found, list) and _are_texts(found) for found in lists):
        raise RequestError(f"{file}: expected lists of texts under {' and '.join(FILE_KEYS)} alone")
    assert isinstance(said, Mapping)
    return list(said.get(key, []))


def _are_texts(found: list[Any]) -> bool:
    return all(isinstance(one, str) for one in found)


# ---- modules ------------------------------------------------------------------------------------


def trust_modules(given: Any) -> None:
    """Let components lie in packages of the user's own. Raises RequestError for what is no list of
    packages that are there."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        shown = "null" if given is None else given
        name = given if isinstance(given, str) else "PACKAGE"
        raise RequestError(
            f"trusted_modules={shown}: expected a list; write trusted_modules=[{name}]"
        )
    _refuse_no_modules(given, "trusted_modules")
    if given:
        _look_here_too()
    for module in given:
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            raise RequestError(
                f"trusted_modules={module}: no such package; type the command in the folder where "
                "it lies, or install it"
            )
    _granted.modules.extend(given)


def trusted_modules() -> tuple[str, ...]:
    """Packages and modules of the user's own whose code may run."""
    from_environment = [name for name in os.environ.get(MODULES, "").split(",") if name]
    _refuse_no_modules(from_environment, MODULES)
    from_file = _said_by_user("trusted_modules")
    _refuse_no_modules(from_file, f"{user_file()}: trusted_modules")
    return tuple(dict.fromkeys([*_granted.modules, *from_environment, *from_file]))


def _refuse_no_modules(given: Iterable[Any], where: str) -> None:
    for module in given:
        if not isinstance(module, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", module):
            raise RequestError(f"{where}={module}: expected names of packages, such as mylab")
        if module.partition(".")[0] in NEVER:
            raise RequestError(
                f"{where}={module}: holds more than components, so it cannot be trusted as a "
                "whole; give a package of your own"
            )


def is_trusted(name: str) -> bool:
    """Whether a dotted name lies in a module of the user's own."""
    return any(name.startswith(f"{module}.") for module in trusted_modules())


def load_own(target: str, *, key: str) -> Any:
    """The class or function of the user's own that `target` names, defined in a trusted module.
    Raises RequestError."""
    module_name, _, name = target.rpartition(".")
    _look_here_too()
    try:
        component = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # whatever the user's module does when it is imported
        raise RequestError(f"{key}={target}: cannot be imported ({reason(error)})") from error
    if not callable(component):
        kind = type(component).__name__
        raise RequestError(f"{key}={target}: is of type {kind}; name a class or a function")
    own_name = getattr(component, "__qualname__", name)  # `name` may be the user's own for it
    home = f"{getattr(component, '__module__', '')}.{own_name}"
    if not is_trusted(home):
        raise RequestError(
            f"{key}={target}: is {home}, which is not in a trusted module; name one of your own"
        )
    return component


def source_files(modules: Iterable[str]) -> dict[str, Path]:
    """The source files of modules of the user's own, by their path within the package."""
    _look_here_too()
    files: dict[str, Path] = {}
    for module in modules:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # of a package that `module` says it lies in
            spec = None
        if spec is None:
            continue
        place = module.replace(".", "/")
        for folder in map(Path, spec.submodule_search_locations or []):
            files |= {
                f"{place}/{f.relative_to(folder).as_posix()}": f for f in folder.rglob("*.py")
            }
        if spec.origin and spec.origin.endswith(".py") and not spec.submodule_search_locations:
            files[f"{place}.py"] = Path(spec.origin)
    return files


def reason(error: Exception) -> str:
    """What went wrong in the user's code, and in which line of a module, as one line."""
    text = " ".join(str(error).split())
    machinery = (str(PACKAGE), importlib.__file__, "<frozen")
    calls = traceback.extract_tb(error.__traceback__)
    lines = [call for call in calls if not call.filename.startswith(machinery)]
    at = f", {lines[-1].filename} line {lines[-1].lineno}" if lines else ""
    return f"{type(error).__name__}: {text}{at}"


def _look_here_too() -> None:
    """A module of the user's own may lie where the command is typed. It is found after the standard
    library and all that is installed, which no file in that folder can take the place of."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


# ---- stores -------------------------------------------------------------------------------------


def trust_store(uri: str) -> str:
    """Let an MLflow store be contacted; its address without the password, which is remembered."""
    _granted.stores.append(without_password(uri))
    return _granted.stores[-1]


def default_store(root: Path | str) -> str:
    """The address of the store of the runs below `paths.root`, where no other is named."""
    return store_uri(Path(root) / "mlflow.db")


def trust_own_store(root: Path | str) -> None:
    """Let the store be used that lies where this command writes."""
    _granted.own_stores.append(default_store(root))


def trusted_stores() -> tuple[str, ...]:
    """Addresses that may be contacted."""
    from_environment = os.environ.get(STORES, "").split()
    said = [*_granted.stores, *from_environment, *_said_by_user("tracking_uris")]
    return tuple(dict.fromkeys(_divided(uri)[0] for uri in said))


def is_named(uri: str) -> bool:
    """Whether the command or the user names a store, so that what it says is believed."""
    return _same_place(uri) in map(_same_place, trusted_stores())


def may_contact(uri: str) -> bool:
    """Whether this command may talk to a store."""
    return is_named(uri) or _same_place(uri) in map(_same_place, _granted.own_stores)


def sqlite_path(uri: str) -> Path:
    """The file behind a sqlite URI: what follows the third slash, an empty path where nothing."""
    found = re.match(r"[\w+]+:///([^?]*)", uri)
    return Path(found[1] if found else "")


def _same_place(uri: str) -> str:
    """The address, of a file whatever links lead to it."""
    uri = _divided(uri)[0].rstrip("/")
    return f"sqlite:{sqlite_path(uri).resolve()}" if uri.startswith("sqlite:") else uri


def without_password(uri: str) -> str:
    """The address as it may be kept and shown; its password is remembered for this command."""
    plain, password = _divided(uri)
    _granted.password = password or _granted.password
    return plain


def plain_address(uri: str) -> str:
    """The address that a file holds, without the password, which means nothing here."""
    return _divided(uri)[0]


def with_password(uri: str) -> str:
    """The address as its store takes it: with the password that the command line or the environment
    gave, where it names a user and none."""
    plain, password = _divided(uri)
    password = password or _password()
    found = re.match(r"(\w[\w+.-]*://[^/@]*)@(.*)", plain, re.DOTALL)
    if not password or not found or plain.startswith("sqlite"):
        return uri
    return f"{found[1]}:{_quoted(password)}@{found[2]}"


def lacks_password(uri: str) -> str:
    """The variable that is missing where a store refuses the login of a user, to be added to the
    reason; "" where none is."""
    names_user = re.match(r"\w[\w+.-]*://[^/@]+@", uri) is not None
    return f"; {PASSWORD} is not set" if names_user and not _password() else ""


def _password() -> str | None:
    return _granted.password or os.environ.get(PASSWORD)


def _quoted(password: str) -> str:
    from urllib.parse import quote

    return quote(password, safe="")


AUTHORITY = re.compile(r"(\w[\w+.-]*://[^/@:]*):(?!\d*(?:/|$))(.*)@(.*)", re.DOTALL)
"""USER:PASSWORD@HOST in an address; what follows a colon and is a number is a port."""


def _divided(uri: str) -> tuple[str, str | None]:
    """An address without its password, and the password."""
    from urllib.parse import unquote

    password: str | None = None
    if found := AUTHORITY.fullmatch(uri):
        uri, password = f"{found[1]}@{found[3]}", unquote(found[2])
    if found := re.search(r"[?&]password=([^&\s]*)", uri):
        password = unquote(found[1])
        uri = (uri[: found.start()] + "&" + uri[found.end() :].lstrip("&")).rstrip("&")
        uri = uri.replace("&", "?", 1) if "?" not in uri else uri
    return uri, password
