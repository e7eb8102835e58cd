"""Where the package refuses, read from its source, and the refusals that no command can reach."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dit_lab"

LIBRARY_ONLY: dict[str, str] = {}
"""Function -> why only those who use the lab as a library hear from it."""


@dataclass(frozen=True, slots=True)
class Site:
    """One place that makes a RequestError."""

    function: str  # "lab/checks.py: check_root"
    file: str
    first_line: int
    last_line: int
    source: str

    def __str__(self) -> str:
        return f"{self.function} line {self.first_line}: {self.source[:100]}"

    def made(self, file: str, line: int) -> bool:
        """Whether a refusal that was made there was made here."""
        return file == self.file and self.first_line <= line <= self.last_line


def sites() -> list[Site]:
    """Every place in the package that makes a RequestError."""
    return [
        site
        for file in sorted(PACKAGE.rglob("*.py"))
        for site in _sites_below(ast.parse(file.read_text(encoding="utf-8")), file, [])
    ]


def _sites_below(node: ast.AST, file: Path, names: list[str]) -> Iterator[Site]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and ast.unparse(child.func) == "RequestError":
            function = f"{file.relative_to(PACKAGE).as_posix()}: {'.'.join(names)}"
            last = child.end_lineno or child.lineno
            yield Site(function, str(file), child.lineno, last, ast.unparse(child))
        named = isinstance(child, ast.FunctionDef | ast.ClassDef)
        yield from _sites_below(child, file, [*names, child.name] if named else names)
