"""Failures of a run: which rank reports what, and the exit status."""

import socket

import torch.distributed as dist

from occvae.errors import UserError


class MachineFailure(UserError):
    """A failure that is not the user's mistake. The same command with --resume may succeed."""


class ReportedByPeer(UserError):
    """A failure that another rank reports. This rank exits silently with the same status."""

    def __init__(self, where: str, status: int = 2):
        super().__init__(where)
        self.status = status


def exit_status(error: Exception) -> int:
    """Returns 1 if the run can be resumed as it is, and 2 if something must be corrected first."""
    if isinstance(error, ReportedByPeer):
        return error.status
    return 1 if isinstance(error, MachineFailure) else 2


def last_line(error: Exception) -> str:
    """Returns the message of an error without the traceback that a loader process prepends."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[-1].removeprefix("occvae.errors.UserError: ")


def place(rank: int | str) -> str:
    return f"rank {rank} on {socket.gethostname()}"


def lost_contact(error: RuntimeError) -> MachineFailure | None:
    """Returns the failure if a collective raised `error` because ranks died or hang, else None."""
    message = str(error)
    if not isinstance(error, dist.DistError) and "/gloo/" not in message:
        return None
    # Gloo puts its source file before the reason, and guesses at causes after it.
    reason = message.splitlines()[0].rpartition("/gloo/")[2].partition("] ")[2] or message
    return MachineFailure(
        f"lost contact with other ranks ({reason.partition('. ')[0][:200]}); "
        "continue from the last checkpoint with --resume"
    )


def lost_loader(error: RuntimeError) -> MachineFailure | None:
    """Returns the failure if a loader raised `error` because its process was killed, else None."""
    if "DataLoader worker" not in str(error):
        return None
    return MachineFailure(
        "a data loader process was killed, as happens when memory runs out "
        f"({last_line(error)}); lower data.num_workers and continue with --resume"
    )
