"""Reads the product's modules once, as text and as syntax trees, for the rules to judge."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"


@dataclass(frozen=True)
class Module:
    """One module: its path below `src/`, and what stands in it."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def room(self) -> str:
        """The package below `qimem`, or the module itself where it stands alone: `kms`, `errors`."""
        parts = Path(self.path).with_suffix("").parts
        return parts[1] if len(parts) > 1 else parts[0]

    def inside(self, *places: str) -> bool:
        """Whether it is one of the named modules, or below one of the named directories."""
        return any(self.path == place or self.path.startswith(f"{place}/") for place in places)


@cache
def modules() -> tuple[Module, ...]:
    """Every module of the product."""
    return tuple(
        Module(str(path.relative_to(SOURCE)), path.read_text())
        for path in sorted(SOURCE.glob("qimem/**/*.py"))
    )


def functions(module: Module) -> list[tuple[ast.FunctionDef | ast.AsyncFunctionDef, tuple[ast.AST, ...]]]:
    """Every function with the nodes that enclose it, outermost first."""
    found = []

    def walk(node: ast.AST, around: tuple[ast.AST, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                found.append((child, around))
            scope = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            walk(child, (*around, child) if scope else around)

    walk(module.tree, ())
    return found


def imported(module: Module) -> list[tuple[int, str]]:
    """(line, dotted name) of every import wherever it stands; `from a import b` counts as `a.b`."""
    names = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return names
