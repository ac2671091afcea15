"""Read a process from `/proc`: its owner, its launcher, and its experiment.

`Exits` reports the end of processes, to the millisecond. `Lookups` asks in threads what may hang
(a process's environment is in its own memory; a directory of users may be far away): only the user
who caused it waits.
"""

from __future__ import annotations

import os
import re
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable
from pathlib import Path

from joulebook.backoff import LastingThread
from joulebook.core.sanitize import clean_label
from joulebook.node.workloads.host.cgroup_paths import cgroup_paths
from joulebook.node.workloads.host.procfs import (
    Stat,
    is_gone,
    own_pid,
    read_environ,
    stat_of,
    uid_of,
)
from joulebook.node.workloads.processes.owners import FIRST_USER, Facts, ProcessRun, place_of
from joulebook.units import NS_PER_S

Key = tuple[int, int]
"""A process: its pid and when it started (node time)."""

MOST = 1024
"""Processes that are watched at a time; the ends of more are known from process lists only."""


class Exits(LastingThread):
    """`ended` is called from the thread, with the process that is gone."""

    def __init__(self, ended: Callable[[Key], None]) -> None:
        super().__init__("process-exits", self._serve)
        self._ended = ended
        self._lock = threading.Lock()
        self._watched: dict[Key, int] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake_fd, selectors.EVENT_READ)
        self._stopping = threading.Event()

    def watch(self, key: Key, lives: Callable[[Key], bool]) -> bool:
        """Watch a process; `False` if it is gone by now.

        `lives` returns, once its pidfd is open, whether the PID is still that process's.
        """
        with self._lock:
            if key in self._watched or len(self._watched) >= MOST or self._stopping.is_set():
                return True
            try:
                fd = os.pidfd_open(key[0])
            except ProcessLookupError:
                return False
            except OSError:
                return True  # no such call, or not allowed: then process lists must do
            if not lives(key):
                os.close(fd)
                return False
            self._watched[key] = fd
            # epoll takes descriptors while another thread waits on it.
            self._selector.register(fd, selectors.EVENT_READ, key)
        return True

    def stop(self) -> None:
        """End the thread, and close all."""
        self._stopping.set()
        os.eventfd_write(self._wake_fd, 1)
        if self.is_alive():
            self.join()
        with self._lock:
            for fd in self._watched.values():
                os.close(fd)
            self._watched.clear()
            self._selector.close()
            os.close(self._wake_fd)

    def _serve(self) -> None:
        while True:
            ready = self._selector.select()
            if self._stopping.is_set():
                return
            for each, _ in ready:
                if each.data is None:
                    continue
                with self._lock:
                    self._selector.unregister(each.fd)
                    os.close(self._watched.pop(each.data))
                self._ended(each.data)


_COMM_CHARS = 15
_MOST_LAUNCHERS = 16
_MOST_PARENTS = 64
_LOADED_S = 0.05

_SERVES_SESSIONS = re.compile(
    r"sshd(-session)?|login|su|sudo|cron|CRON|crond|atd|systemd|\(sd-pam\)|tmux.*|screen|SCREEN"
    r"|mosh-server|dtach|jupyter.*|node|code.*|rsession|rserver|emacs.*|gnome-.*|gdm.*|plasma.*"
    r"|konsole|xterm|xfce.*|xrdp.*|dbus-.*|containerd-shim.*|conmon|dockerd|podman"
)
"""Programs that start what has nothing to do with each other: terminals, notebook kernels."""


def facts_of(pid: int, proc: Path = Path("/proc")) -> Facts | None:
    """Read the owner of a process; `None` if it is gone or hidden."""
    uid = uid_of(pid, proc)
    try:
        paths = cgroup_paths((proc / str(pid) / "cgroup").read_text(errors="replace"))
    except OSError:
        return None
    return None if uid is None else Facts(paths, uid)


def run_of(
    pid: int, uid: int, known: Callable[[int], ProcessRun | None], proc: Path = Path("/proc")
) -> ProcessRun | None:
    """Find the process group that a process belongs to, or that of the launcher of its session.

    A shell in a terminal puts each command that is typed into a group of its own. What has groups
    or sessions of its own without a terminal is a part of the run of who started it: workers of
    a launcher such as torchrun, commands of a script under `set -m`. `known` is asked for the run
    of a group whose leader has ended. `None` if the process is gone.
    """
    run = None
    stat = stat_of(pid, proc)
    for _ in range(_MOST_LAUNCHERS):
        if stat is None:
            break
        leader = stat if stat.group == stat.pid else stat_of(stat.group, proc)
        if leader is None:
            return known(stat.group) or ProcessRun(stat.group, stat.ticks)
        run = ProcessRun(leader.pid, leader.ticks)
        if leader.terminal:
            break
        stat = _launcher(leader, uid, proc)
    return run


def _launcher(leader: Stat, uid: int, proc: Path) -> Stat | None:
    """Return the program of the same user that started a group as a part of its own work."""
    parent = stat_of(leader.parent, proc)
    if parent is None or parent.pid == 1 or _SERVES_SESSIONS.fullmatch(parent.comm):
        return None
    if parent.terminal and parent.session == parent.pid:
        return None  # a shell in a terminal
    facts = facts_of(parent.pid, proc)
    return parent if facts is not None and facts.uid == uid and not place_of(facts) else None


def group_is_gone(group: int, leader_ticks: int, proc: Path = Path("/proc")) -> bool:
    """Return whether a process group has no process left, or its number is another's by now."""
    leader = stat_of(group, proc)
    if leader is not None:
        return bool(leader_ticks) and leader.ticks != leader_ticks
    if proc != Path("/proc"):
        return is_gone(group, proc)
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def names_of(
    pid: int, names: Collection[str], until: int, proc: Path = Path("/proc")
) -> dict[str, str] | None:
    """Read the values of `names` in the environment of a process; `None` if it cannot be read.

    Where it holds none of them, those of its parents count up to the process `until`: a program
    that shows another title in `ps` writes it over its own environment. It may hang for as long as
    the process likes.
    """
    wanted = {name.encode() for name in names}
    own = stat_of(pid, proc)
    found = read_environ(proc / str(pid), wanted)
    if not found and own is not None and _is_new(own):
        # While a program is being loaded its environment is empty.
        time.sleep(_LOADED_S)
        found = read_environ(proc / str(pid), wanted)
    at = own
    for _ in range(_MOST_PARENTS):
        if at is None:
            break
        found = found or read_environ(proc / str(at.pid), wanted) or found
        if found or at.pid == until or at.parent <= 1 or not until:
            break
        at = stat_of(at.parent, proc)
    now = stat_of(pid, proc)
    if found is None or own is None or now is None or now.ticks != own.ticks:
        return None
    return {
        name.decode(): text for name, value in found.items()
        if (text := clean_label(value.decode("utf-8", "replace")))
    }  # fmt: skip


def _is_new(stat: Stat) -> bool:
    age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - stat.started_boottime_ns
    return age_ns < NS_PER_S


def is_infrastructure(
    pid: int, names: Collection[str], facts: Facts, proc: Path = Path("/proc")
) -> bool:
    """Return whether a process serves everyone: this daemon, or a program with one of the names.

    What counts is who runs it and where: a user of the system outside of containers, or a program
    of such a user that is one of them (root's MPS daemon starts its server as the client's user).
    The program's file proves nothing, since whoever starts it decides what is loaded into it.
    """
    if pid == own_pid(proc):
        return True
    stat = stat_of(pid, proc)
    if stat is None or not serves(stat.comm, names):
        return False
    place = place_of(facts)
    if place is not None and place.kind == "container":
        return False
    if facts.uid < FIRST_USER:
        return True
    parent = stat_of(stat.parent, proc)
    uid = uid_of(stat.parent, proc)
    return bool(parent and uid is not None and uid < FIRST_USER and serves(parent.comm, names))


def serves(comm: str, names: Collection[str]) -> bool:
    """Return whether one of `names` is that of a program which `ps` calls `comm`."""
    return comm in {name[:_COMM_CHARS] for name in names}


PATIENCE_S = 1.0
"""How long an answer is waited for; most come within a millisecond."""

MOST_THREADS = 64
MOST_QUESTIONS = 1024
"""Questions of one asker that wait at a time."""

Question = Callable[[], None]


class Lookups:
    """A thread for each asker who has questions, and none for those who have not."""

    def __init__(self, failed: Callable[[], None], patience_s: float = PATIENCE_S) -> None:
        """Call `failed` while an exception of a question is handled."""
        self._failed = failed
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, deque[Question]] = {}
        self._hanging: set[Hashable] = set()

    def ask(self, asker: Hashable, question: Question, *, wait: bool = False) -> bool:
        """Run `question`; with `wait`, wait for a while and return whether it is done.

        A hanging caller is not waited for.
        """
        done = threading.Event()

        def answered() -> None:
            try:
                question()
            finally:
                done.set()

        with self._lock:
            if not self._enqueue(asker, answered):
                return False
            wait = wait and asker not in self._hanging
        if not wait:
            return False
        if done.wait(self._patience_s):
            return True
        with self._lock:
            if asker in self._waiting:
                self._hanging.add(asker)
        return done.is_set()

    def _enqueue(self, asker: Hashable, question: Question) -> bool:
        waiting = self._waiting.get(asker)
        if waiting is not None:
            if len(waiting) >= MOST_QUESTIONS:
                return False
            waiting.append(question)
            return True
        if len(self._waiting) >= MOST_THREADS:
            return False
        self._waiting[asker] = deque([question])
        thread = threading.Thread(
            target=self._answer, args=(asker,), name="process-names", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no thread to be had
            del self._waiting[asker]
            return False
        return True

    def _answer(self, asker: Hashable) -> None:
        while True:
            with self._lock:
                if not self._waiting[asker]:
                    del self._waiting[asker]
                    self._hanging.discard(asker)
                    return
                question = self._waiting[asker].popleft()
            try:
                question()
            except Exception:
                self._failed()
