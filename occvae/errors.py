"""The one exception for mistakes a user can correct, and what it suggests."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """One line: what is wrong, where, and what to do. Commands print it without a traceback."""


def suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """What to do about an unknown name: "did you mean ...?", or the known ones if none is near.

    Args:
        name: what the user typed.
        known: valid names, in the order to list them.
        prefix: what a user types before each near name, e.g. "optim.".
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(prefix + match for match in near)}?"
    return f"choose from {', '.join(known)}"
