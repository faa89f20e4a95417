"""What a dataset is built from: a list of shapes, and a sample of each."""

import errno
import os
from dataclasses import dataclass
from typing import Any, Protocol

from occvae.data.sample import Sample
from occvae.errors import UserError

CONTINUES = "run the same command again when that is mended: it continues where it stopped"

# Too many open files, no permission, a disk or network that fails: with these, a file may be good.
_MACHINE_ERRORS = frozenset(
    (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
    + (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN)
    + (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
)


class BuildError(UserError):
    """Ends a build, where a `UserError` of one shape only leaves that out."""


@dataclass(frozen=True)
class Item:
    """A shape that a source can load; its split is train, val or test."""

    id: str
    category: str
    split: str


class Source(Protocol):
    """A list of items and a way to load each; instances travel to worker processes.

    Attributes:
        name: of the format.
        splits: who divided the shapes, see `Manifest`.
        items: the shapes; ids differ.
        settings: JSON values: all that decides what the samples are.
        skipped: what could not become an item, and why.
    """

    name: str
    splits: str
    items: list[Item]
    settings: dict[str, Any]
    skipped: dict[str, str]

    def sample(self, index: int) -> Sample:
        """The shape of an item; raises `UserError` where it is unusable."""


def machine_failure(error: BaseException | None) -> str | None:
    """What failed of the machine, if that is what an error, or one behind it, comes from."""
    while error is not None:
        if isinstance(error, MemoryError):
            return "out of memory"
        if isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
            return os.strerror(error.errno)
        error = error.__cause__ or error.__context__
    return None


def skip_reason(what: str, error: Exception) -> str:
    """Why a shape or file is left out, in one line.

    Raises:
        BuildError: it may be good, the machine has failed.
    """
    if failure := machine_failure(error):
        raise BuildError(f"{what}: {failure}; {CONTINUES}") from None
    if isinstance(error, BuildError):
        raise error
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return " ".join(reason.split())


def own_split(index: int) -> str:
    """Every eighth shape is held out where nobody has said which."""
    return "val" if index % 8 == 7 else "train"
