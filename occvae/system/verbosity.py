"""What a command prints besides its results, warnings and errors."""

from enum import IntEnum

from occvae.system.terminal import one_line


class Verbosity(IntEnum):
    """How much a command prints.

    QUIET: results, warnings and errors. NORMAL: also notes and progress bars. VERBOSE: also details
    for the search of a fault, such as the traceback of an error.
    """

    QUIET = -1
    NORMAL = 0
    VERBOSE = 1


_chosen = Verbosity.NORMAL


def set_verbosity(verbosity: Verbosity) -> None:
    """Sets the verbosity of this process."""
    global _chosen
    _chosen = verbosity


def is_quiet() -> bool:
    """Returns whether notes and progress bars are left out."""
    return _chosen is Verbosity.QUIET


def is_verbose() -> bool:
    """Returns whether details are printed."""
    return _chosen is Verbosity.VERBOSE


def note(text: object) -> None:
    """Prints a note in one line on stdout, unless this process is quiet."""
    if not is_quiet():
        print(one_line(text), flush=True)
