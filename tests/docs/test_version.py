"""Every file that names the version names the same one."""

import re

import occvae
from tests.docs.pages import ROOT


def test_changelog_describes_the_version():
    versions = re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == occvae.__version__


def test_citations_name_the_version():
    citation = (ROOT / "CITATION.cff").read_text()
    references = (ROOT / "docs" / "references.md").read_text()
    assert f"\nversion: {occvae.__version__}\n" in citation
    assert f"version = {{{occvae.__version__}}}" in references
