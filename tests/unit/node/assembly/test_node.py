from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from joulebook.config import Config
from joulebook.config.node import Slurm, Tenants
from joulebook.config.sensors import Host, Nvml, Sensors
from joulebook.config.workloads import Marks, Processes
from joulebook.errors import ConfigError
from joulebook.node.assembly import sensors, workloads
from joulebook.node.assembly.node import Node
from joulebook.node.workloads.host import procfs


def with_slurm(**settings: object) -> Config:
    slurm = msgspec.structs.replace(Slurm(), **settings)
    return msgspec.structs.replace(Config(), tenants=Tenants(slurm=slurm))


def test_event_files_that_are_set_to_come_elsewhere_are_slurm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: path == tmp_path / "slurm.conf")
    assert not workloads.slurm_is_here(Config())
    assert workloads.slurm_is_here(with_slurm(slurm_conf=str(tmp_path / "slurm.conf")))
    assert workloads.slurm_is_here(with_slurm(events_dir=str(tmp_path / "not yet")))
    wanted, _ = workloads.WORKLOAD_SOURCES["slurm"]
    assert not wanted(with_slurm(events_dir="/elsewhere", enabled=False))


def test_a_node_does_not_carry_what_it_does_not_have(repository: Path) -> None:
    code = (
        "import sys, joulebook.commands.daemon.run;"
        "heavy = {'h2', 'grpc', 'google.protobuf', 'kubernetes', 'urllib3', 'psutil', 'pynvml',"
        " 'bcrypt', 'yaml', 'joulebook.rates', 'joulebook.kubernetes_api',"
        " 'joulebook.node.sensors.nvidia', 'joulebook.node.sensors.drm',"
        " 'joulebook.node.workloads.slurm'} & set(sys.modules);"
        "assert not heavy, heavy; ours = [n for n in sys.modules if n.startswith('joulebook.')];"
        "assert len(ours) < 160 and len(sys.modules) < 520, (len(ours), len(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": str(repository / "exporter")}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_pids_of_the_driver_are_looked_up_only_where_they_mean_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(procfs, "HOST_PID_NAMESPACE", 1)  # this is another namespace, then
    (tmp_path / "2").mkdir()
    (tmp_path / "2/comm").write_text("kthreadd\n")
    nvml = Sensors(nvml=Nvml(enabled=True))
    blind = Config(host=Host(proc=str(tmp_path / "none")), sensors=nvml)
    assert sensors.proc_of_driver(blind) is None
    assert "hostPID" in workloads.unseen(blind)
    assert not workloads.processes_wanted(blind)
    with pytest.raises(ConfigError, match=r"host\.proc"):
        workloads.processes_wanted(
            msgspec.structs.replace(blind, tenants=Tenants(processes=Processes(enabled=True)))
        )
    seeing = msgspec.structs.replace(blind, host=Host(proc=str(tmp_path)))
    assert sensors.proc_of_driver(seeing) == tmp_path
    assert not workloads.unseen(seeing)
    assert workloads.processes_wanted(seeing)
    # A system call with such a pid, or a pid that a program wrote down, would be another process's.
    assert not workloads.driver_pids_are_own(seeing)
    assert not workloads.marks_wanted(seeing)
    with pytest.raises(ConfigError, match="its own PID namespace"):
        workloads.marks_wanted(msgspec.structs.replace(seeing, marks=Marks(enabled=True)))
    said = Config(tenants=Tenants(processes=Processes(pid_namespace="host")))
    assert sensors.proc_of_driver(said) == Path("/proc")
    assert workloads.driver_pids_are_own(said)


def test_a_daemon_whose_http_server_has_ended_gives_no_sign_of_life() -> None:
    server = SimpleNamespace(alive=True)
    health = SimpleNamespace(healthy=lambda: (True, "healthy"))
    node = Node(cast(Any, None), cast(Any, health), cast(Any, server), "", ExitStack(), idle=False)
    assert node.healthy() == (True, "healthy")
    server.alive = False
    assert node.healthy() == (False, "the HTTP server has ended: nothing is served")
