# SPDX-License-Identifier: Apache-2.0
"""Compile the fake driver and its job helper with gcc, once for each source and set of flags."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")

Layout = Literal[24, 32, 40]


def build(out_dir: Path, *, layout: Layout = 24, uptime: bool = True) -> Path:
    """Return the fake `libnvidia-ml.so.1`; put its directory on LD_LIBRARY_PATH.

    `layout` is the size in bytes of one process-list entry: 24 as the binding expects, 32 as early
    R535 drivers had it, or 40. `uptime` says whether `nvmlDeviceGetGpuUptime_v1` exists.
    """
    flags = ("-shared", "-fPIC", f"-DPROCESS_ENTRY_BYTES={layout}", f"-DWITH_UPTIME={int(uptime)}")
    return _compile(out_dir, HERE / "nvml_fake.c", "libnvidia-ml.so.1", flags)


def build_power(out_dir: Path) -> Path:
    """Return the `fake_power` program (see power.c)."""
    return _compile(out_dir, HERE / "power.c", "fake_power", ())


def _compile(out_dir: Path, source: Path, name: str, flags: tuple[str, ...]) -> Path:
    key = hashlib.sha256("\0".join((*FLAGS, *flags)).encode())
    for file in (HERE / "scenario.h", source):
        key.update(file.read_bytes())
    target = out_dir.resolve() / f"{source.stem}-{key.hexdigest()[:16]}" / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Test workers may build at once: each compiles its own file, the last rename wins.
        descriptor, temporary = tempfile.mkstemp(dir=target.parent)
        os.close(descriptor)
        subprocess.run(["gcc", *FLAGS, *flags, str(source), "-o", temporary], check=True)
        Path(temporary).chmod(0o755)
        Path(temporary).rename(target)
    return target
