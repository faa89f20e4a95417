"""The documentation of all settings, read from the docstrings of the config classes."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

from occvae.train import config
from occvae.train.config import DataConfig, OptimConfig, TrainConfig

_SECTIONS = {TrainConfig: "", DataConfig: "data.", OptimConfig: "optim."}
_DOCUMENTATION = re.compile(
    r"(?P<meaning>.+) Type (?P<type>.+?), (?:no unit|unit (?P<unit>.+?)|a (?P<path>path)), "
    r"default (?P<default>.+)\."
)


@dataclass(frozen=True)
class Setting:
    """The documentation of a setting.

    Args:
        name: full name, as on the command line.
        type: type of its value.
        unit: unit of its value; "" without one.
        default: default value as JSON or text, with a remark in parentheses if needed.
        meaning: what it sets, in sentences.
    """

    name: str
    type: str
    unit: str
    default: str
    meaning: str


def list_settings() -> list[Setting]:
    """Returns the settings of `TrainConfig`, then those of its sections.

    Raises:
        OSError: the source of `occvae.train.config` is not installed.
    """
    tree = ast.parse(inspect.getsource(config))
    bodies = {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
    return [
        setting
        for section, prefix in _SECTIONS.items()
        for setting in _documented(bodies[section.__name__], prefix)
    ]


def _documented(body: list[ast.stmt], prefix: str) -> Iterator[Setting]:
    """Yields a setting for each field that has a docstring below it."""
    for statement, following in zip(body, body[1:], strict=False):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        text = ast.get_docstring(ast.Module([following], [])) or ""
        name = prefix + statement.target.id
        found = _DOCUMENTATION.fullmatch(" ".join(text.split()))
        assert found, f"{name} lacks meaning, type, unit or default"
        unit = found["unit"] or found["path"] or ""
        yield Setting(name, found["type"], unit, found["default"], found["meaning"])
