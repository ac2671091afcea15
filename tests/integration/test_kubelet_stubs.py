"""The committed stubs of the pod-resources service, made again by the generator of Debian."""

from __future__ import annotations

import subprocess
from pathlib import Path


def test_the_stubs_are_what_the_generator_makes_of_the_proto(
    repository: Path, tmp_path: Path
) -> None:
    folder = repository / "exporter/joulebook/node/workloads/kubernetes"
    text = (folder / "podresources_pb2.py").read_text()
    # A newer generator would refuse every runtime older than itself.
    assert "runtime_version" not in text
    version = subprocess.run(["protoc", "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.strip().startswith("libprotoc 3.21."), "the generator of Debian 12 and 13"
    subprocess.run(
        ["protoc", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", "podresources.proto"],
        cwd=folder,
        check=True,
    )
    for name in ("podresources_pb2.py", "podresources_pb2.pyi"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
