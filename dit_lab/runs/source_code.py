"""Which source code decides what a run becomes, and what that code means.

The meaning of a module is its syntax tree without docstrings: comments, layout and the place of the
file do not belong to it, a changed constant does.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dit_lab.runs.folder import digest

PACKAGE = Path(__file__).resolve().parent.parent

BUILDERS = (
    "build/parts.py", "build/optimizer.py", "build/training.py", "actions/train.py",
)  # fmt: skip
"""What makes and runs a training, whatever its components."""

DECIDING_CODE = (
    "models", "objectives", "data", "training", "codecs", "core/interpolants.py",
    "core/discrete_diffusion.py", "core/rng.py", *BUILDERS,
)  # fmt: skip
"""The parts of the package whose code decides the weights."""

OPTIONS = "options.py"
"""Files that declare options and decide nothing: their values are part of the configuration."""

EVALUATING_CODE = (
    *DECIDING_CODE, "samplers", "sampling", "evaluation", "actions/evaluate.py",
    "build/evaluation.py", "build/evaluation_card.py",
)  # fmt: skip
"""The parts whose code decides what is measured on the weights."""


def code_files(parts: Iterable[str], trusted: Mapping[str, Path]) -> dict[str, str]:
    """File -> its meaning, for whole parts of the package and the user's trusted files."""
    files = [
        file
        for part in parts
        for path in [PACKAGE / part]
        for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])
        if file.name != OPTIONS
    ]
    return _meanings({_name(file, PACKAGE): file for file in files} | dict(trusted))


def deciding_code(
    targets: Iterable[str], trusted: Mapping[str, Path], *, package: Path = PACKAGE
) -> dict[str, str]:
    """File -> its meaning, for what a training by these components loads.

    targets: dotted names of classes; those of other packages are left out. What is loaded is what
    is imported from there on within the deciding parts, also inside functions, and found without
    importing anything. The user's trusted files are taken all.
    """
    found: set[Path] = set()
    todo = [package / place for place in BUILDERS]
    todo += [file for target in targets for file in _imported(target, package)]
    while todo:
        file = todo.pop()
        if file not in found and _is_deciding(file, package):
            found.add(file)
            todo += [
                other
                for name in _parsed(file.read_bytes()).imports
                for other in _imported(name, package)
            ]
    return _meanings({_name(file, package): file for file in sorted(found)} | dict(trusted))


def code_hash(meanings: Mapping[str, str]) -> str:
    """12 hex digits of files with their meanings, wherever the files lie."""
    return digest(" ".join(sorted(meanings.values())).encode())


def _name(file: Path, package: Path) -> str:
    return f"dit_lab/{file.relative_to(package).as_posix()}"


def _meanings(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: meaning(file.read_bytes()) for name, file in files.items()}


@dataclass(frozen=True, slots=True)
class Module:
    """What a source file means, and the dotted names that it imports when it or one of its
    functions runs."""

    meaning: str
    imports: tuple[str, ...]


@cache
def _parsed(source: bytes) -> Module:
    """Of source that is no Python, its bytes are what it means."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return Module(digest(source), ())
    spelled: list[str] = []
    _spell(tree, spelled)
    said = "".join(spelled).encode("utf-8", "surrogatepass")
    return Module(digest(said), tuple(_imports(tree)))


def imports_of(source: bytes) -> tuple[str, ...]:
    """The dotted names that a module imports, also inside its functions."""
    return _parsed(source).imports


# ---- what is imported ----------------------------------------------------------------------------


def own_closure(targets: Iterable[str], files: Mapping[str, Path]) -> dict[str, Path]:
    """Those of the user's files that loading these targets runs, found without importing anything:
    their modules, the packages that these lie in, and all that they import from there on.

    files: by their path within the package, such as mylab/deep/objective.py.
    """
    modules = {_module(place): place for place in files}
    found: dict[str, Path] = {}
    todo = list(targets)
    while todo:
        parts = todo.pop().split(".")
        for length in range(1, len(parts) + 1):
            module = ".".join(parts[:length])
            place = modules.get(module)
            if place is not None and place not in found:
                found[place] = files[place]
                package = module if place.endswith("/__init__.py") else module.rpartition(".")[0]
                todo += [_absolute(name, package) for name in imports_of(files[place].read_bytes())]
    return dict(sorted(found.items()))


def _module(place: str) -> str:
    """The dotted name of a file's module."""
    return place.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _absolute(name: str, package: str) -> str:
    """The dotted name of what a module of the package imports: `..util.x` is two levels up."""
    level = len(name) - len(name.lstrip("."))
    above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
    return ".".join([*above, name.lstrip(".")])


def _is_deciding(file: Path, package: Path) -> bool:
    if file.name == OPTIONS:
        return False
    place = file.relative_to(package).as_posix()
    return any(place == part or place.startswith(f"{part}/") for part in DECIDING_CODE)


def _imports(tree: ast.Module) -> Iterator[str]:
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            of = "." * node.level + (f"{node.module}." if node.module else "")
            yield from (f"{of}{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            nodes.extend(node.orelse)
        elif isinstance(node, ast.stmt | ast.mod | ast.excepthandler | ast.match_case):
            nodes.extend(ast.iter_child_nodes(node))


@cache
def _imported(name: str, package: Path) -> tuple[Path, ...]:
    """The file of the module that a dotted name lies in; none for other packages. Modules do not
    move while a process runs."""
    first, *rest = name.split(".")
    while first == "dit_lab" and rest:
        path = package.joinpath(*rest)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.exists():
                return (file,)
        rest.pop()
    return ()


# ---- what it means -------------------------------------------------------------------------------


def meaning(source: bytes) -> str:
    """12 hex digits of what a module's source means, the same under every version of Python."""
    return _parsed(source).meaning


def _spell(value: Any, spelled: list[str]) -> None:
    """Add a syntax tree as text. Only fields that are set are written, since versions of Python add
    fields; of imports from this package only the names, sorted, since modules move."""
    if isinstance(value, ast.AST):
        spelled.append(f"({type(value).__name__}")
        for field in value._fields:
            part = getattr(value, field, None)
            if part is None or part == [] or field in ("ctx", "kind", "type_comment"):
                continue
            spelled.append(f" {field}=")
            _spell(part, spelled)
        spelled.append(")")
    elif isinstance(value, list):
        spelled.append(f"[{' '.join(sorted(name for part in value for name in _our_names(part)))}")
        for part in value:
            if not (_says_nothing(part) or _our_names(part)):
                _spell(part, spelled)
        spelled.append("]")
    else:
        spelled.append(f"<{type(value).__name__} {value!r}>")


def _our_names(node: Any) -> list[str]:
    """What a statement imports from this package."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "dit_lab":
        return [f"{alias.name} {alias.asname or alias.name}" for alias in node.names]
    return []


def _says_nothing(node: Any) -> bool:
    """Docstrings and other texts that stand alone, and `pass`."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.Pass)
