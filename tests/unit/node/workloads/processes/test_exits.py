"""The ends of real processes, seen when they come."""

from __future__ import annotations

import queue
import subprocess
from collections.abc import Iterator

import pytest

from joulebook.node.workloads.processes import proc
from joulebook.node.workloads.processes.proc import Exits, Key

PATIENCE_S = 20


def alive(_key: Key) -> bool:
    return True


@pytest.fixture
def ended() -> queue.Queue[Key]:
    return queue.Queue()


@pytest.fixture
def watch(ended: queue.Queue[Key]) -> Iterator[Exits]:
    watch = Exits(ended.put)
    watch.start()
    yield watch
    watch.stop()


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sleep", "60"])


def test_each_end_is_told_once(watch: Exits, ended: queue.Queue[Key]) -> None:
    first, second = sleeper(), sleeper()
    for process in (first, second, first):
        assert watch.watch((process.pid, 5), alive)
    first.kill()
    assert ended.get(timeout=PATIENCE_S) == (first.pid, 5), "also before it is buried"
    first.wait()
    second.terminate()
    assert ended.get(timeout=PATIENCE_S) == (second.pid, 5)
    second.wait()
    assert ended.empty()


def test_one_that_is_gone_is_known_at_once(watch: Exits) -> None:
    process = sleeper()
    process.kill()
    process.wait()
    assert not watch.watch((process.pid, 5), alive)


def test_a_pid_that_was_given_to_another_is_not_watched(
    watch: Exits, ended: queue.Queue[Key]
) -> None:
    process = sleeper()
    assert not watch.watch((process.pid, 5), lambda key: False)
    process.kill()
    process.wait()
    with pytest.raises(queue.Empty):
        ended.get(timeout=0.2)


def test_there_are_only_so_many(watch: Exits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "MOST", 1)
    first, second = sleeper(), sleeper()
    assert watch.watch((first.pid, 5), alive)
    assert watch.watch((second.pid, 5), alive), "its end is then known from the process lists"
    assert len(watch._watched) == 1
    for process in (first, second):
        process.kill()
        process.wait()


def test_stopping_closes_all(ended: queue.Queue[Key]) -> None:
    watch = Exits(ended.put)
    watch.start()
    process = sleeper()
    watch.watch((process.pid, 5), alive)
    watch.stop()
    assert not watch.is_alive()
    assert watch.watch((process.pid, 5), alive), "nothing is watched any more"
    process.kill()
    process.wait()
    assert ended.empty()
