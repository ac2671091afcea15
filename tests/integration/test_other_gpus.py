"""AMD's and Intel's cards through the whole daemon: held by a job, named like all others."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.e2e.lab import Daemon, until
from tests.fakes.nvml.scenario import Gpu, Scenario
from tests.fakes.sysfs.machine import Machine, gpu_metrics, put
from tests.fakes.sysfs.shapes import SHAPES

pytestmark = pytest.mark.integration

BOOKED = (
    "SELECT meters.name, sum(energy_uj) FROM postings JOIN meters ON meters.id = meter_id "
    "JOIN workloads ON workloads.id = workload_id WHERE workload = '7' AND component = 'gpu' "
    "GROUP BY meters.name"
)


def daemon_of(tmp_path: Path, machine: Machine, gres: str) -> Daemon:
    """A daemon on `machine` alone, with a gres.conf and an event of job 7, which has GPU 0."""
    (tmp_path / "gres.conf").write_text(gres)
    events = tmp_path / "events"
    events.mkdir()
    event = {
        "v": 1, "scheduler": "slurm", "job_id": "7", "restart_count": 0, "gpus": ["0"],
        "user": "ada", "uid": 1000, "account": "nlp", "partition": "p",
        "start_ns": time.time_ns(),
    }  # fmt: skip
    (events / "7.0.json").write_text(json.dumps(event))
    settings: Mapping[str, str] = {
        "JOULEBOOK_NODE_NAME": "n1",
        "JOULEBOOK_SENSORS_NVML_ENABLED": "false",
        "JOULEBOOK_SENSORS_DRM_ENABLED": "true",
        "JOULEBOOK_SENSORS_DRM_ROOT": str(machine.drm),
        "JOULEBOOK_HOST_PROC": str(machine.proc),
        "JOULEBOOK_TENANTS_SLURM_GRES_CONF": str(tmp_path / "gres.conf"),
        "JOULEBOOK_TENANTS_SLURM_SCONTROL": "",
        "JOULEBOOK_TENANTS_SLURM_CGROUP_ROOT": str(tmp_path / "no-cgroups"),
    }
    scenario = Scenario.create(tmp_path / "scenario", [Gpu(minor=0)])
    return Daemon(tmp_path / "daemon", scenario, events, settings)


def info(daemon: Daemon) -> dict[str, str]:
    """The vendor of each GPU, by what it is called."""
    return {
        dict(labels)["uuid"]: dict(labels)["vendor"]
        for (name, labels) in daemon.metrics()
        if name == "joulebook_gpu_info"
    }


def test_a_job_holds_an_amd_card(tmp_path: Path) -> None:
    machine = SHAPES["mi300"](tmp_path / "host")
    tables = [
        machine.root / f"sys/devices/{pci}/gpu_metrics" for pci in ("0000:05:00.0", "0000:26:00.0")
    ]
    gres = "Name=gpu File=/dev/dri/renderD130\nName=gpu File=/dev/dri/renderD129\n"
    with daemon_of(tmp_path, machine, gres) as daemon:
        assert set(info(daemon).values()) == {"amd"} and len(info(daemon)) == 2
        count = 1 << 30
        held = "AMD-a1b2c3d4e5f60712"  # position 0 is renderD130, the second card

        def consumed() -> int:
            nonlocal count
            count += 1_000_000  # 15 J in a tenth of a second or so
            for table in tables:
                fresh = table.with_suffix(".new")
                fresh.write_bytes(gpu_metrics(4, count, power_w=150, gfx=90))
                fresh.replace(table)
            time.sleep(0.1)
            return int(dict(daemon.rows(BOOKED)).get(held, 0))

        until("the job to have energy", lambda: consumed() > 100_000_000, 60)
        assert daemon.rows(BOOKED)[0][0] == held and len(daemon.rows(BOOKED)) == 1
        gauges = {(n, dict(ls).get("uuid")): v for (n, ls), v in daemon.metrics().items()}
        assert gauges["joulebook_gpu_utilization_ratio", held] == 0.0  # as the kernel's file says
        assert gauges["joulebook_gpu_memory_total_bytes", held] == 192 << 30


def test_a_job_holds_an_intel_card(tmp_path: Path) -> None:
    machine = SHAPES["xe"](tmp_path / "host")
    hwmon = next((machine.root / "sys/devices/0000:4d:00.0").glob("hwmon/hwmon*"))
    with daemon_of(tmp_path, machine, "Name=gpu File=/dev/dri/card0\n") as daemon:
        assert set(info(daemon).values()) == {"intel"}
        count = 5_000_000

        def consumed() -> int:
            nonlocal count
            count += 15_000_000
            put(hwmon / "energy1_input.new", str(count))
            (hwmon / "energy1_input.new").replace(hwmon / "energy1_input")
            time.sleep(0.1)
            return int(dict(daemon.rows(BOOKED)).get("INTEL-0000:4d:00.0", 0))

        until("the job to have energy", lambda: consumed() > 100_000_000, 60)
