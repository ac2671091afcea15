"""The GPU order of each SLURM node of this host, as the slurmd that runs has read it.

slurmd reads gres.conf and slurm.conf when it starts and at `scontrol reconfigure`. An edit counts
from then on. It is seen by inotify: then slurm.conf, cgroup.conf and gres.conf are opened at once,
which neither an editor nor a client command does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from joulebook.node.workloads.host.inotify import Event, Inotify
from joulebook.node.workloads.slurm.gres import GresMap
from joulebook.node.workloads.slurm.gres_conf import load_gres
from joulebook.reloaded_file import Stamp, stamp
from joulebook.units import NS_PER_S

_LOG = logging.getLogger(__name__)

_IN_OPEN = 0x00000020
_TOGETHER_NS = 2 * NS_PER_S


class _Known(NamedTuple):
    stamps: tuple[Stamp, ...]
    gres: GresMap | None
    unread: tuple[Stamp, ...] = ()
    """The stamps of an edit that slurmd has not read."""


class GresMaps:
    """`of(node)` never waits: `slurmd -G` runs in a thread, and `changed` is called after it."""

    def __init__(
        self,
        conf: Path,
        gres_conf: Path | None = None,
        *,
        slurmd: str,
        timeout_s: float = 5.0,
        proc: Path = Path("/proc"),
    ) -> None:
        self._proc = proc
        self._conf = conf
        self._gres_conf = conf.with_name("gres.conf") if gres_conf is None else gres_conf
        self._slurmd = slurmd
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._loading: set[str] = set()
        self._watches: set[int] = set()
        self._opened_ns: dict[str, int] = {}
        self._read_ns = 0
        self._loaded_ns = 0
        """When it was we who opened the files."""
        self.changed: Callable[[], None] = lambda: None

    @property
    def places(self) -> str:
        """Describe where the order of GPUs is read from."""
        asked = f"{self._slurmd} -G" if self._slurmd else "slurmd -G (no slurmd here)"
        return f"{self._gres_conf} nor {asked}"

    def watch(self, inotify: Inotify) -> None:
        """Follow who opens the files; without that an edit counts from the daemon's next start."""
        self._watches = set()
        for directory in {self._conf.parent, self._gres_conf.parent}:
            try:
                self._watches.add(inotify.watch(directory, _IN_OPEN))
            except OSError:
                continue

    def handle(self, event: Event) -> bool:
        """Take one event; `False` if it is not of these directories."""
        if event.watch not in self._watches:
            return False
        now_ns = time.time_ns()
        self._opened_ns[event.name] = now_ns
        wanted = {self._conf.name, self._gres_conf.name}
        if self._conf.with_name("cgroup.conf").exists():
            wanted.add("cgroup.conf")
        together = all(now_ns - self._opened_ns.get(name, 0) < _TOGETHER_NS for name in wanted)
        if together and not is_only_asked(self._proc):
            with self._lock:
                if not self._loading and now_ns - self._loaded_ns > _TOGETHER_NS:
                    self._read_ns = now_ns
        return True

    def of(self, node: str) -> tuple[bool, GresMap | None]:
        """Return whether it is known by now, and the GPUs of a node (`None`: unknown)."""
        now = self._stamps()
        with self._lock:
            known = self._known.get(node)
            if known is not None and (
                now == known.stamps or (now == known.unread and self._read_ns < _changed_ns(now))
            ):
                return True, known.gres
            if node in self._loading:
                return False, None
            self._loading.add(node)
        if self._slurmd:
            threading.Thread(
                target=self._load, args=(node, now), name="slurmd-g", daemon=True
            ).start()
            return False, None
        self._load(node, now)
        return True, self._known[node].gres

    def _load(self, node: str, now: tuple[Stamp, ...]) -> None:
        gres = load_gres(
            node, self._conf, self._gres_conf, slurmd=self._slurmd, timeout_s=self._timeout_s
        )
        with self._lock:
            self._loaded_ns = time.time_ns()
            known = self._known.get(node)
            if known is None or gres == known.gres or self._read_ns >= _changed_ns(now):
                self._known[node] = _Known(now, gres)
            else:
                self._known[node] = known._replace(unread=now)
                _LOG.warning(
                    "%s or %s was edited, but slurmd has not read it: the old GPU indices of "
                    "node %s stay in use until `scontrol reconfigure` or a restart of slurmd",
                    self._gres_conf, self._conf, node,
                )  # fmt: skip
            self._loading.discard(node)
        self.changed()

    def _stamps(self) -> tuple[Stamp, ...]:
        return stamp(self._gres_conf), stamp(self._conf)


def _changed_ns(stamps: Iterable[Stamp]) -> int:
    """Return when the files became what they are."""
    return max(each.changed_ns for each in stamps)


def is_only_asked(proc: Path = Path("/proc")) -> bool:
    """Return whether `slurmd -G` or `slurmd -C` is running, which also read the files."""
    for process in proc.iterdir():
        if process.name.isdecimal():
            try:
                program, *arguments = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if program.endswith(b"slurmd") and {b"-G", b"-C"} & set(arguments):
                return True
    return False
