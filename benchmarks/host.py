"""What the energy of the host costs: RAPL read, cgroups counted, a tick's energy shared out."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fakes.sysfs.machine import put
from tests.fakes.sysfs.shapes import intel_two_sockets

from benchmarks.table import Cell, Table, median, quantile
from joulebook.clock import NodeClock
from joulebook.core.ledger.advance import BookingPolicy, Tick, advance
from joulebook.core.ledger.state import Books
from joulebook.core.workloads import WorkloadId
from joulebook.node.sensors.rapl import RaplSensor
from joulebook.node.workloads.contract import UsageGroup
from joulebook.node.workloads.host.usage import HostUsageReader
from joulebook.units import NS_PER_S

JOBS = 64


def run(args: argparse.Namespace) -> list[Table]:
    """CPU time per tick of each step, on a fake machine of two sockets."""
    rounds = 50 if args.quick else 400
    with tempfile.TemporaryDirectory() as directory:
        return [_table(Path(directory), rounds)]


def _table(directory: Path, rounds: int) -> Table:
    machine = intel_two_sockets(directory / "host")
    clock = NodeClock()
    sensor = RaplSensor(clock, machine.powercap)
    sensor.open()
    use = HostUsageReader(clock, proc=machine.proc)
    groups = [_group(directory, job) for job in range(JOBS)]
    rows: list[Sequence[Cell]] = [
        _row("RAPL: a look at 4 zones", lambda: sensor.poll(processes=False), rounds),
        _row(f"snapshot of {JOBS} cgroups", lambda: use.snapshot(groups), rounds),
    ]
    books, policy = Books(), BookingPolicy(settle_ns=3 * NS_PER_S)

    def tick() -> None:
        nonlocal books
        readings = sensor.poll(processes=False).readings
        snapshot = use.snapshot(groups)
        assert snapshot is not None
        began = time.thread_time_ns()
        now_ns = max(clock.now_ns(), books.last_ns + 1)
        step = Tick(now_ns, readings=readings, snapshots=(snapshot,))
        books, _ = advance(books, step, policy)
        shares.append((time.thread_time_ns() - began) / 1e6)

    shares: list[float] = []
    for _ in range(rounds):
        tick()
        time.sleep(0.02)
    rows.append(_summary(f"advance: 4 meters among {JOBS} workloads", shares))
    return Table(
        "Energy of the host: CPU time of one tick",
        ["step", "ms p50", "ms p99", "% of a core at a tick of 1 s"],
        rows,
        notes=[f"{rounds} rounds; files of a fake sysfs, cgroup v2"],
    )


def _group(directory: Path, job: int) -> UsageGroup:
    path = directory / f"cgroup/slurmstepd.scope/job_{job}"
    put(path / "cpu.stat", f"usage_usec {job * 1_000_000}\nuser_usec 1\nsystem_usec 1")
    put(path / "memory.stat", "anon 1000000\nfile 5\nkernel 7\nshmem 9\n" + "x 1\n" * 40)
    put(path / "cpuset.cpus.effective", "0-1")
    put(path / "cpu.max", "max 100000")
    put(path.parent / "cpu.stat", "usage_usec 9000000000")
    return UsageGroup(WorkloadId("slurm", str(job)), (path,), outlived_by=1)


def _row(name: str, step: Callable[[], object], rounds: int) -> list[Cell]:
    times = []
    for _ in range(rounds):
        began = time.thread_time_ns()
        step()
        times.append((time.thread_time_ns() - began) / 1e6)
    return _summary(name, times)


def _summary(name: str, times: list[float]) -> list[Cell]:
    p50 = median(times)
    return [name, p50, quantile(times, 0.99), p50 / 10]
