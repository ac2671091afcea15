"""A node for benchmarks: fake cards, processes on them, and SLURM jobs that hold shards of them.

Nothing of SLURM runs: event files are written as its Prolog and Epilog would, gres.conf says that
cards are shared out, and a script stands for `scontrol`. The processes are real ones (`sleep`), in
cgroups named as slurmstepd names them where this machine lets us make some.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.fakes.nvml.build import build
from tests.fakes.nvml.scenario import Gpu, Process, Scenario

ROOT = Path(__file__).parents[1]
BUILD = ROOT / ".build"
FIRST_JOB = 1000
FREEZER = Path("/sys/fs/cgroup/freezer")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

RECORD = """\
JobId=$job JobName=train
   UserId=ada({uid}) GroupId=ada({uid})
   Nice=0 Account=nlp QOS=normal
   JobState=RUNNING Reason=None
   Requeue=1 Restarts=0
   Partition=a100 AllocNode:Sid=x:1
     Nodes=bench CPU_IDs=0 Mem=0 GRES=shard:1(IDX:$position)
   Comment=experiment=e$(( $job % 16 ))
"""

SCONTROL = """\
#!/bin/sh
[ "$2" = job ] || exit 0
for job in ${{4:-$(ls {events} | sed -n 's/\\.0\\.json$//p')}}; do
position={position}
cat <<EOF
{record}
EOF
done
"""
"""Told of one job or of all that there are; of nothing else."""

RATES = {
    "JOULEBOOK_RATES_PUE": "1.3",
    "JOULEBOOK_RATES_PRICE_KIND": "constant",
    "JOULEBOOK_RATES_PRICE_PER_KWH": "0.2",
    "JOULEBOOK_RATES_CARBON_KIND": "constant",
    "JOULEBOOK_RATES_CARBON_GRAMS_PER_KWH": "400",
}
"""Electricity and CO2e are charged, at round figures."""


class World:
    """`gpus` cards, each shared by `per_gpu` jobs with one process each (0: nobody on it)."""

    def __init__(self, *, gpus: int = 8, per_gpu: int = 0) -> None:
        (BUILD / "bench").mkdir(parents=True, exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(dir=BUILD / "bench"))
        self.directory.chmod(0o755)
        self.events = self.directory / "events"
        self.events.mkdir()
        self.cgroups = self.directory / "cgroup"
        self.gpus, self.per_gpu = gpus, per_gpu
        self.scenario = Scenario.create(
            self.directory / "scenario",
            [
                Gpu(uuid=uuid(slot), minor=slot, tick_phase_ns=slot * 11_000_000)
                for slot in range(gpus)
            ],
        )
        self.in_cgroups = False
        self._boot_id = BOOT_ID.read_text().strip()
        self._own = FREEZER / f"joulebook-bench-{os.getpid()}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._slurm_files()

    def __enter__(self) -> Self:
        self.in_cgroups = self._may_make_cgroups() if self.per_gpu else False
        for gpu in range(self.gpus):
            if self.per_gpu:
                self.scenario.set_power(gpu, 250_000 + 10_000 * gpu)
                self.scenario.set_utilisation(gpu, gpu_pct=90, memory_pct=40)
            for _ in range(self.per_gpu):
                self._start_job(gpu)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        if self.in_cgroups:
            for path, _, _ in os.walk(self._own, topdown=False):
                with contextlib.suppress(OSError):
                    Path(path).rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def workloads(self) -> int:
        """How many jobs hold something from the start."""
        return len(self._processes)

    @property
    def library(self) -> Path:
        """The fake driver."""
        return build(BUILD / "fakes")

    def environment(self) -> dict[str, str]:
        """What any program needs to see the cards. Byte code is kept, as packages have it."""
        own = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        cache = {"PYTHONPYCACHEPREFIX": str(BUILD / "bench/pycache")}
        return {**own, **cache, **self.scenario.env(self.library)}

    def daemon_environment(self, port: int, *, priced: bool = False) -> dict[str, str]:
        """What `joulebook run` needs to be the daemon of this node, with rates or without."""
        tenants = "JOULEBOOK_TENANTS_SLURM_"
        return {
            **self.environment(),
            "PYTHONPATH": os.pathsep.join((str(ROOT / "exporter"), str(ROOT))),
            "JOULEBOOK_NODE_NAME": "bench",
            "JOULEBOOK_SERVER_LISTEN": f"127.0.0.1:{port}",
            "JOULEBOOK_LEDGER_PATH": str(self.directory / ("priced.db" if priced else "ledger.db")),
            "JOULEBOOK_SENSORS_NVML_ENABLED": "true",
            "JOULEBOOK_EXPOSITION_SCRAPE_INTERVAL_S": "1",
            f"{tenants}ENABLED": "true",
            f"{tenants}EVENTS_DIR": str(self.events),
            f"{tenants}CGROUP_ROOT": str(self.cgroups),
            f"{tenants}SLURM_CONF": str(self.directory / "slurm.conf"),
            f"{tenants}NODE_NAME": "bench",
            f"{tenants}SCONTROL": str(self.directory / "scontrol"),
            **(RATES if priced else {}),
        }

    # ---- jobs ------------------------------------------------------------------------------------

    def begin(self, job: str, gpu: int, *, start_ns: int | None = None) -> int:
        """Write the event file of a job as the Prolog does.

        Returns `perf_counter_ns` just before the file appeared under its name.
        """
        event: dict[str, Any] = {
            "v": 1, "scheduler": "slurm", "job_id": job, "restart_count": 0, "gpus": [uuid(gpu)],
            "gpu_ids": "uuid", "start_ns": start_ns or time.time_ns(),
            "user": "ada", "uid": os.getuid(), "account": "nlp", "partition": "a100",
            "comment": f"experiment=e{int(job) % 16}", "node": "bench", "boot_id": self._boot_id,
        }  # fmt: skip
        if self.per_gpu:
            event |= {"gpus": [str(gpu)], "gpu_ids": "gres"}
        return self._put(f"{job}.0.json", event)

    def end(self, job: str, *, end_ns: int | None = None) -> int:
        """Write what the Epilog writes, and remove the event file. Returns as `begin` does."""
        began = self.events / f"{job}.0.json"
        event = json.loads(began.read_bytes())
        renamed_ns = self._put(f"{job}.0.end", {**event, "end_ns": end_ns or time.time_ns()})
        began.unlink()
        return renamed_ns

    def _put(self, name: str, content: dict[str, Any]) -> int:
        temporary = self.events / f".{name}.tmp"
        temporary.write_text(json.dumps(content) + "\n")
        temporary.chmod(0o644)
        now_ns = time.perf_counter_ns()
        temporary.rename(self.events / name)
        return now_ns

    def _start_job(self, gpu: int) -> None:
        number = FIRST_JOB + len(self._processes)
        job = str(number)
        process = subprocess.Popen(
            ["sleep", "86400"], env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": job}
        )
        self._processes.append(process)
        below = f"slurm_bench/uid_{os.getuid()}/job_{job}/step_0"
        tree = self.cgroups / "freezer" / below
        tree.mkdir(parents=True)
        (tree / "cgroup.procs").write_text(f"{process.pid}\n")
        if self.in_cgroups:
            # Not at the top: the daemon of somebody else's test must not take these for jobs.
            own = self._own / below
            own.mkdir(parents=True)
            (own / "cgroup.procs").write_text(f"{process.pid}\n")
        busy = 5 + number % 7
        self.scenario.set_process(
            gpu, Process(pid=process.pid, memory_bytes=number << 20, sm_pct=busy, memory_pct=3)
        )
        self.begin(job, gpu)

    def _may_make_cgroups(self) -> bool:
        try:
            self._own.mkdir()
        except OSError:
            return False
        return (self._own / "cgroup.procs").exists()

    def _slurm_files(self) -> None:
        (self.directory / "slurm.conf").touch()
        gres = f"Name=gpu File=/dev/nvidia[0-{self.gpus - 1}]\n"
        if self.per_gpu:
            gres += f"Name=shard Count={self.gpus * self.per_gpu}\n"
        (self.directory / "gres.conf").write_text(gres)
        scontrol = self.directory / "scontrol"
        position = f"$(( ($job - {FIRST_JOB}) / {max(self.per_gpu, 1)} % {self.gpus} ))"
        record = RECORD.format(uid=os.getuid())
        scontrol.write_text(SCONTROL.format(events=self.events, position=position, record=record))
        scontrol.chmod(0o755)


def uuid(slot: int) -> str:
    """The UUID of a card."""
    return f"GPU-5a6b7c8d-0000-4000-8000-{slot:012x}"
