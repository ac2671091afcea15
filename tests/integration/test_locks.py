"""The locks hold a binary wheel, with its hash, for every Python and machine that we name.

Python 3.11 is what the Debian package is built with in these tests, and 3.13 the image.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("python", "machine"),
    [("3.12", "x86_64"), ("3.13", "aarch64"), ("3.14", "x86_64"), ("3.14", "aarch64")],
)
def test_every_package_has_a_wheel(python: str, machine: str, tmp_path: Path) -> None:
    platforms = [f"--platform={kind}_{machine}" for kind in ("manylinux2014", "manylinux_2_28")]
    done = subprocess.run(
        [
            *[sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"],
            *["--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:"],
            *[f"--python-version={python}", "--implementation=cp", *platforms],
            *["--target", str(tmp_path), "--require-hashes"],
            *["-r", str(ROOT / "requirements-postgresql.lock")],
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
