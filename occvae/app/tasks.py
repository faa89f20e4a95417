"""Runs one piece of work at a time in a thread, with progress, until it ends or is cancelled."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

from occvae.app.service import Report

T = TypeVar("T")

_POLL_SECONDS = 0.05


class Cancelled(Exception):
    """The work was cancelled."""


class Tasks:
    """A queue of length one. A second piece of work waits until the first one ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: defaultdict[str, set[threading.Event]] = defaultdict(set)

    async def run(self, session: str, work: Callable[[Report], T], report: Report) -> T:
        """Runs work in a thread and returns its result.

        If this coroutine is cancelled, the work ends at its next report.

        Args:
            session: Name of the visitor, for `stop`.
            work: Takes a report and calls it often.
            report: What the work reports is passed on to it.

        Raises:
            Cancelled: `stop` was called for the session.
        """
        stop = threading.Event()

        def checked(what: str, share: float) -> None:
            if stop.is_set():
                raise Cancelled
            report(what, share)

        def locked() -> T:
            while not self._lock.acquire(timeout=_POLL_SECONDS):
                checked("waiting for another request", 0.0)
            try:
                checked("starting", 0.0)
                return work(checked)
            finally:
                self._lock.release()

        def tracked() -> T:
            try:
                return locked()
            finally:
                self._forget(session, stop)

        self._stops[session].add(stop)
        thread = asyncio.create_task(asyncio.to_thread(tracked))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            stop.set()
            thread.add_done_callback(_ignore)
            raise

    def stop(self, session: str) -> None:
        """Cancels all work of a session, as after its page was closed."""
        for stop in list(self._stops.get(session, ())):
            stop.set()

    def _forget(self, session: str, stop: threading.Event) -> None:
        self._stops[session].discard(stop)
        if not self._stops[session]:
            del self._stops[session]


def _ignore(task: "asyncio.Task[object]") -> None:
    """Reads the exception of a task, so that asyncio does not print it."""
    if not task.cancelled():
        task.exception()
