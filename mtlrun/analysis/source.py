"""Reading classes from their source files, without importing them."""

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mtlrun


def docstring(target: str) -> str:
    """The docstring of the class ``package.module.Class``; empty where it cannot be found."""
    found = _find(target)
    return (ast.get_docstring(found[1]) or "") if found else ""


def ancestors(target: str) -> Iterator[str]:
    """Names of the class ``package.module.Class`` and of those that it extends, nearest first.

    Classes are followed through imports; those that cannot be found end their line.
    """
    waiting, seen = [target], set[str]()
    while waiting:
        current = waiting.pop(0)
        if current in seen:
            continue
        seen.add(current)
        yield current.rpartition(".")[2]
        if found := _find(current):
            module, definition = found
            waiting += [_qualified(base, module) for base in definition.bases]


def _find(target: str) -> tuple[str, ast.ClassDef] | None:
    """The module and the definition of a class, followed through re-exports."""
    for _ in range(8):  # a re-export may go round in a circle
        module, _, name = target.rpartition(".")
        for node in _parse(module).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return module, node
        target = _imports(module).get(name, "")
    return None


@dataclass(frozen=True)
class _Source:
    """A module's statements; none where it cannot be found or read."""

    body: Sequence[ast.stmt] = ()
    is_package: bool = False


@cache
def _parse(module: str) -> _Source:
    for path in _places(module):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError):
            continue
        return _Source(tree.body, path.name == "__init__.py")
    return _Source()


def _places(module: str) -> Iterator[Path]:
    """Where the source of a module may lie: the working directory, the search path, our own."""
    parts = module.split(".")
    if not all(parts):
        return
    for root in ("", *sys.path, str(Path(mtlrun.__file__).parent.parent)):
        folder = Path(root, *parts)
        yield folder.with_name(f"{folder.name}.py")
        yield folder / "__init__.py"


@cache
def _imports(module: str) -> dict[str, str]:
    """What the names that a module imports stand for."""
    names: dict[str, str] = {}
    for node in _parse(module).body:
        if isinstance(node, ast.ImportFrom):
            source = _absolute(node, module)
            names |= {alias.asname or alias.name: f"{source}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
    return names


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if node.level == 0:
        return node.module or ""
    parts = module.split(".")
    up = node.level - _parse(module).is_package
    package = parts[: len(parts) - up]
    return ".".join([*package, *([node.module] if node.module else [])])


def _qualified(base: ast.expr, module: str) -> str:
    """The full name of a base class as ``module`` writes it."""
    if isinstance(base, ast.Subscript):  # Generic[T]
        return _qualified(base.value, module)
    first, _, rest = ast.unparse(base).partition(".")
    known = _imports(module).get(first)
    if known is None:
        return f"{first}.{rest}" if rest else f"{module}.{first}"
    return f"{known}.{rest}" if rest else known
