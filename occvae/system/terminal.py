"""Makes text safe to print. File names may be undecodable and contents may hold escape codes."""

import sys
import unicodedata

# Controls, marks without width or for the direction of writing, halves of pairs (as Python decodes
# bytes that are no text), separators of lines and of paragraphs.
_ESCAPED = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def escape_what_cannot_be_written() -> None:
    """Characters that the encoding of stdout or stderr lacks are \\x.. there from now on."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # those of notebooks write everything
            stream.reconfigure(errors="backslashreplace")


def one_line(text: object) -> str:
    """The text with \\n and the like for what would end the line or command the terminal."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _ESCAPED
        else character
        for character in str(text)
    )
