"""Work of the page runs in turn and can be cancelled."""

import asyncio
import threading

import pytest

from occvae.app.tasks import Cancelled, Tasks


def quiet(what: str, share: float) -> None:
    """A report that nobody reads."""


def wait(report) -> None:
    """Work without an end."""
    while True:
        report("waiting", 0.5)
        threading.Event().wait(0.002)


def test_results_and_errors_are_passed_on():
    async def main():
        tasks, said = Tasks(), []
        assert await tasks.run("a", lambda report: report("x", 0.5) or 3, lambda *r: said.append(r))
        assert said == [("starting", 0.0), ("x", 0.5)]
        with pytest.raises(ZeroDivisionError):
            await tasks.run("a", lambda report: 1 / 0, quiet)
        assert not tasks._stops

    asyncio.run(main())


def test_work_runs_one_at_a_time():
    running, most = 0, 0

    def work(report) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        threading.Event().wait(0.01)
        running -= 1

    async def main():
        tasks = Tasks()
        await asyncio.gather(*(tasks.run(str(i), work, quiet) for i in range(8)))

    asyncio.run(main())
    assert most == 1


def test_cancelled_work_ends_and_the_next_one_begins():
    async def main():
        tasks, started = Tasks(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def report(what: str, share: float) -> None:
            loop.call_soon_threadsafe(started.set)

        endless = asyncio.create_task(tasks.run("a", wait, report))
        await started.wait()
        second = asyncio.create_task(tasks.run("b", lambda report: "done", quiet))
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        assert await asyncio.wait_for(second, 5) == "done"

    asyncio.run(main())


def test_waiting_work_can_be_cancelled():
    async def main():
        tasks, started = Tasks(), asyncio.Event()
        loop = asyncio.get_running_loop()
        first = asyncio.create_task(
            tasks.run("a", wait, lambda *r: loop.call_soon_threadsafe(started.set))
        )
        await started.wait()
        second = asyncio.create_task(tasks.run("b", lambda report: "done", quiet))
        await asyncio.sleep(0.1)
        tasks.stop("b")
        with pytest.raises(Cancelled):
            await asyncio.wait_for(second, 5)
        tasks.stop("a")
        with pytest.raises(Cancelled):
            await asyncio.wait_for(first, 5)
        tasks.stop("nobody")
        assert not tasks._stops

    asyncio.run(main())
