"""Lists of names as SLURM writes them, of hosts and of device files."""

from __future__ import annotations

import re

_BRACKETS = re.compile(r"^([^\[\],]*)\[([\d,-]+)\]([^\[\],]*)$")
_MAX_EXPANSION = 4096
"""Names that one range may come to; a longer one is cut off."""


def expand(hostlist: str) -> tuple[str, ...]:
    """The names of a SLURM host or file list: `n[1-3,07],login` -> n1 n2 n3 n07 login."""
    names: list[str] = []
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", hostlist):
        found = _BRACKETS.match(item)
        if found is None:
            names.append(item)
            continue
        for part in found[2].split(","):
            first, _, last = part.partition("-")
            if not first.isdecimal() or (last and not last.isdecimal()):
                continue
            end = int(last or first)
            for number in range(int(first), min(end, int(first) + _MAX_EXPANSION) + 1):
                names.append(f"{found[1]}{number:0{len(first)}d}{found[3]}")
    return tuple(names)
