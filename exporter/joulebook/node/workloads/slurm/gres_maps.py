"""The GPU order of each SLURM node of this host, as the slurmd that runs has read it.

slurmd reads gres.conf and slurm.conf when it starts and at `scontrol reconfigure`. An edit counts
from then on. It is seen by inotify: then slurm.conf, cgroup.conf and gres.conf are opened at once,
which neither an editor nor a client command does.

What is known is kept in a file beside the ledger, for the next daemon: files that changed
since then were read by a slurmd that started later. Otherwise an edit that was known to be unread
still is, and after one that nobody saw the order is unknown.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from joulebook.errors import InputError
from joulebook.node.workloads.host.inotify import Event, Inotify
from joulebook.node.workloads.host.procfs import stat_of
from joulebook.node.workloads.slurm.gres import GresMap
from joulebook.node.workloads.slurm.gres_conf import load_gres
from joulebook.reloaded_file import Stamp, stamp
from joulebook.units import NS_PER_S
from joulebook.untrusted_files import decoded, read, trusted_owners, write_named

_LOG = logging.getLogger(__name__)

_IN_OPEN = 0x00000020
_TOGETHER_NS = 2 * NS_PER_S


class _Known(NamedTuple):
    stamps: tuple[Stamp, ...]
    gres: GresMap | None
    unread: tuple[Stamp, ...] = ()
    """The stamps of an edit that slurmd has not read."""


class _Kept(msgspec.Struct):
    """What one daemon leaves to the next: when slurmd read the files, and the GPUs of each node."""

    read_ns: int = 0
    nodes: dict[str, _Known] = {}


_DECODER = msgspec.json.Decoder(_Kept)
_KEPT_BYTES = 1 << 20


class GresMaps:
    """`of(node)` never waits: `slurmd -G` runs in a thread, and `changed` is called after it."""

    def __init__(
        self,
        conf: Path,
        gres_conf: Path | None = None,
        *,
        slurmd: str,
        kept: Path | None = None,
        timeout_s: float = 5.0,
        proc: Path = Path("/proc"),
    ) -> None:
        self._proc = proc
        self._conf = conf
        self._gres_conf = conf.with_name("gres.conf") if gres_conf is None else gres_conf
        self._slurmd = slurmd
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._kept = kept
        before = _left(kept)
        self._known = before.nodes
        self._unseen = set(before.nodes)
        """The nodes of which only the daemon before has seen the files."""
        self._loading: set[str] = set()
        self._watches: set[int] = set()
        self._opened_ns: dict[str, int] = {}
        self._read_ns = max(before.read_ns, slurmd_started_ns(proc)) if before.nodes else 0
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
                    self._keep()
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
            elif node in self._unseen and now != known.unread:
                self._known[node] = _Known((), None, unread=now)
                _LOG.warning(
                    "%s or %s was edited while no daemon ran, and slurmd may not have read it: the "
                    "GPU indices of node %s are unknown until `scontrol reconfigure` or a restart "
                    "of slurmd",
                    self._gres_conf, self._conf, node,
                )  # fmt: skip
            else:
                self._known[node] = known._replace(unread=now)
                _LOG.warning(
                    "%s or %s was edited, but slurmd has not read it: the old GPU indices of "
                    "node %s stay in use until `scontrol reconfigure` or a restart of slurmd",
                    self._gres_conf, self._conf, node,
                )  # fmt: skip
            self._unseen.discard(node)
            self._keep()
            self._loading.discard(node)
        self.changed()

    def _keep(self) -> None:
        if self._kept is not None:
            with contextlib.suppress(OSError):  # Without it the next daemon believes the files.
                content = msgspec.json.encode(_Kept(self._read_ns, self._known))
                write_named(self._kept, content)

    def _stamps(self) -> tuple[Stamp, ...]:
        return stamp(self._gres_conf), stamp(self._conf)


def _changed_ns(stamps: Iterable[Stamp]) -> int:
    """Return when the files became what they are."""
    return max(each.changed_ns for each in stamps)


def _left(kept: Path | None) -> _Kept:
    """Return what the daemon before has left; nothing if there is none, or none to be trusted."""
    if kept is None:
        return _Kept()
    try:
        file = read(None, str(kept), _KEPT_BYTES, trusted_owners())
        return decoded(_DECODER, file.raw, str(kept), "what this daemon wrote")
    except (InputError, OSError):
        return _Kept()


def is_only_asked(proc: Path = Path("/proc")) -> bool:
    """Return whether `slurmd -G` or `slurmd -C` is running, which also read the files."""
    return any(asked for _, asked in _slurmds(proc))


def slurmd_started_ns(proc: Path = Path("/proc")) -> int:
    """Return the UTC time at which slurmd started (of several the first); 0 if none is seen."""
    found = [stat_of(pid, proc) for pid, asked in _slurmds(proc) if not asked]
    booted_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return min((booted_ns + each.started_boottime_ns for each in found if each), default=0)


def _slurmds(proc: Path) -> Iterator[tuple[int, bool]]:
    """Each slurmd, and whether it is only asked for what it would read."""
    for process in proc.iterdir():
        if process.name.isdecimal():
            try:
                program, *arguments = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if program.rpartition(b"/")[2] == b"slurmd":
                yield int(process.name), bool({b"-G", b"-C"} & set(arguments))
