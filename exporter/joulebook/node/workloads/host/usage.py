"""Who uses CPU and memory of the host: totals of the cgroups of workloads.

A total includes everything that ended inside the cgroup, so no process is too short to count. What
a cgroup used after it was last read, and one that came and went unseen, is in the total of the
directory that outlives it: its gain that no sibling accounts for goes to those that vanished
meanwhile. Only where no cgroup counts CPU time (SLURM with proctrack/cgroup alone) are processes
read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Iterable
from pathlib import Path

from joulebook.clock import Clock
from joulebook.core.energy.host_usage import HostSnapshot, Use
from joulebook.node.workloads.contract import UsageGroup
from joulebook.node.workloads.host import cgroup_counters
from joulebook.node.workloads.host.cgroup_counters import Counters, counters
from joulebook.node.workloads.host.procfs import cpu_times, memory

_BOUNDS_EVERY = 16
"""A cgroup's limit is read in one of this many polls (it rarely changes)."""


class _Tally:
    """What one group was seen to use."""

    def __init__(self, group: UsageGroup) -> None:
        self.group = group
        self.known: dict[Path, Counters] = {}
        self.counted_ns: dict[Path, int] = {}  # as last read
        self.gained_ns: dict[Path, int] = {}  # at this look
        self.closed_ns = 0  # of directories that are no more
        self.processes_ns = 0
        self.memory_bytes = 0
        self.cores_milli = 0
        self.gone: set[Path] = set()
        self.pools: dict[Path, Path] = {}
        self.polls = 0
        self.breadth = 0  # directories when its bounds were read

    @property
    def cpu_ns(self) -> int:
        return self.closed_ns + self.processes_ns + sum(self.counted_ns.values())

    def here(self, path: Path) -> Counters | None:
        """Return what a directory counts; `None` if it is not there. A name may be given again."""
        try:
            inode = os.stat(path).st_ino  # noqa: PTH116 (in every tick, for every cgroup)
        except OSError:
            return None
        known = self.known.get(path)
        if known is None or known.inode != inode:
            self.closed_ns += self.counted_ns.pop(path, 0)
            known = self.known[path] = counters(path, inode)
        return known


class HostUsageReader:
    """Takes snapshots of one host. Thread-safe: calls are serialized."""

    def __init__(self, clock: Clock, *, proc: Path = Path("/proc")) -> None:
        self._clock = clock
        self._proc = proc
        self._lock = threading.Lock()
        self._tallies: dict[Hashable, _Tally] = {}
        self._pools: dict[Path, int] = {}

    def snapshot(self, groups: Iterable[UsageGroup]) -> HostSnapshot | None:
        """Return who has used what up to now; `None` if /proc cannot be read."""
        with self._lock:
            try:
                times, ram = cpu_times(self._proc), memory(self._proc)
            except (OSError, ValueError):
                return None
            uses = self._uses(groups, times.cores)
            return HostSnapshot(
                self._clock.now_ns(),
                times.cores,
                times.busy_ns,
                ram.resident_bytes,
                ram.installed_bytes,
                uses,
            )

    def _uses(self, groups: Iterable[UsageGroup], cores: int) -> tuple[Use, ...]:
        gained: dict[Path, int] = {}
        vanished: dict[Path, list[_Tally]] = {}
        listed = set()
        for group in groups:
            key: Hashable = group.workload or group.directories
            tally = self._tallies.setdefault(key, _Tally(group))
            tally.group = group
            listed.add(key)
        for key, tally in self._tallies.items():
            directories = tally.group.directories if key in listed else ()
            self._read(tally, directories, cores, gained, vanished)
        self._part_nested()
        self._share_tails(gained, vanished)
        uses = tuple(
            Use(group.workload, tally.cpu_ns, tally.memory_bytes, tally.cores_milli, group.since_ns)
            for tally in self._tallies.values()
            if (group := tally.group).workload is not None
        )
        # One that ended is reported of once more, with all that it used.
        self._tallies = {key: tally for key, tally in self._tallies.items() if key in listed}
        return uses

    def _read(
        self,
        tally: _Tally,
        directories: tuple[Path, ...],
        cores: int,
        gained: dict[Path, int],
        vanished: dict[Path, list[_Tally]],
    ) -> None:
        """Read a group; record its gain in each pool, and where a directory vanished."""
        resident, inodes = 0, set()
        tally.gained_ns = {}
        there = [(path, found) for path in directories if (found := tally.here(path))]
        for path, found in there:
            tally.gone.discard(path)
            if found.inode in inodes:
                continue  # one hierarchy under two names
            inodes.add(found.inode)
            if found.cpu and (used_ns := found.cpu_ns()) is not None:
                tally.gained_ns[path] = used_ns - tally.counted_ns.get(path, 0)
                tally.counted_ns[path] = used_ns
                pool = self._pool(tally, path)
                if pool is not None:
                    gained[pool] = gained.get(pool, 0) + tally.gained_ns[path]
            resident += found.memory_bytes()
        left = {*directories, *tally.counted_ns} - {path for path, _ in there} - tally.gone
        for path in left:
            tally.gone.add(path)
            tally.closed_ns += tally.counted_ns.pop(path, 0)
            pool = self._pool(tally, path)
            if pool is not None and tally not in vanished.setdefault(pool, []):
                vanished[pool].append(tally)
        tally.memory_bytes = resident
        self._ask_processes(tally, [path for path, _ in there])
        # On v1 the hierarchies come one after the other.
        if there and (tally.polls % _BOUNDS_EVERY == 0 or len(there) != tally.breadth):
            tally.breadth = len(there)
            bounds = [cgroup_counters.cores_milli(path, cores) for path, _ in there]
            reported = [bound for bound in bounds if bound is not None]
            tally.cores_milli = tally.group.cores_milli or min(reported, default=0)
        tally.polls += 1

    @staticmethod
    def _ask_processes(tally: _Tally, there: list[Path]) -> None:
        """Read the processes in and outside directories, where no directory counts CPU time."""
        asked = set(tally.group.pids)
        if there and not any(found.cpu for found in tally.known.values()):
            asked.update(pid for path in there for pid in cgroup_counters.pids(path))
        elif not asked:
            tally.processes_ns = 0
        if asked:
            tally.processes_ns = max(tally.processes_ns, cgroup_counters.processes_cpu_ns(asked))
            tally.memory_bytes = tally.memory_bytes or cgroup_counters.processes_memory_bytes(asked)

    def _part_nested(self) -> None:
        """What a cgroup inside another's used is its own alone (a SLURM job inside a pod)."""
        owners = {path: tally for tally in self._tallies.values() for path in tally.gained_ns}
        for path, inner in owners.items():
            outer = next((owners[above] for above in path.parents if above in owners), None)
            if outer is not None and outer is not inner:
                outer.closed_ns -= inner.gained_ns[path]
                outer.memory_bytes = max(outer.memory_bytes - inner.memory_bytes, 0)

    def _pool(self, tally: _Tally, path: Path) -> Path | None:
        """The directory that outlives one of the group's; `None` if none does, or counts no CPU."""
        known = tally.pools.get(path)
        if known is not None and known in self._pools:
            return known
        levels = tally.group.outlived_by
        if not levels or len(path.parents) < levels:
            return None
        pool = path.parents[levels - 1]
        if pool not in self._pools and cgroup_counters.cpu_ns(pool) is None:
            return None
        tally.pools[path] = pool
        return pool

    def _share_tails(self, gained: dict[Path, int], vanished: dict[Path, list[_Tally]]) -> None:
        """What a pool gained and no group did is of those that vanished from it."""
        for pool in {*gained, *vanished, *self._pools}:
            now_ns = cgroup_counters.cpu_ns(pool)
            if now_ns is None:
                self._pools.pop(pool, None)
                continue
            before_ns = self._pools.get(pool)
            self._pools[pool] = now_ns
            left = vanished.get(pool)
            if before_ns is None or not left:
                continue
            tail_ns = max(now_ns - before_ns - gained.get(pool, 0), 0)
            for i, tally in enumerate(left):
                tally.closed_ns += tail_ns * (i + 1) // len(left) - tail_ns * i // len(left)
