"""Relative links of Markdown files point to files and headings that exist.

`make docs` checks the links among the pages of docs/. Those of other files it does not see.
"""

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, page_name

FILES = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "RESULTS.md"]
LINK = re.compile(r"\]\(([^()\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def links(text: str) -> list[str]:
    """The targets of links and images, without addresses on the web."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    found = ["".join(groups) for groups in LINK.findall(re.sub(r"`[^`\n]*`", "", text))]
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("file", FILES, ids=page_name)
def test_relative_links_exist(file):
    broken = []
    for link in links(file.read_text()):
        path, _, anchor = link.partition("#")
        target = file.parent / path if path else file
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_broken_links_are_found():
    text = "[a](there.md) `[b](code.md)` [c](https://example.org) ![d](image.png)"
    assert links(text) == ["there.md", "image.png"]
