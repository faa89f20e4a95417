"""The exceptions for mistakes that a user can correct, and suggestions for unknown names."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can correct.

    The message is one line: what is wrong, where, and what to do next. Commands print it without a
    traceback.
    """


class MissingPackageError(UserError, ImportError):
    """A package that an operation needs is not installed. The message says how to get it."""


def suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns advice about an unknown name.

    The advice is "did you mean ...?" with up to three similar names. If no known name is similar,
    it lists all of them.

    Args:
        name: the name that the user typed.
        known: valid names, in the order in which to list them.
        prefix: text that a user types before each suggested name, e.g. "optim.".
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(prefix + match for match in near)}?"
    return f"choose from {', '.join(known)}"
