"""`with joulebook.experiment("name"):` books the energy of this process and its children to `name`.

For machines without a scheduler. Entering writes a small file that the node's daemon reads, leaving
completes it; docs/in-code.md explains what is booked. The file does not state the user: the daemon
takes that from the process itself, and accepts files from the owner of the process only.

This module is loaded into users' programs: it imports next to nothing, and no problem with the file
(no daemon, no directory, a full disk) ever reaches the program. Writing is retried.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
import time
from collections import deque
from pathlib import Path

from joulebook.span_figures import SpanFigures

TYPE_CHECKING = False  # `typing` itself is not loaded into other people's programs
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

DIRECTORY = "/run/joulebook/marks"
VARIABLE = "JOULEBOOK_MARKS_DIR"
"""Overrides the directory, for the daemon and for programs alike."""

MAX_NAME_CHARS = 128

MOST_LEFT = 256
"""The most files of this process to leave where no daemon collects them."""

WAIT_S = 10.0
"""How long the first look at the figures of a block that has ended waits at most for the daemon."""

FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0

_numbers = itertools.count(1)
_unwritten: dict[Span, None] = {}
"""Active spans that could not be written yet, such as before the daemon's first start."""
_left: deque[Path] = deque()
_retry: threading.Thread | None = None


class Span(SpanFigures):
    """One entry of a block, which is a run of its own, or a window of one.

    Its figures are those booked so far, and after its end those of all of it: the first look then
    waits until everything is booked, for `wait_s` at most. Unknown ones are `None` or empty.

    Attributes:
        id: The name of its workload, for `joulebook job`, for reports, and to log with results.
            Empty if this is not Linux.
        experiment: The experiment that it is booked to.

    """

    __slots__ = (
        "_chain", "_entered_ns", "_lock", "_path", "_pid", "_window", "experiment",
    )  # fmt: skip

    def __init__(self, name: str, within: Span | None = None) -> None:
        """`name` is that of the experiment, or of a window of `within`."""
        self.experiment: str = str(name)[:MAX_NAME_CHARS] if within is None else within.experiment
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._entered_ns, self.id, self._path = 0, "", Path(os.environ.get(VARIABLE) or DIRECTORY)
        super().__init__()
        self._chain, self._window = "", ""
        with contextlib.suppress(OSError, ValueError, AttributeError, IndexError):
            self._entered_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self._chain = number = f"{next(_numbers)}"
            stem = f"{self._pid}-{started_ticks('self')}-{number}"
            boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
            self._path /= f"{stem}.json"
            self.id = span_id(stem, boot)
            if within is not None:
                self.id = f"{within.id}_{number}"
                self._chain = f"{within._chain}_{number}"
                self._window = str(name)[:MAX_NAME_CHARS]

    def window(self, name: str, *, wait_s: float = WAIT_S) -> experiment:
        """Return a block inside this one, such as an epoch, with figures of its own.

        What it consumes is a part of this run, and a window in it a part of both.
        """
        return experiment(name, wait_s=wait_s, estimate=self._estimates, within=self)

    def enter(self) -> None:
        """Write the start; if that fails, it is retried while the span is active."""
        if self.id and not self._write({}):
            _unwritten[self] = None
            _start_retry()

    def leave(self) -> None:
        """Write the end. A forked child that leaves the block does not end it."""
        if self.id and self._pid == os.getpid():
            with self._lock:
                _unwritten.pop(self, None)
                self._write({"exited_boottime_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME)})
                _left.append(self._path)
                while len(_left) > MOST_LEFT:
                    with contextlib.suppress(OSError):
                        _left.popleft().unlink()
            self.measured()

    def try_again(self) -> None:
        """Write the start, unless the span has ended."""
        with self._lock:
            if self in _unwritten and self._write({}):
                _unwritten.pop(self, None)

    def _write(self, more: Mapping[str, int]) -> bool:
        """Write the file in one step or not at all."""
        import json  # noqa: PLC0415 - not of those who only import us

        said = {"v": 1, "experiment": self.experiment, "entered_boottime_ns": self._entered_ns}
        if self._window:
            said |= {"within": self._chain.rpartition("_")[0], "window": self._window}
        new = self._path.with_name(f".{self._path.stem}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(new, flags, 0o644)
            try:
                os.fchmod(fd, 0o644)
                os.write(fd, json.dumps({**said, **more}).encode())
            finally:
                os.close(fd)
            new.replace(self._path)
        except (OSError, ValueError):
            return False
        return True


class experiment:
    """Book the energy of the GPUs that this process and its children use to experiment `name`.

    From entry to exit, all threads included; of nested blocks, the innermost counts. Each entry is
    a run; `as run` gives its `run.id` and its figures: `run.energy_kwh`, `run.cost`, ... Also a
    decorator, of coroutines and generators too: then from the first step to the last. It has no
    effect on the books inside a SLURM job or a Kubernetes pod, where the scheduler decides.
    Without a daemon, figures are measured in this process where NVML answers, and modelled only
    with `estimate`. Raises nothing of its own.
    """

    def __init__(
        self,
        name: str,
        *,
        wait_s: float = WAIT_S,
        estimate: bool = False,
        within: Span | None = None,
    ) -> None:
        """The first look at figures after the end waits for the daemon, for `wait_s` at most.

        `within` is for `Span.window`.
        """
        self._name, self._wait_s, self._estimate, self._within = name, wait_s, estimate, within
        self._spans: list[Span] = []

    def __enter__(self) -> Span:
        span = Span(self._name, self._within)
        span.enter()
        span.measure(self._wait_s, estimate=self._estimate)
        self._spans.append(span)
        return span

    def __exit__(self, *_: object) -> None:
        self._spans.pop().leave()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function, each call of it in a block of its own."""
        import inspect  # noqa: PLC0415 - only decorators pay for it

        name = self._name
        call: Callable[P, Any] = function

        def called(*args: P.args, **kwargs: P.kwargs) -> object:
            with _marked(name):
                result = call(*args, **kwargs)
            # What is still to run is run under a span of its own.
            if inspect.iscoroutine(result):
                return _awaited(name, result)
            if inspect.isgenerator(result):
                return _generated(name, result)
            if inspect.isasyncgen(result):
                return _generated_async(name, result)
            return result

        async def awaited(*args: P.args, **kwargs: P.kwargs) -> object:
            with _marked(name):
                return await call(*args, **kwargs)

        def generated(*args: P.args, **kwargs: P.kwargs) -> Generator[object, object, object]:
            return (yield from _generated(name, call(*args, **kwargs)))

        def generated_async(*args: P.args, **kwargs: P.kwargs) -> object:
            return _generated_async(name, call(*args, **kwargs))

        wrapper: Any = called
        if inspect.iscoroutinefunction(function):
            wrapper = awaited
        elif inspect.isgeneratorfunction(function):
            wrapper = generated
        elif inspect.isasyncgenfunction(function):
            wrapper = generated_async
        marked: Callable[P, R] = functools.wraps(function)(wrapper)
        return marked


@contextlib.contextmanager
def _marked(name: str) -> Generator[None]:
    """Mark a block whose figures nobody can ask for."""
    span = Span(name)
    span.enter()
    try:
        yield
    finally:
        span.leave()


async def _awaited(name: str, coroutine: Coroutine[object, object, object]) -> object:
    with _marked(name):
        return await coroutine


def _generated(
    name: str, generator: Generator[object, Any, object]
) -> Generator[object, object, object]:
    with _marked(name):
        return (yield from generator)


async def _generated_async(
    name: str, generator: AsyncGenerator[object, Any]
) -> AsyncGenerator[object, object]:
    with _marked(name), contextlib.suppress(StopAsyncIteration):
        value = await anext(generator)
        while True:
            try:
                sent = yield value
            except GeneratorExit:
                await generator.aclose()
                raise
            except BaseException as error:
                value = await generator.athrow(error)
            else:
                value = await generator.asend(sent)


def span_id(stem: str, boot: str) -> str:
    """Return the name of the workload of a span's file `stem`.json in a boot of the machine."""
    return f"span-{stem}.{boot[:8]}"


def started_ticks(process: int | str) -> int:
    """Return when a process started, in clock ticks since boot (field 22 of proc_pid_stat(5))."""
    text = Path(f"/proc/{process}/stat").read_bytes()
    # Counted after the command's name, which may contain blanks and parentheses.
    return int(text.rpartition(b")")[2].split()[19])


def _start_retry() -> None:
    global _retry  # noqa: PLW0603 - one thread for all spans of a process; none survives a fork
    if _retry is None or not _retry.is_alive():
        _retry = threading.Thread(target=_try_again, name="joulebook-span", daemon=True)
        with contextlib.suppress(RuntimeError):
            _retry.start()


def _try_again() -> None:
    pause_s = FIRST_RETRY_S
    while _unwritten:
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LAST_RETRY_S)
        for span in list(_unwritten):
            span.try_again()
