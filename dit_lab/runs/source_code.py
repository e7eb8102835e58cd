"""Code hashes: which source files affect the weights of a run, and a hash of each.

The hash of a module is that of its syntax tree without docstrings. Comments, layout and the path of
the file do not change it; a changed constant does.
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
"""Modules that build and run every training."""

DECIDING_CODE = (
    "models", "objectives", "data", "training", "codecs", "core/interpolants.py",
    "core/discrete_diffusion.py", "core/rng.py", *BUILDERS,
)  # fmt: skip
"""The parts of the package whose code affects the trained weights."""

OPTIONS = "options.py"
"""Files that only declare options; they are not hashed, since option values are in the config."""

EVALUATING_CODE = (
    *DECIDING_CODE, "samplers", "sampling", "evaluation", "actions/evaluate.py",
    "build/evaluation.py", "build/evaluation_card.py",
)  # fmt: skip
"""The parts of the package whose code affects evaluation results."""


def code_files(parts: Iterable[str], trusted: Mapping[str, Path]) -> dict[str, str]:
    """Return the hash of each file in parts of the package, and of the user's trusted files."""
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
    """Return the hash of each file that affects a training with these components.

    These are the builders, the components' modules, everything that they import within
    DECIDING_CODE (also inside functions), and all trusted files. Nothing is imported to find them.

    Args:
        targets: dotted names of classes; those of other packages are ignored.
        trusted: the user's trusted files by name.
        package: the root of the package.
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
    """Return one hash (12 hex digits) of the hashes of files; their paths do not matter."""
    return digest(" ".join(sorted(meanings.values())).encode())


def _name(file: Path, package: Path) -> str:
    return f"dit_lab/{file.relative_to(package).as_posix()}"


def _meanings(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: meaning(file.read_bytes()) for name, file in files.items()}


@dataclass(frozen=True, slots=True)
class Module:
    """The hash of a source file, and the dotted names that it or its functions import."""

    meaning: str
    imports: tuple[str, ...]


@cache
def _parsed(source: bytes) -> Module:
    """Parse a source file; one with syntax errors is hashed by its bytes."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return Module(digest(source), ())
    spelled: list[str] = []
    _spell(tree, spelled)
    said = "".join(spelled).encode("utf-8", "surrogatepass")
    return Module(digest(said), tuple(_imports(tree)))


def imports_of(source: bytes) -> tuple[str, ...]:
    """Return the dotted names that a module imports, also inside its functions."""
    return _parsed(source).imports


# ---- imports -------------------------------------------------------------------------------------


def own_closure(targets: Iterable[str], files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the user's files that are executed when these components are loaded.

    These are the modules of the components, the packages that contain them, and everything that
    they import. Nothing is imported to find them.

    Args:
        targets: dotted names of classes.
        files: the user's files by their path with the package, such as mylab/deep/objective.py.
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
    """Return the dotted module name of a file."""
    return place.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _absolute(name: str, package: str) -> str:
    """Resolve the name of a relative import in a module of `package`, such as `..util.x`."""
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
    """Return the file of the module that defines a dotted name; () for other packages.

    Cached, since files do not move while a process runs.
    """
    first, *rest = name.split(".")
    while first == "dit_lab" and rest:
        path = package.joinpath(*rest)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.exists():
                return (file,)
        rest.pop()
    return ()


# ---- hashes of syntax trees ----------------------------------------------------------------------


def meaning(source: bytes) -> str:
    """Return the hash (12 hex digits) of a source file, the same in all versions of Python."""
    return _parsed(source).meaning


def _spell(value: Any, spelled: list[str]) -> None:
    """Append a syntax tree as text.

    Empty fields are skipped, since versions of Python add fields. Of imports from this package only
    the sorted names are written, so that moving a module does not change the hash.
    """
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
    """Return the names that a statement imports from this package."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "dit_lab":
        return [f"{alias.name} {alias.asname or alias.name}" for alias in node.names]
    return []


def _says_nothing(node: Any) -> bool:
    """Return whether a statement is a docstring, another bare string, or `pass`."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.Pass)
