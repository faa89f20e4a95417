"""The API reference documents each public name once."""

import importlib
import re

import pytest

import occvae
from tests.docs.pages import ROOT

DIRECTIVE = re.compile(r"^\.\. auto(?:function|class|data|exception):: ([\w.]+)", re.MULTILINE)
DOCUMENTED = [
    name
    for page in sorted((ROOT / "docs/api").glob("*.md"))
    for name in DIRECTIVE.findall(page.read_text())
]


def find(name: str) -> object:
    module, _, leaf = name.rpartition(".")
    return getattr(importlib.import_module(module), leaf)


def test_each_object_is_documented_once():
    objects = [id(find(name)) for name in DOCUMENTED]
    assert len(set(objects)) == len(objects)


@pytest.mark.parametrize(
    "package", ["occvae", *(f"occvae.{name}" for name in ("metrics", "models", "reconstruction"))]
)
def test_public_names_are_documented(package):
    documented = {id(find(name)) for name in DOCUMENTED}
    public = importlib.import_module(package).__all__
    missing = [
        name
        for name in public
        if name not in occvae._PACKAGES and id(find(f"{package}.{name}")) not in documented
    ]
    assert not missing
