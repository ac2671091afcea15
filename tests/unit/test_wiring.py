from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from joulebook import wiring_tenants
from joulebook.config import Config
from joulebook.config.sections import Slurm, Tenants


def with_slurm(**settings: object) -> Config:
    slurm = msgspec.structs.replace(Slurm(), **settings)
    return msgspec.structs.replace(Config(), tenants=Tenants(slurm=slurm))


def test_event_files_that_are_set_to_come_elsewhere_are_slurm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: path == tmp_path / "slurm.conf")
    assert not wiring_tenants.slurm_is_here(Config())
    assert wiring_tenants.slurm_is_here(with_slurm(slurm_conf=str(tmp_path / "slurm.conf")))
    assert wiring_tenants.slurm_is_here(with_slurm(events_dir=str(tmp_path / "not yet")))
    wanted, _ = wiring_tenants.TENANTS["slurm"]
    assert not wanted(with_slurm(events_dir="/elsewhere", enabled=False))


def test_a_node_without_kubernetes_does_not_carry_its_libraries(repository: Path) -> None:
    code = (
        "import sys, joulebook.wiring;"
        "heavy = {'grpc', 'google.protobuf', 'kubernetes'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    env = {**os.environ, "PYTHONPATH": str(repository / "exporter")}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
