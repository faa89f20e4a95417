"""Texts of the repository stay free of turns of phrase that readers had to read twice."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("occvae", "csrc", "tests", "docs", "benchmarks", "launchers")
ENDINGS = {".py", ".h", ".cpp", ".cu", ".cuh", ".md", ".toml", ".sbatch"}
PHRASES = (
    "so manieth",
    "keep the books",
    "keeps the books",
    "is deaf to",
    "sign of life",
    "of account",
    "need be no",
    "gravest wins",
    "that are their files' content",
    "is said and left out",
    "of one seed would",
    "of a rank, whose",
    "is a page; end in",
)


def test_no_text_has_a_phrase_that_had_to_be_rewritten():
    files = [*ROOT.glob("*.md"), *ROOT.glob("*.py"), *ROOT.glob("*.toml")]
    for folder in FOLDERS:
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in ENDINGS]
    assert len(files) > 400
    found = [
        f"{path.relative_to(ROOT)}: {phrase}"
        for path in files
        if path != Path(__file__)
        for text in [" ".join(path.read_text(encoding="utf-8").lower().split())]
        for phrase in PHRASES
        if phrase in text
    ]
    assert not found
