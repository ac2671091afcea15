"""Names from the environment of a process: those that are asked for, and no others.

An environ holds tokens and keys beside the names wanted here, so nothing else leaves this file.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

MAX_BYTES = 1024 * 1024


def read_environ(process: Path, wanted: Collection[bytes]) -> dict[bytes, bytes] | None:
    """The values of `wanted` in the environment that `process` (`/proc/<pid>`) was started with.

    `None` if it is gone, or this daemon may not read it (SYS_PTRACE and DAC_READ_SEARCH).
    """
    try:
        with (process / "environ").open("rb") as file:
            raw = file.read(MAX_BYTES)
    except OSError:
        return None
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0"))
    return {name: value for name, _, value in pairs if name in wanted}
