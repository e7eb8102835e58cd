"""The architecture's layer rules, checked on imports and on module names in strings."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dit_lab"

GROUND = {"core", "runs", "statistics"}
SIDE_BY_SIDE = {
    "models", "objectives", "methods", "samplers", "codecs", "data", "training", "tracking",
    "sampling", "evaluation", "interop",
}  # fmt: skip
ALSO = {  # of the parts that stand side by side
    "sampling": {"samplers"},
    "evaluation": {"sampling", "samplers"},
    "interop": {"models", "objectives"},
}
ABOVE = ("config", "build", "report", "actions", "sweeps", "reproduce", "bench", "cli")
MAY_IMPORT = {
    "core": set(),
    "statistics": set(),
    "runs": {"core"},
    **{part: GROUND | ALSO.get(part, set()) for part in SIDE_BY_SIDE},
    "methods": {"core"},
    **{part: GROUND | SIDE_BY_SIDE | set(ABOVE[:place]) for place, part in enumerate(ABOVE)},
}

FENCES = {
    "hydra": ("config/", "cli/", "sweeps/"),
    "omegaconf": ("core/options.py", "config/", "cli/", "sweeps/"),
    "mlflow": ("tracking/", "sweeps/"),
    "rich": ("tracking/console.py", "tracking/screen.py", "cli/"),
    "accelerate": ("training/", "actions/", "build/"),
    "diffusers": ("codecs/", "interop/", "samplers/multistep.py"),
    "torchdiffeq": ("samplers/adaptive.py", "evaluation/metrics/likelihood.py"),
    "optuna": ("sweeps/proposals.py",),
    "torchvision": ("data/", "evaluation/", "sampling/"),
    "torch_fidelity": ("evaluation/features/fidelity.py",),
}

SLOW = ("torch", "torchvision", "diffusers", "mlflow", "accelerate", "sklearn", "safetensors")
TORCH_FREE = (
    "cli/",
    "config/",
    "runs/",
    "report/",
    "statistics/",
    "core/types.py",
    "sweeps/plan.py",
)
"""What is imported while a command is still being read."""

MOST_LINES = 350
LARGEST_SHARE = 0.15  # of all lines, in one package
MOST_LATE_IMPORTS = 40  # of the package's own modules, inside functions

MODULES = sorted(PACKAGE.rglob("*.py"))


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imports(file: Path, *, at: str = "any time") -> Iterator[str]:
    """Return the dotted names that a module imports.

    They are those when it runs ("any time"), when it is imported ("import"), or when one of its
    functions is called ("call"), without imports for type checkers.
    """
    nodes: list[tuple[ast.AST, bool]] = [(tree_of(file), False)]
    while nodes:
        node, called = nodes.pop()
        if at == "any time" or called == (at == "call"):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        called |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        nodes.extend((child, called) for child in ast.iter_child_nodes(node))


def file_of(name: str) -> Path | None:
    """Return the file of the package's module that a dotted name is, or is in."""
    first, *rest = name.split(".")
    while first == PACKAGE.name and rest:
        path = PACKAGE.joinpath(*rest)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.exists():
                return file
        rest.pop()
    return None


def named_in_strings(file: Path) -> Iterator[str]:
    """Return modules of this package that a module names in strings.

    They are imported, run in a process, or used as components.
    """
    if place_of(file) == "runs/former_names.py":
        return  # names that are read in records, and nothing is done with
    for node in ast.walk(tree_of(file)):
        text = node.value if isinstance(node, ast.Constant) else None
        if not isinstance(text, str) or not re.fullmatch(r"dit_lab(\.\w+)+\.?", text):
            continue
        if (PACKAGE / text.split(".")[1]).is_dir():  # else a tag of the tracker's
            yield text


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def place_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def test_every_package_has_its_place() -> None:
    assert {part_of(file) for file in MODULES} - {"__init__", "__main__"} == set(MAY_IMPORT)


@pytest.mark.parametrize("file", MODULES, ids=place_of)
def test_imports_point_down(file: Path) -> None:
    part = part_of(file)
    if part in ("__init__", "__main__"):
        return  # the doors: dit_lab.load and python -m dit_lab
    for name in [*imports(file), *named_in_strings(file)]:
        if name.startswith("dit_lab."):
            other = name.split(".")[1]
            assert other == part or other in MAY_IMPORT[part], f"{part} names {name}"


def test_entry_points_are_commands() -> None:
    """What is installed as a command, or run by `python -m` in a script or a document."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert list(project["scripts"].values()) == ["dit_lab.cli.main:command"]
    documents = [ROOT / "README.md", ROOT / ".ci/run", *(ROOT / "docs").glob("*.md")]
    texts = "".join(file.read_text() for file in [*documents, *MODULES])
    run = set(re.findall(r"-m (dit_lab[.\w]*)", texts))
    assert run == {"dit_lab", "dit_lab.sweeps.hydra_host"}
    assert set(re.findall(r"ChildProcess\(\s*\"([.\w]+)", texts)) == {
        "dit_lab", "dit_lab.sweeps.hydra_host", "dit_lab.sweeps.hydra_worker",
    }  # fmt: skip


def test_there_are_no_cycles() -> None:
    """Also none by way of imports inside functions."""
    open_, done = [], set[Path]()

    def visit(file: Path) -> None:
        if file in open_:
            cycle = [place_of(one) for one in open_[open_.index(file) :]]
            raise AssertionError(f"a cycle: {' -> '.join(cycle)}")
        if file in done:
            return
        open_.append(file)
        for name in imports(file):
            if (other := file_of(name)) is not None and other != file:
                visit(other)
        done.add(open_.pop())

    for file in MODULES:
        visit(file)


@pytest.mark.parametrize("library", FENCES)
def test_fences(library: str) -> None:
    for file in MODULES:
        if any(name.split(".")[0] == library for name in imports(file)):
            place = place_of(file)
            assert place.startswith(FENCES[library]), f"{place} imports {library}"


def test_torch_free_modules_import_nothing_slow() -> None:
    """Neither themselves nor by way of what they import."""

    def check(file: Path, way: tuple[str, ...]) -> None:
        for name in imports(file, at="import"):
            assert name.split(".")[0] not in SLOW, f"{' -> '.join(way)} imports {name}"
            other = file_of(name)
            if other is not None and other not in seen:
                seen.add(other)
                check(other, (*way, place_of(other)))

    seen: set[Path] = set()
    for file in MODULES:
        if place_of(file).startswith(TORCH_FREE):
            check(file, (place_of(file),))


def test_sizes() -> None:
    lines = {file: len(file.read_text().splitlines()) for file in MODULES}
    assert max(lines.values()) <= MOST_LINES
    packages: Counter[str] = Counter()
    for file, count in lines.items():
        packages[part_of(file)] += count
    (largest, most), *_ = packages.most_common(1)
    assert most <= LARGEST_SHARE * packages.total(), largest


def test_few_modules_are_imported_late() -> None:
    """Inside a function stands what would be slow to import before it is needed."""
    late = {
        f"{place_of(file)}: {file_of(name)}"
        for file in MODULES
        for name in imports(file, at="call")
        if name.startswith("dit_lab.")
    }
    assert len(late) <= MOST_LATE_IMPORTS, late


def test_top_level_is_as_planned() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout")
    top = {name.split("/")[0] for name in listed.stdout.split()}
    allowed = {"dit_lab", "conf", "experiments", "tests", "docs", "hydra_plugins", ".ci"}
    allowed |= {"pyproject.toml", "README.md", "LICENSE", "train.py", ".gitignore"}
    allowed |= {"CITATION.cff", ".pre-commit-config.yaml", "mkdocs.yml"}
    assert top <= allowed


def test_the_loop_is_one_function_under_200_lines() -> None:
    tree = tree_of(PACKAGE / "training/loop.py")
    (loop,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "train"]
    assert loop.end_lineno - loop.lineno < 200


def test_foreign_text_is_printed_in_one_place() -> None:
    """Nothing else prints or makes a console, a text, a table, an address of a store or JSON."""
    homes = {
        "print": (),
        "Console": (),
        "Table": (
            "tracking/screen.py", "report/arm_sentences.py", "report/sentences.py",
            "report/wording.py",
        ),
        "Text": ("tracking/screen.py",),
        "escape": (),
        "shlex.join": ("core/text.py",),
        "shlex.quote": (),
        "json.dump": (),
        "json.dumps": (
            "core/files.py",  # what files hold; the others make hashes, and texts for MLflow
            "codecs/loading.py", "config/checks/own.py", "data/fingerprint.py", "runs/folder.py",
            "tracking/inputs.py", "tracking/mlflow_store.py",
        ),
    }  # fmt: skip
    for file in MODULES:
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Call) and (call := ast.unparse(node.func)) in homes:
                assert place_of(file) in homes[call], f"{place_of(file)} calls {call}"
            if isinstance(node, ast.Attribute) and node.attr == "expanduser":
                assert place_of(file) == "core/text.py", f"{place_of(file)} expands a path"
            if isinstance(node, ast.Constant) and str(node.value).startswith("sqlite:///"):
                assert place_of(file) == "core/text.py", f"{place_of(file)} makes an address"


def test_every_verb_says_which_groups_it_reads() -> None:
    """Each that takes --config-dir, and so the groups of the current folder."""
    for file in MODULES:
        calls = {ast.unparse(n.func) for n in ast.walk(tree_of(file)) if isinstance(n, ast.Call)}
        if place_of(file).startswith("cli/") and calls & {"add_overrides", "add_config_dir"}:
            names = {n.id for n in ast.walk(tree_of(file)) if isinstance(n, ast.Name)}
            if place_of(file) != "cli/arguments.py":
                assert "say_own_choices" in names, place_of(file)


def test_no_eval_pickle_or_unsafe_load() -> None:
    for file in MODULES:
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                assert call not in ("eval", "exec"), f"{file} calls {call}"
                assert "pickle" not in call, f"{file} calls {call}"
        assert "weights_only=False" not in file.read_text()
