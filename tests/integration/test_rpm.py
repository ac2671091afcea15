"""The RPM spec lays out the same tree as the Debian package."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def listed(package: Path, *what: str) -> set[str]:
    done = subprocess.run(
        ["rpm", "-qp", *what, str(package)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return set(done.stdout.split())


@pytest.mark.timeout(900)
def test_the_spec_makes_a_package(package_tree: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *["rpmbuild", "-bb", "--nodeps"],
            *["--define", f"_sourcedir {ROOT}", "--define", f"_topdir {tmp_path}"],
            # Packing well takes longer than all the rest.
            *["--define", "_binary_payload w1.gzdio"],
            str(ROOT / "packaging" / "rpm" / "joulebook.spec"),
        ],
        env={**os.environ, "HOME": str(tmp_path), "TREE": str(package_tree)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (package,) = tmp_path.glob("RPMS/*/*.rpm")
    assert listed(package, "--configfiles") == {
        "/etc/joulebook/joulebook.toml",
        "/etc/joulebook/hooks.conf",
    }
    assert listed(package, "--list") >= {
        "/usr/bin/joulebook",
        "/usr/lib/joulebook/hooks/prolog.sh",
        "/usr/lib/joulebook/venv/bin/joulebook",
        "/usr/lib/systemd/system/joulebook.service",
        "/usr/share/bash-completion/completions/joulebook",
        "/usr/share/doc/joulebook/docs/deploy/slurm.md",
        "/usr/lib/sysusers.d/joulebook.conf",
        "/usr/lib/tmpfiles.d/joulebook.conf",
    }
    assert any(name.startswith("/usr/share/man/man1/joulebook.1") for name in listed(package, "-l"))
    scripts = " ".join(listed(package, "--scripts"))
    assert "systemd-sysusers" in scripts
