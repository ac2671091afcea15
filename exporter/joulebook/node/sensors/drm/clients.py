"""Which processes use a graphics card, and how much: the `drm-` lines of /proc/<pid>/fdinfo.

The format is in Documentation/gpu/drm-usage-stats.rst of the kernel. A process without an open file
below /dev/dri is checked again only after a while: most never have one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from joulebook.clock import Clock
from joulebook.core.energy.readings import DeviceStatus, ProcessUse, Reading
from joulebook.node.workloads.host.procfs import stat_of

_RECHECK_S = 10.0
_MOST_PIDS = 65_536
_MOST_BYTES = 16_384
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_MEMORY = ("drm-resident-vram", "drm-resident-local", "drm-memory-vram")
"""Board memory: of xe and amdgpu, of i915, of older amdgpu."""


class Client(NamedTuple):
    """The usage reported for one open file of a card."""

    pci: str
    number: str
    busy_ns: int
    memory_bytes: int


class ClientUsage(NamedTuple):
    """What one process uses of one card: busy time since it began, and memory now."""

    busy_ns: int
    memory_bytes: int


Users = Mapping[str, Mapping[tuple[int, int], ClientUsage]]
"""By PCI address, then by pid and start (node time, ns)."""


def parse(text: str) -> Client | None:
    """Return the usage in an fdinfo file; `None` if it is not a card's."""
    lines = dict(
        line.split(":", 1) for line in text.splitlines() if line.startswith("drm-") and ":" in line
    )
    pci = lines.get("drm-pdev", "").strip()
    if not pci:
        return None
    busy_ns, memory = 0, 0
    for key, value in lines.items():
        words = value.split()
        if not words or not words[0].isdecimal():
            continue
        number = int(words[0])
        if key.startswith("drm-engine-") and words[1:] == ["ns"]:
            busy_ns += number
        elif key.rstrip("0123456789") in _MEMORY:
            memory += number * _UNITS.get(words[1] if len(words) > 1 else "", 1)
    return Client(pci, lines.get("drm-client-id", "").strip(), busy_ns, memory)


class Clients:
    """The users of all cards, by looking at every process that has one open."""

    def __init__(self, proc: Path, clock: Clock) -> None:
        self._proc = str(proc)
        self._clock = clock
        self._without: dict[int, float] = {}
        self._before: dict[tuple[str, int, int], int] = {}
        self._memory: dict[str, int] = {}
        self.files: Mapping[str, str] = {}
        """Which card, or partition of one, a file below /dev/dri is: all of one card report its
        address."""

    def scan(self) -> Users:
        """Read all processes."""
        users: dict[str, dict[tuple[int, int], ClientUsage]] = {}
        now = time.monotonic()
        pids = [int(name) for name in _names(self._proc) if name.isdecimal()][:_MOST_PIDS]
        for pid in pids:
            if now < self._without.get(pid, 0.0):
                continue
            found = list(self._open_cards(pid))
            if not found:
                self._without[pid] = now + _RECHECK_S
                continue
            who = (pid, self._started_ns(pid))
            for client in {(c.pci, c.number): c for c in found}.values():
                card = users.setdefault(client.pci, {})
                sofar = card.get(who, ClientUsage(0, 0))
                card[who] = ClientUsage(
                    sofar.busy_ns + client.busy_ns, sofar.memory_bytes + client.memory_bytes
                )
        alive = set(pids)
        self._without = {pid: at for pid, at in self._without.items() if pid in alive}
        self._memory = {
            pci: sum(used.memory_bytes for used in by.values()) for pci, by in users.items()
        }
        return users

    def reported(self, reading: Reading, pci: str, users: Users | None) -> Reading:
        """Return a reading with the processes on its card, if requested."""
        if users is None:
            return reading
        found = users.get(pci, {})
        processes = tuple(
            ProcessUse(pid, started_ns, self._since(pci, pid, started_ns, used), used.memory_bytes)
            for (pid, started_ns), used in sorted(found.items())
        )
        self._before = {
            **{key: value for key, value in self._before.items() if key[0] != pci},
            **{(pci, pid, started): used.busy_ns for (pid, started), used in found.items()},
        }
        return msgspec.structs.replace(reading, processes=processes)

    def memory(self, status: DeviceStatus, pci: str) -> DeviceStatus:
        """Return a status with the memory that processes use, if the driver does not report it."""
        if "memory_used_bytes" in status.values or pci not in self._memory:
            return status
        values = {**status.values, "memory_used_bytes": float(self._memory[pci])}
        return msgspec.structs.replace(status, values=values)

    def _since(self, pci: str, pid: int, started_ns: int, used: ClientUsage) -> int | None:
        """Busy time since the scan before; `None` where the driver counts none."""
        if not used.busy_ns:
            return None
        return max(used.busy_ns - self._before.get((pci, pid, started_ns), 0), 0)

    def _open_cards(self, pid: int) -> Iterator[Client]:
        directory = f"{self._proc}/{pid}"
        for number in _names(f"{directory}/fd"):
            try:
                target = os.readlink(f"{directory}/fd/{number}")  # noqa: PTH115 (half the time)
                if not target.startswith("/dev/dri/"):
                    continue
                with Path(f"{directory}/fdinfo/{number}").open("rb") as file:
                    text = file.read(_MOST_BYTES).decode("utf-8", "replace")
            except OSError:
                continue
            client = parse(text)
            if client is not None:
                pci = self.files.get(target.removeprefix("/dev/dri/"), client.pci)
                yield client._replace(pci=pci)

    def _started_ns(self, pid: int) -> int:
        """Return when a process began, in node time; 0 if it is gone."""
        stat = stat_of(pid, Path(self._proc))
        return 0 if stat is None else stat.started_boottime_ns - self._clock.boottime_ns(0)


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 (names are enough, and there are thousands)
    except OSError:
        return []
