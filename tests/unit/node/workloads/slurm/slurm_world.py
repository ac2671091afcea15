"""A host for SLURM tenants without SLURM: event files, cgroup directories, a scontrol script."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from joulebook.clock import NodeClock
from joulebook.core.attribution.claims import Claim
from joulebook.core.energy.readings import Component, DeviceStatus, Meter
from joulebook.core.workloads import WorkloadFacts
from joulebook.node.workloads.contract import NOTHING_HELD, Before, Holdings
from joulebook.node.workloads.slurm.source import SlurmSite, SlurmWorkloads

T = TypeVar("T")

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

RECORD = """JobId={job} {array}JobName={name}
   UserId=ada({uid}) GroupId=ada(1000) MCS_label=N/A
   Priority=4294901759 Nice=0 Account={account} QOS=high WCKey={wckey}
   JobState={state} Reason=None Dependency=(null)
   Requeue=1 Restarts={restarts} BatchFlag=1 Reboot=0 ExitCode=0:0
   DerivedExitCode=0:0
   RunTime=00:00:00 TimeLimit=UNLIMITED TimeMin=N/A
   SubmitTime={start} EligibleTime={start}
   StartTime={start} EndTime={end} Deadline=N/A
   Partition=a100 AllocNode:Sid=x:1
   NodeList={node}
   BatchHost={node}
   JOB_GRES={total}
     Nodes={node} CPU_IDs=0 Mem=0 GRES={gres}
   MinCPUsNode=1 MinMemoryNode=0 MinTmpDiskNode=0
   Command=/home/ada/run.sh
   WorkDir=/home/ada
   Comment={comment}
   StdErr=/dev/null
   Power=

"""


class World:
    """Nodes are called by what the cgroup directory is called; n1 unless reported otherwise."""

    def __init__(self, path: Path, gres_conf: str = "Name=gpu File=/dev/nvidia[0-3]\n") -> None:
        self.path = path
        self.events = path / "jobs"
        self.root = path / "cgroup"
        self.asked = path / "asked"
        self.records = path / "records"
        for each in (self.events, self.root / "freezer", self.root / "memory", self.records):
            each.mkdir(parents=True)
        self.asked.touch()
        (path / "config").write_text("PrivateData             = none\n")
        (path / "gres.conf").write_text(gres_conf)
        self.scontrol = path / "scontrol"
        self.scontrol.write_text(
            f'#!/bin/sh\n[ "$2" = config ] && {{ cat {path}/config; exit 0; }}\n'
            f'echo "${{4:-all}}" >> {self.asked}\n'
            f"[ -f {path}/silent ] && exit 1\n"
            f"[ -f {path}/delay ] && sleep $(cat {path}/delay)\n"
            f'[ -n "$4" ] || {{ cat {self.records}/* 2>/dev/null; exit 0; }}\n'
            f"[ -f {self.records}/$4 ] || {{ echo Invalid job id specified >&2; exit 1; }}\n"
            f"cat {self.records}/$4\n"
        )
        self.scontrol.chmod(0o755)
        squeue = path / "squeue"  # of jobs by number: it has what scontrol has
        squeue.write_text('#!/bin/sh\necho "$5" | tr , "\\n"\n')
        squeue.chmod(0o755)
        self.devices = [
            DeviceStatus(Meter(Component.GPU, f"GPU-{n}"), n, 0, model=f"M{n // 2}", minor=n)
            for n in range(4)
        ]
        self.clock = NodeClock()
        self.boundaries: list[int] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.facts: dict[str, WorkloadFacts] = {}
        self.options: dict[str, Any] = {}
        self.tenants = self._new()

    def _new(self) -> SlurmWorkloads:
        return SlurmWorkloads(
            self.clock,
            SlurmSite(
                events_dir=self.events,
                cgroup_root=self.root,
                node="n1",
                slurm_conf=self.path / "slurm.conf",
                slurmd="",
                **{"scontrol": str(self.scontrol), "ask_timeout_s": 2.0, **self.options},
            ),
        )

    def open(self, before: Before = NOTHING_HELD) -> None:
        self.tenants.open(self.boundaries.append, before)

    def restart(self, *, forget: bool = True) -> None:
        """Another daemon: `forget` the ledger, or go on from what it holds."""
        before = NOTHING_HELD if forget else self.before()
        self.tenants.close()
        self.facts.clear()
        self.tenants = self._new()
        self.open(before)

    def before(self) -> Before:
        """What a ledger would hold now."""
        held = self.poll(settle=False)
        return Before(
            tuple(f for f in self.facts.values() if f.ended_ns is None),
            tuple(c for c in held.claims if c.t1_ns is None),
            self.clock.now_ns(),
        )

    def close(self) -> None:
        self.tenants.close()
        for process in self.processes:
            process.kill()
            process.wait()

    # -- what happens on the host

    def event(self, job: str, *gpus: str, **fields: object) -> dict[str, Any]:
        content: dict[str, Any] = {
            "v": 1, "scheduler": "slurm", "job_id": job, "restart_count": 0, "gpus": list(gpus),
            "user": "ada", "uid": os.getuid(), "account": "nlp", "start_ns": time.time_ns(),
            "boot_id": BOOT,
        }  # fmt: skip
        content.update(fields)
        return content

    def prolog(self, job: str, *gpus: str, **fields: object) -> dict[str, Any]:
        content = self.event(job, *gpus, **fields)
        self.put(f"{job}.{content['restart_count']}.json", content)
        return content

    def epilog(self, content: dict[str, Any]) -> None:
        stem = f"{content['job_id']}.{content['restart_count']}"
        self.put(f"{stem}.end", {"end_ns": time.time_ns(), **content})
        (self.events / f"{stem}.json").unlink()

    def put(self, name: str, content: dict[str, Any] | bytes) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        (self.events / ".t").write_bytes(raw)
        (self.events / ".t").rename(self.events / name)

    def cgroup(
        self, job: str, *, pids: Iterable[int] = (), node: str = "n1", extern: bool = True
    ) -> Path:
        path = self.root / "freezer" / f"slurm_{node}" / f"uid_{os.getuid()}" / f"job_{job}"
        steps = [path / "step_batch", *([path / "step_extern"] if extern else [])]
        for each in steps:
            each.mkdir(parents=True)
        for each in (path, *steps):
            (each / "cgroup.procs").touch()
        (path / "step_batch" / "cgroup.procs").write_text("".join(f"{p}\n" for p in pids))
        return path

    def cgroup_is_known(self, job_id: str) -> bool:
        """Whether the source has seen a cgroup of the job."""
        return any(job.job_id == job_id and job.paths for job in self.tenants._table)

    def cgroup_gone(self, path: Path) -> None:
        shutil.rmtree(path)

    def process(self, job: str, **env: str) -> int:
        process = subprocess.Popen(["sleep", "600"], env={"SLURM_JOB_ID": job, **env})
        self.processes.append(process)
        return process.pid

    def record(self, job: str, **fields: object) -> None:
        values: dict[str, object] = {
            "job": job, "array": "", "name": "train_1", "uid": os.getuid(), "state": "RUNNING",
            "restarts": 0, "node": "n1", "gres": "gpu:1(IDX:0)", "total": "gpu:1", "comment": "",
            "start": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()), "end": "Unknown",
            "account": "nlp", "wckey": "(null)",
        }  # fmt: skip
        (self.records / job).write_text(RECORD.format(**{**values, **fields}))

    # -- what the tenants say

    def poll(self, *, settle: bool = True) -> Holdings:
        held = self.tenants.holdings(self.devices)
        self.facts.update({fact.id.workload: fact for fact in held.facts})
        if settle:
            self.tenants.settled()
        return held

    def claims(self, *, settle: bool = False) -> dict[str | None, list[Claim]]:
        found: dict[str | None, list[Claim]] = {}
        for claim in self.poll(settle=settle).claims:
            found.setdefault(claim.workload.workload if claim.workload else None, []).append(claim)
        return found

    def until(self, done: Callable[[], T | None], timeout_s: float = 60) -> T:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            found = done()
            if found:
                return found
            time.sleep(0.005)
        raise AssertionError(f"not in {timeout_s} s: {self.poll(settle=False)} {self.facts}")

    def questions(self) -> list[str]:
        return self.asked.read_text().split()
