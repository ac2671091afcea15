"""Calls beside the loop: answers, errors, hangs, and no more than so many of them."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import NoReturn

import pytest

from joulebook.server.worker_pool import Busy, WorkerPool


def test_answers_and_errors() -> None:
    desk = WorkerPool("t", threads=2, line=4, timeout_s=5)

    def fail() -> NoReturn:
        raise KeyError("no")

    async def run() -> None:
        assert await desk.ask(lambda: 42) == 42
        with pytest.raises(KeyError):
            await desk.ask(fail)
        answers = await asyncio.gather(*(desk.ask(partial(abs, -n)) for n in range(4)))
        assert answers == [0, 1, 2, 3]

    asyncio.run(run())
    desk.close()


def test_a_hung_call_is_given_up_and_keeps_its_place() -> None:
    desk = WorkerPool("t", threads=1, line=2, timeout_s=0.05)
    over = threading.Event()

    async def run() -> None:
        for _ in range(2):
            with pytest.raises(Busy, match="timed out after"):
                await desk.ask(over.wait)
        with pytest.raises(Busy, match="2 calls open"):
            await desk.ask(over.wait)
        over.set()
        async with asyncio.timeout(5):
            while desk._open:
                await asyncio.sleep(0.01)
        assert await desk.ask(lambda: 1) == 1

    asyncio.run(run())
    desk.close()


def test_threads_never_keep_the_process_and_end_when_closed() -> None:
    desk = WorkerPool("ending", threads=2, line=4, timeout_s=5)

    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "http-ending"]

    async def run() -> None:
        await desk.ask(lambda: 1)
        assert [thread.daemon for thread in threads()] == [True]
        desk.close()
        with pytest.raises(Busy):
            await desk.ask(lambda: 1)

    asyncio.run(run())
    for thread in threads():
        thread.join(5)
    assert not threads()


def test_an_answer_after_the_loop_is_gone_is_dropped() -> None:
    desk = WorkerPool("t", threads=1, line=2, timeout_s=0.01)
    over = threading.Event()

    async def run() -> None:
        with pytest.raises(Busy):
            await desk.ask(over.wait)

    asyncio.run(run())
    over.set()
    desk.close()


def test_a_thread_that_cannot_start_costs_one_answer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = WorkerPool("t", threads=2, line=2, timeout_s=5)
    start = threading.Thread.start

    def no_thread(self: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        for _ in range(5):  # More than the line is long.
            with pytest.raises(Busy, match="can't start new thread"):
                await desk.ask(lambda: 1)
        monkeypatch.setattr(threading.Thread, "start", start)
        assert await desk.ask(lambda: 1) == 1
        # One thread is there, no second one to be had: the one does the work of both.
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        assert list(await asyncio.gather(desk.ask(lambda: 2), desk.ask(lambda: 3))) == [2, 3]

    asyncio.run(run())
    desk.close()
