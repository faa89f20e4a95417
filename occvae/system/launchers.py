"""The launcher processes above this process: deepspeed and torchrun."""

import argparse
import os
from pathlib import Path

from occvae.errors import UserError

_LAUNCHERS = {
    "deepspeed",
    "ds",
    "deepspeed.launcher.runner",
    "deepspeed.launcher.launch",
    "torchrun",
    "torch.distributed.run",
}
_RUNNERS = {"deepspeed", "ds", "deepspeed.launcher.runner"}
# Fields of /proc/PID/stat after the name.
_PARENT, _START = 1, 19


def launchers_above() -> dict[int, str]:
    """Returns the start times of the launchers above this process by process number.

    The result is empty without a launcher, and on systems without /proc.
    """
    found: dict[int, str] = {}
    pid = os.getppid()
    while not _LAUNCHERS.isdisjoint(_names(_command_line(pid))) and (stat := _stat(pid)):
        found[pid] = stat[_START]
        pid = int(stat[_PARENT])
    return found


def start_time(pid: int) -> str | None:
    """Returns the start time of a process as the kernel writes it, or None if it has ended."""
    stat = _stat(pid)
    return None if not stat or stat[0] in "ZX" else stat[_START]


def check_hostfile() -> None:
    """Checks that the hostfile that was given to deepspeed exists.

    Without the file, deepspeed prints a warning and runs on this machine only.

    Raises:
        UserError: the file does not exist.
    """
    for pid in launchers_above():
        words = _command_line(pid)
        if _RUNNERS.isdisjoint(_names(words)):
            continue
        hostfile = _hostfile(words)
        if hostfile is not None and not _working_folder(pid).joinpath(hostfile).is_file():
            raise UserError(
                f"deepspeed --hostfile {hostfile}: no such file, so deepspeed started ranks on "
                "this machine only; correct the path, or leave out --hostfile"
            )


def _hostfile(words: list[str]) -> str | None:
    """Returns the hostfile in a command line of deepspeed, or None if none is given."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("-H", "--hostfile")
    try:
        return parser.parse_known_args(words)[0].hostfile
    except argparse.ArgumentError:
        return None


def _working_folder(pid: int) -> Path:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return Path()


def _names(words: list[str]) -> set[str]:
    return {Path(word).name for word in words}


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _stat(pid: int) -> list[str]:
    """Returns the fields of /proc/PID/stat after the name, which may contain spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
