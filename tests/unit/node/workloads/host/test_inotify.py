from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.scale import scaled

from joulebook.node.workloads.host.inotify import (
    IN_CREATE,
    IN_DELETE,
    IN_IGNORED,
    IN_ISDIR,
    IN_MOVED_TO,
    Event,
    Inotify,
    InotifyThread,
)

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


@contextmanager
def queue_of(length: int) -> Iterator[None]:
    before = QUEUE.read_text()
    QUEUE.write_text(str(length))
    try:
        yield
    finally:
        QUEUE.write_text(before)


def test_making_and_removing_is_reported_in_order(tmp_path: Path) -> None:
    inotify = Inotify()
    watch = inotify.watch(tmp_path, IN_CREATE | IN_DELETE | IN_MOVED_TO)
    assert inotify.read() == []
    (tmp_path / "a").mkdir()
    (tmp_path / "größe").touch()
    (tmp_path / "größe").rename(tmp_path / "b")
    (tmp_path / "a").rmdir()
    events = inotify.read()
    assert [(e.watch, e.mask & ~IN_ISDIR, e.name) for e in events] == [
        (watch, IN_CREATE, "a"),
        (watch, IN_CREATE, "größe"),
        (watch, IN_MOVED_TO, "b"),
        (watch, IN_DELETE, "a"),
    ]
    assert events[0].mask & IN_ISDIR
    assert inotify.watch(tmp_path, IN_CREATE) == watch
    inotify.unwatch(watch)
    assert [e.mask for e in inotify.read()] == [IN_IGNORED]
    inotify.unwatch(watch)
    inotify.close()
    inotify.close()


def test_what_cannot_be_watched_is_an_error(tmp_path: Path) -> None:
    inotify = Inotify()
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError):
        inotify.watch(tmp_path / "none", IN_CREATE)
    with pytest.raises(NotADirectoryError):
        inotify.watch(tmp_path / "file", IN_CREATE)
    inotify.close()


def test_a_queue_of_16_and_many_directories_overflow_loudly(tmp_path: Path) -> None:
    with queue_of(16):
        inotify = Inotify()
        inotify.watch(tmp_path, IN_CREATE | IN_DELETE)
        for n in range(scaled(1000)):
            (tmp_path / str(n)).mkdir()
            (tmp_path / str(n)).rmdir()
        events = inotify.read()
        assert len(events) <= 17
        assert [e.overflow for e in events].count(True) == 1
        assert inotify.read() == []
        (tmp_path / "after").mkdir()
        assert [e.name for e in inotify.read()] == ["after"]
        inotify.close()


def test_the_thread_hands_events_over_waits_as_told_and_ends(tmp_path: Path) -> None:
    inotify = Inotify()
    inotify.watch(tmp_path, IN_CREATE)
    seen: list[tuple[float, Sequence[Event]]] = []
    called = threading.Event()

    def on_events(events: Sequence[Event]) -> None:
        seen.append((time.monotonic(), events))
        called.set()

    wait_s: list[float | None] = [None]
    thread = InotifyThread("test", inotify, on_events, lambda: wait_s[0])
    thread.start()
    began = time.monotonic()
    (tmp_path / "x").touch()
    assert called.wait(5)
    assert seen[0][0] - began < 0.1
    assert [e.name for e in seen[0][1]] == ["x"]

    called.clear()
    wait_s[0] = 0.02
    thread.wake()
    assert called.wait(5)
    called.clear()
    assert called.wait(5), "the moment that wait_s set"
    assert seen[-1][1] == []
    thread.stop()
    assert not thread.is_alive()
    inotify.close()


def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        inotify = Inotify()
        inotify.watch(tmp_path, IN_CREATE)
        thread = InotifyThread("test", inotify, lambda _: None, lambda: None)
        thread.start()
        thread.stop()
        inotify.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
