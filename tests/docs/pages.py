"""Reads the code blocks of Markdown pages."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "launchers" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>.*)$")
_NOT_RUN = re.compile(r"^\s*(<!--|%) not run: \S")


@dataclass(frozen=True)
class Block:
    """A code block.

    Args:
        language: first word behind the fence; "" for an indented block.
        line: number of the first line of the code in its page, from 1.
        code: without the indentation of the fence.
        is_run: False below a comment `<!-- not run: reason -->`.
    """

    language: str
    line: int
    code: str
    is_run: bool = True


def read_blocks(page: Path) -> Iterator[Block]:
    """Yields the fenced and indented code blocks of a page in their order."""
    lines = page.read_text().splitlines()
    number, previous = 0, ""
    while number < len(lines):
        line = lines[number]
        number += 1
        if fence := _FENCE.match(line):
            first = number
            while not lines[number].strip().startswith(fence["ticks"]):
                number += 1
            yield _block(fence["info"], first + 1, lines[first:number], previous)
            number += 1
        elif line.startswith("    ") and not previous.strip():
            first = number - 1
            while number < len(lines) and lines[number].startswith("    "):
                number += 1
            yield _block("", first + 1, lines[first:number], _last_text(lines[:first]))
        previous = line if line.strip() or not _NOT_RUN.match(previous) else previous


def _block(info: str, line: int, lines: list[str], previous: str) -> Block:
    words = info.split()
    language = words[-1] if words and words[0] == "{code-block}" else "".join(words[:1])
    code = textwrap.dedent("\n".join(lines)) + "\n"
    return Block(language, line, code, not _NOT_RUN.match(previous))


def _last_text(lines: list[str]) -> str:
    return next((line for line in reversed(lines) if line.strip()), "")


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()
