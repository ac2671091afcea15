"""The resource use of Joulebook itself, from `/proc/self` (60 us; `process_*` metrics).

prometheus-client has a collector of the same, but importing it costs 9.6 MiB of a daemon whose
aim is 50.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import msgspec

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ProcessStats(msgspec.Struct, frozen=True, gc=False):
    """Resource use of this process; `start_s` is its start in UTC seconds."""

    cpu_s: float
    resident_bytes: int
    virtual_bytes: int
    open_fds: int
    start_s: float


def process_stats(proc: Path = Path("/proc")) -> ProcessStats | None:
    """Read the statistics (proc(5)); `None` if `proc` does not have them."""
    try:
        # The command name, in parentheses, may itself contain spaces and parentheses.
        fields = (proc / "self/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return ProcessStats(
            cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
            resident_bytes=int(fields[21]) * _PAGE_BYTES,
            virtual_bytes=int(fields[20]),
            open_fds=len(os.listdir(proc / "self/fd")),  # noqa: PTH208 - no path for each
            start_s=_booted_s(proc) + int(fields[19]) / _TICKS_PER_S,
        )
    except (OSError, ValueError, IndexError, StopIteration):
        return None


@cache
def _booted_s(proc: Path) -> int:
    """When the machine was booted; asked once, for the file lists every interrupt before that."""
    lines = (proc / "stat").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("btime ")).split()[1])
