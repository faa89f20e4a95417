"""Ranks without the start-up time of launchers: forked from a server that has imported all."""

import ctypes
import functools
import multiprocessing
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from occvae.cli.main import main

_PRELOADED = ["tests.train.warm"]
_LAUNCHED = re.compile(r"(RANK|WORLD_SIZE|LOCAL_.*|MASTER_.*|OMPI_.*|SLURM_.*)")
_CLONE_NEWNET = 0x40000000
_started: list["Rank"] = []


@dataclass
class Rank:
    """One process of a training, and the log file of its output."""

    process: multiprocessing.Process
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def status(self, timeout: float = 240) -> int:
        """Returns the exit status as a shell reports it."""
        self.process.join(timeout)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise TimeoutError(self.text())
        return 128 - code if code < 0 else code

    def text(self) -> str:
        return self.log.read_text()

    def errors(self) -> list[str]:
        assert "Traceback" not in self.text(), self.text()
        return [line for line in self.text().splitlines() if line.startswith("error: ")]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition: Callable[[], object], rank: Rank | None = None, timeout=240.0) -> None:
    """Waits until a condition holds. Fails if the rank ends before."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert rank is None or rank.process.is_alive(), rank.text()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def start(
    folder: Path,
    arguments: list[str],
    ranks: int = 1,
    namespace: str | None = None,
    prepare: Callable[[], None] | None = None,
    sheets: bool = False,
    entry: Callable[[list[str]], int] | None = None,
    **environment: str,
) -> list[Rank]:
    """Starts the ranks of one training on this host.

    Args:
        folder: folder of the logs.
        arguments: arguments of `occvae train`, or of `entry`.
        ranks: number of ranks.
        namespace: network namespace, by its name in `ip netns`.
        prepare: function that each rank calls before it trains.
        sheets: whether contact sheets are drawn, which takes a second each.
        entry: function that each rank calls with the arguments instead of `occvae train`.
        **environment: additional environment variables.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    common = {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",  # small models need no more, and other tests run at the same time
        **environment,
    }
    started = []
    for rank in range(ranks):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), **common}
        log = folder / f"rank-{rank}-{len(list(folder.glob('rank-*')))}.log"
        log.touch()
        call = functools.partial(
            _call, entry or _train, [str(word) for word in arguments], prepare, sheets
        )
        process = context.Process(target=_run, args=(log, own, namespace, call))
        process.start()
        started.append(Rank(process, log))
    _started.extend(started)
    return started


@pytest.fixture
def no_rank_left() -> Iterator[None]:
    """Ends ranks that a failed test left running."""
    yield
    for rank in _started:
        rank.process.kill()
        rank.process.join()
    _started.clear()


def _run(
    log: Path, environment: dict[str, str], namespace: str | None, call: Callable[[], int]
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    if namespace is not None:
        with open(f"/run/netns/{namespace}") as file:
            assert ctypes.CDLL(None).setns(file.fileno(), _CLONE_NEWNET) == 0
    for name in filter(_LAUNCHED.fullmatch, list(os.environ)):
        del os.environ[name]
    os.environ.update(environment)
    multiprocessing.current_process()._config["daemon"] = (
        False  # daemons may not start loader processes
    )
    sys.exit(call())


def _train(arguments: list[str]) -> int:
    return main(["train", *arguments])


def _call(
    entry: Callable[[list[str]], int],
    arguments: list[str],
    prepare: Callable[[], None] | None,
    sheets: bool,
) -> int:
    if not sheets:
        for name in ("write_contact_sheet", "write_prior_sheet"):
            mock.patch(f"occvae.train.validation.{name}").start()
    if prepare is not None:
        prepare()
    return entry(arguments)
