"""Settings in files: a YAML or JSON file replaces settings, and a configuration is written as YAML.

A file holds settings as sections, like the output of `format_config`, or by full names::

    optim:
      lr: 3e-4
    data.root: data/mine
"""

import re
from pathlib import Path
from typing import Any

import yaml

from occvae.errors import UserError
from occvae.models.registry import model_options
from occvae.train.config import TrainConfig, from_dict


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Reads 3e-4 as a number, and refuses a name that occurs twice in a section."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: list[Any] = []
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in names:
                raise yaml.MarkedYAMLError(
                    problem=f"{name} occurs twice", problem_mark=key.start_mark
                )
            names.append(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Reads the settings in a YAML or JSON file as nested values.

    Raises:
        UserError: the file cannot be read, or does not hold settings.
    """
    try:
        content = yaml.load(Path(path).read_text(), _Loader)
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"--config {path}: {place}{error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--config {path}: is not a YAML file ({reason})") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"--config {path}: expected settings such as `optim: {{lr: 3e-4}}`")
    return _nested(content, path)


def apply_config_file(
    config: TrainConfig, path: str | Path, content: dict[str, Any]
) -> TrainConfig:
    """Returns a config with the settings of a file replaced. Sections are merged.

    Args:
        config: config to start from.
        path: the file, for messages.
        content: what `read_config_file` returned.

    Raises:
        UserError: a name is unknown, or a value has the wrong type.
    """
    merged = config.to_dict()
    for name, value in content.items():
        if name in ("data", "optim", "model") and isinstance(value, dict):
            value = {**merged[name], **value}
        merged[name] = value
    try:
        return from_dict(merged)
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from None


def format_config(config: TrainConfig) -> str:
    """Returns all settings as YAML, with all options of the architecture."""
    content = config.to_dict()
    defaults = {name: option.default for name, option in model_options(config.arch).items()}
    content["model"] = defaults | content["model"]
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _nested(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Moves settings with full names, such as optim.lr, into their sections."""
    nested: dict[str, Any] = {}
    for name, value in content.items():
        section, separator, leaf = name.partition(".")
        values = {leaf: value} if separator else value
        if isinstance(values, dict) and isinstance(nested.get(section), dict):
            if twice := values.keys() & nested[section].keys():
                raise UserError(f"--config {path}: {section}.{min(twice)} occurs twice")
            values = {**nested[section], **values}
        nested[section] = values
    return nested
