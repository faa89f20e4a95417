"""The pre-commit hooks use the same versions as `make lint`."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_hooks_use_the_versions_of_make_lint():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"[\w-]+==[\d.]+", hooks)) == set(project["dependency-groups"]["lint"])
