"""The layout of the package: which room may import which, and what lies at its root."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import occvae

PACKAGE = Path(occvae.__file__).parent
# From the ground up. A module imports from its own package and from lower floors only.
FLOORS = (
    {"errors"},
    {"system"},
    {"ops", "images", "visualize"},
    {"geometry"},
    {"models", "data", "metrics"},
    {"train", "evaluation", "reconstruction", "convert"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name without `occvae`; packages by `__init__`."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in files}


def imports_of(file: Path) -> Iterator[str]:
    """The modules of occvae that a file imports anywhere, in functions and for types included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "occvae":
                yield resolve(rest)


def resolve(name: str) -> str:
    """The module that a dotted name, maybe of a function in it, is found in."""
    known = modules()
    while name and name not in known and f"{name}.__init__" not in known:
        name = name.rpartition(".")[0]
    return name if name in known else f"{name}.__init__".lstrip(".")


def room(module: str) -> str:
    return module.split(".")[0]


def test_only_three_modules_lie_at_the_root():
    files = {file.name for file in PACKAGE.glob("*.py")}
    assert files == {"__init__.py", "__main__.py", "errors.py"}


def test_every_room_has_its_floor():
    assert {room(module) for module in modules()} == set(FLOOR_OF)


@pytest.mark.parametrize("name", sorted(FLOOR_OF))
def test_imports_go_down(name):
    wrong = [
        f"{module} imports {imported}"
        for module, file in modules().items()
        if room(module) == name
        for imported in imports_of(file)
        if room(imported) != name and FLOOR_OF[room(imported)] >= FLOOR_OF[name]
    ]
    assert not wrong


def test_no_module_imports_itself_through_others():
    graph = {module: set(imports_of(file)) - {module} for module, file in modules().items()}
    remaining = dict(graph)
    while leaves := [module for module in remaining if not remaining[module] & remaining.keys()]:
        for module in leaves:
            del remaining[module]
    assert not remaining, f"in or behind a circle: {sorted(remaining)}"
