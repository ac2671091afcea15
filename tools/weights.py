#!/usr/bin/env python3
"""Prints what each installed distribution weighs on disk, without byte code, in MiB."""

from importlib.metadata import Distribution, distributions

MIB = 2**20


def weight_bytes(distribution: Distribution) -> int:
    """All files that the distribution's record names and that are there."""
    paths = (file.locate() for file in distribution.files or () if file.suffix != ".pyc")
    return sum(path.stat().st_size for path in paths if path.is_file())  # type: ignore[attr-defined]


for found in sorted(distributions(), key=lambda d: d.name.lower()):
    print(f"{weight_bytes(found) / MIB:6.1f}  {found.name} {found.version}")
