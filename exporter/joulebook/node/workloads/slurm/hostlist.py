"""Lists of names as SLURM writes them, of hosts and of device files."""

from __future__ import annotations

import re

_PART = re.compile(r"\[([\d,-]*)\]")
_MAX_EXPANSION = 4096
"""The most names of one list; a longer one is cut off."""
_DIGITS = 40


def expand(hostlist: str) -> tuple[str, ...]:
    """Expand a SLURM host or file list: `r[1-2]n[1-3,07],login` -> r1n1 ... r2n07 login."""
    names: list[str] = []
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", hostlist):
        found = [""]
        # Text and the insides of brackets by turns.
        for at, piece in enumerate(_PART.split(item)):
            more = _numbers(piece) if at % 2 else [piece]
            found = [a + b for a in found for b in more][:_MAX_EXPANSION]
        names += found
    return tuple(names[:_MAX_EXPANSION])


def _numbers(inside: str) -> list[str]:
    numbers: list[str] = []
    for part in inside.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()) or len(part) > _DIGITS:
            continue
        end = min(int(last or first), int(first) + _MAX_EXPANSION)
        numbers += [f"{number:0{len(first)}d}" for number in range(int(first), end + 1)]
    return numbers
