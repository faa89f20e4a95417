"""Sources: what a dataset is built from, and the errors of a build."""

import errno
import os
from dataclasses import dataclass
from typing import Any, Protocol

from occvae.data.sample import Sample
from occvae.errors import UserError

CONTINUES = "fix that and run the same command again; it continues where it stopped"

# Too many open files, no permission, a failing disk or network: the file itself may be good.
_MACHINE_ERRORS = frozenset(
    (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
    + (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN)
    + (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
)


class BuildError(UserError):
    """Ends a build. A `UserError` of one shape, in contrast, only skips that shape."""


@dataclass(frozen=True)
class Item:
    """A shape that a source can load.

    Attributes:
        id: unique name of the shape.
        category: name of its category.
        split: "train", "val" or "test".
    """

    id: str
    category: str
    split: str


class Source(Protocol):
    """A list of shapes and a way to load each of them. Instances are sent to worker processes.

    Attributes:
        name: name of the format.
        splits: where the division into splits comes from, see `Manifest`.
        items: the shapes, each with its own id.
        settings: everything that determines the samples, as JSON values.
        skipped: why shapes or files are not among the items, by id or file.
    """

    name: str
    splits: str
    items: list[Item]
    settings: dict[str, Any]
    skipped: dict[str, str]

    def sample(self, index: int) -> Sample:
        """Loads the shape of an item.

        Raises:
            UserError: the shape cannot be used. The build skips it.
        """


def machine_failure(error: BaseException | None) -> str | None:
    """What failed, if the machine caused an error or one of its causes. Otherwise None."""
    while error is not None:
        if isinstance(error, MemoryError):
            return "out of memory"
        if isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
            return os.strerror(error.errno)
        error = error.__cause__ or error.__context__
    return None


def skip_reason(what: str, error: Exception) -> str:
    """The reason to skip a shape or file, in one line.

    Args:
        what: name of the shape or file, for the message of a `BuildError`.
        error: what was raised when the shape or file was read.

    Raises:
        BuildError: the machine failed, so the shape or file may be good.
    """
    if failure := machine_failure(error):
        raise BuildError(f"{what}: {failure}; {CONTINUES}") from None
    if isinstance(error, BuildError):
        raise error
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return " ".join(reason.split())


def own_split(index: int) -> str:
    """The split of a shape whose source names none: every eighth one is for validation."""
    return "val" if index % 8 == 7 else "train"
