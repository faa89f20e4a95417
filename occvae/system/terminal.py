"""Makes text safe to print. File names may be undecodable and contents may hold escape codes."""

import sys
import unicodedata

# Unicode categories to escape: control characters, format characters (zero width, text direction),
# lone surrogates (Python decodes undecodable bytes to them), line and paragraph separators.
_ESCAPED = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def escape_what_cannot_be_written() -> None:
    """Makes stdout and stderr escape characters that their encoding lacks, e.g. as \\xe4."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # streams of notebooks lack it and write everything
            stream.reconfigure(errors="backslashreplace")


def one_line(text: object) -> str:
    """Escapes characters that would end the line or control the terminal, e.g. as \\n."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _ESCAPED
        else character
        for character in str(text)
    )
