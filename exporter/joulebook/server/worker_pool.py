"""Run calls that may take long or hang outside the loop that serves HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Busy(Exception):
    """No answer in time, or too many before in the line."""


class WorkerPool:
    """A few threads that answer one kind of question, with a short line before them.

    A hanging call keeps its thread and its place: more of the kind are rejected at once, and
    nothing else waits. The threads never keep the process alive (an executor of the standard
    library would).
    """

    def __init__(self, name: str, *, threads: int, line: int, timeout_s: float) -> None:
        self._name = name
        self._threads = threads
        self._line = line
        self._timeout_s = timeout_s
        self._open = 0
        self._started = 0
        self._closed = False
        self._awaited: set[asyncio.Future[Any]] = set()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    async def ask(self, question: Callable[[], T]) -> T:
        """Return the result of `question`, run in a thread. Raises `Busy`, and what it raises."""
        if self._open >= self._line or self._closed:
            raise Busy(f"{self._name}: {self._open} calls open")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            value, error = None, None
            try:
                value = question()
            except Exception as caught:
                error = caught
            # The loop may be gone by now.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._answered, answer, value, error)

        self._man(self._open + 1)
        self._open += 1
        self._work.put(work)
        self._awaited.add(answer)
        try:
            # Not `wait_for`: in Python 3.11 it can swallow a cancellation.
            async with asyncio.timeout(self._timeout_s):
                return await answer
        except TimeoutError:
            raise Busy(f"{self._name}: timed out after {self._timeout_s:g} s") from None
        finally:
            self._awaited.discard(answer)

    def close(self) -> None:
        """Reject all waiting calls, from the loop; each thread ends after its current call."""
        self._closed = True
        for answer in self._awaited:
            if not answer.done():
                answer.set_exception(Busy(f"{self._name}: closing"))
        for _ in range(self._started):
            self._work.put(None)

    def _man(self, wanted: int) -> None:
        """Start a thread more where there is work for it. Raises `Busy` if there is none at all."""
        if self._started >= min(wanted, self._threads):
            return
        thread = threading.Thread(target=self._run, name=f"http-{self._name}", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:  # The system gives no thread just now.
            if not self._started:
                raise Busy(f"{self._name}: {error}") from None
        else:
            self._started += 1

    def _answered(
        self, answer: asyncio.Future[Any], value: object, error: Exception | None
    ) -> None:
        self._open -= 1
        if answer.done():
            return
        if error is None:
            answer.set_result(value)
        else:
            answer.set_exception(error)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
