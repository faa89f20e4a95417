"""How a run ends early: what is told, by which rank, and the exit status."""

import socket

import torch.distributed as dist

from occvae.errors import UserError


class MachineFailure(UserError):
    """No mistake of the user: the same command with --resume may well succeed."""


class ReportedByPeer(UserError):
    """What another rank names, with the exit status that it has."""

    def __init__(self, where: str, status: int = 2):
        super().__init__(where)
        self.status = status


def exit_status(error: Exception) -> int:
    """1: resume it as it is. 2: something must be corrected first."""
    if isinstance(error, ReportedByPeer):
        return error.status
    return 1 if isinstance(error, MachineFailure) else 2


def last_line(error: Exception) -> str:
    """A loader process wraps its traceback around the message; the last line is ours."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[-1].removeprefix("occvae.errors.UserError: ")


def place(rank: int | str) -> str:
    return f"rank {rank} on {socket.gethostname()}"


def lost_contact(error: RuntimeError) -> MachineFailure | None:
    """What a collective raises when other ranks died or do not answer; None of other errors."""
    message = str(error)
    if not isinstance(error, dist.DistError) and "/gloo/" not in message:
        return None
    # Gloo puts its source file before the reason, and guesses after it.
    reason = message.splitlines()[0].rpartition("/gloo/")[2].partition("] ")[2] or message
    return MachineFailure(
        f"lost contact with other ranks ({reason.partition('. ')[0][:200]}); "
        "continue from the last checkpoint with --resume"
    )


def lost_loader(error: RuntimeError) -> MachineFailure | None:
    """What a loader raises when one of its processes was killed; None of other errors."""
    if "DataLoader worker" not in str(error):
        return None
    return MachineFailure(
        "a data loader process was killed, as happens when memory runs out "
        f"({last_line(error)}); lower data.num_workers and continue with --resume"
    )
