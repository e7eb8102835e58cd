"""Trust of a command: user-defined modules whose code may run, and MLflow stores it may contact.

Trust comes from the command line, an environment variable, or `trust.yaml` in the user's
configuration folder; never from a run, sweep, record, recipe or configuration folder, which
somebody else may have made. Child processes get it through their environment.
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
"""Environment variables: modules separated by commas, URIs separated by spaces, and the password of
the store.
"""

FILE_KEYS = ("trusted_modules", "tracking_uris")
"""Keys of trust.yaml, both lists."""

PACKAGE = Path(__file__).resolve().parent.parent

LIBRARIES = (
    "dit_lab", "torch", "torchvision", "numpy", "scipy", "sklearn", "PIL", "yaml", "omegaconf",
    "hydra", "accelerate", "diffusers", "safetensors", "mlflow", "rich",
)  # fmt: skip

NEVER = frozenset({*LIBRARIES, *sys.stdlib_module_names})
"""Packages that cannot be trusted as a whole: they contain more than components."""


@dataclass(slots=True)
class _Grants:
    """Trust given on the command line or by the user's Python code."""

    modules: list[str] = field(default_factory=list)
    stores: list[str] = field(default_factory=list)
    own_stores: list[str] = field(default_factory=list)
    password: str | None = None


_granted = _Grants()


@contextmanager
def this_command() -> Iterator[None]:
    """Context of a command, which ends the trust that is given in it."""
    global _granted
    before, _granted = _granted, _Grants()
    try:
        yield
    finally:
        _granted = before


def grant_from_arguments(words: Sequence[str]) -> list[str]:
    """Grant the trust in the arguments of a command line, and return the arguments without it.

    Removes `trusted_modules=[...]`, and the password from `tracking.uri=URI`. Raises RequestError.
    """
    trusted_modules()  # checks the environment and the user's file early
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
    import yaml  # slow, and help must be fast

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def environment() -> dict[str, str]:
    """Return the environment variables that pass the trust of this command to its children."""
    kept = {MODULES: ",".join(trusted_modules()), STORES: " ".join(trusted_stores())}
    if password := _password():
        kept[PASSWORD] = password
    return {name: value for name, value in kept.items() if value}


def user_file() -> Path:
    """Return the path of the user's trust file, `~/.config/dit-lab/trust.yaml`."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "dit-lab" / "trust.yaml"


def _from_user_file(key: str) -> list[str]:
    """Return a list of the user's trust file. Raises RequestError if the file has other content."""
    file = user_file()
    try:
        content = file.read_bytes()
    except OSError:  # usually the file does not exist
        return []
    import yaml

    try:
        said = yaml.safe_load(content)
    except yaml.YAMLError:  # also if it is not text
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
    """Trust user-defined packages. Raises RequestError unless `given` lists existing packages."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        shown = "null" if given is None else given
        name = given if isinstance(given, str) else "PACKAGE"
        raise RequestError(
            f"trusted_modules={shown}: expected a list; write trusted_modules=[{name}]"
        )
    _refuse_no_modules(given, "trusted_modules")
    if given:
        _add_current_folder()
    for module in given:
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            raise RequestError(
                f"trusted_modules={module}: no such package; type the command in the folder where "
                "it lies, or install it"
            )
    _granted.modules.extend(given)


def trusted_modules() -> tuple[str, ...]:
    """Return the user-defined packages and modules whose code may run."""
    from_environment = [name for name in os.environ.get(MODULES, "").split(",") if name]
    _refuse_no_modules(from_environment, MODULES)
    from_file = _from_user_file("trusted_modules")
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
    """Return whether a dotted name is in a trusted module."""
    return any(name.startswith(f"{module}.") for module in trusted_modules())


def load_own(target: str, *, key: str) -> Any:
    """Return the user-defined class or function that `target` names. Raises RequestError."""
    module_name, _, name = target.rpartition(".")
    _add_current_folder()
    try:
        component = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # whatever the user's module does when it is imported
        raise RequestError(f"{key}={target}: cannot be imported ({reason(error)})") from error
    if not callable(component):
        kind = type(component).__name__
        raise RequestError(f"{key}={target}: is of type {kind}; name a class or a function")
    own_name = getattr(component, "__qualname__", name)  # `name` may be an alias
    home = f"{getattr(component, '__module__', '')}.{own_name}"
    if not is_trusted(home):
        raise RequestError(
            f"{key}={target}: is {home}, which is not in a trusted module; name one of your own"
        )
    return component


def source_files(modules: Iterable[str]) -> dict[str, Path]:
    """Return the source files of user-defined modules, by their path within the package."""
    _add_current_folder()
    files: dict[str, Path] = {}
    for module in modules:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # a parent package is missing
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
    """Return one line with an error of the user's code and the line of code where it occurred."""
    text = " ".join(str(error).split())
    machinery = (str(PACKAGE), importlib.__file__, "<frozen")
    calls = traceback.extract_tb(error.__traceback__)
    lines = [call for call in calls if not call.filename.startswith(machinery)]
    at = f", {lines[-1].filename} line {lines[-1].lineno}" if lines else ""
    return f"{type(error).__name__}: {text}{at}"


def _add_current_folder() -> None:
    """Append the current folder to `sys.path`: last, so that its files replace no other module."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


# ---- stores -------------------------------------------------------------------------------------


def trust_store(uri: str) -> str:
    """Trust an MLflow store, and return its URI without the password, which is remembered."""
    _granted.stores.append(without_password(uri))
    return _granted.stores[-1]


def default_store(root: Path | str) -> str:
    """Return the URI of the default store of the runs below `paths.root`."""
    return store_uri(Path(root) / "mlflow.db")


def trust_own_store(root: Path | str) -> None:
    """Trust the default store of a root folder to which this command writes."""
    _granted.own_stores.append(default_store(root))


def trusted_stores() -> tuple[str, ...]:
    """Return the URIs that may be contacted, without passwords."""
    from_environment = os.environ.get(STORES, "").split()
    said = [*_granted.stores, *from_environment, *_from_user_file("tracking_uris")]
    return tuple(dict.fromkeys(_divided(uri)[0] for uri in said))


def is_named(uri: str) -> bool:
    """Return whether the command or the user names a store, so that its content is trusted."""
    return _same_place(uri) in map(_same_place, trusted_stores())


def may_contact(uri: str) -> bool:
    """Return whether this command may contact a store."""
    return is_named(uri) or _same_place(uri) in map(_same_place, _granted.own_stores)


def sqlite_path(uri: str) -> Path:
    """Return the file of a sqlite URI, after its third slash; an empty path if there is none."""
    found = re.match(r"[\w+]+:///([^?]*)", uri)
    return Path(found[1] if found else "")


def _same_place(uri: str) -> str:
    """Return a URI for comparison: of a file, with symbolic links resolved."""
    uri = _divided(uri)[0].rstrip("/")
    return f"sqlite:{sqlite_path(uri).resolve()}" if uri.startswith("sqlite:") else uri


def without_password(uri: str) -> str:
    """Return a URI to be stored and shown; its password is remembered for this command."""
    plain, password = _divided(uri)
    _granted.password = password or _granted.password
    return plain


def plain_address(uri: str) -> str:
    """Return a URI from a file without its password, which is not used."""
    return _divided(uri)[0]


def with_password(uri: str) -> str:
    """Return a URI for its store, with the password of the command line or the environment.

    The password is added if the URI names a user and no password.
    """
    plain, password = _divided(uri)
    password = password or _password()
    found = re.match(r"(\w[\w+.-]*://[^/@]*)@(.*)", plain, re.DOTALL)
    if not password or not found or plain.startswith("sqlite"):
        return uri
    return f"{found[1]}:{_quoted(password)}@{found[2]}"


def lacks_password(uri: str) -> str:
    """Return a hint to add to a refused login if the password variable is not set; else ""."""
    names_user = re.match(r"\w[\w+.-]*://[^/@]+@", uri) is not None
    return f"; {PASSWORD} is not set" if names_user and not _password() else ""


def _password() -> str | None:
    return _granted.password or os.environ.get(PASSWORD)


def _quoted(password: str) -> str:
    from urllib.parse import quote

    return quote(password, safe="")


AUTHORITY = re.compile(r"(\w[\w+.-]*://[^/@:]*):(?!\d*(?:/|$))(.*)@(.*)", re.DOTALL)
"""USER:PASSWORD@HOST in a URI; a number after a colon is a port."""


def _divided(uri: str) -> tuple[str, str | None]:
    """Split a URI into the URI without its password, and the password."""
    from urllib.parse import unquote

    password: str | None = None
    if found := AUTHORITY.fullmatch(uri):
        uri, password = f"{found[1]}@{found[3]}", unquote(found[2])
    if found := re.search(r"[?&]password=([^&\s]*)", uri):
        password = unquote(found[1])
        uri = (uri[: found.start()] + "&" + uri[found.end() :].lstrip("&")).rstrip("&")
        uri = uri.replace("&", "?", 1) if "?" not in uri else uri
    return uri, password
