"""What a Kubernetes node costs: memory and CPU of the daemon, and calls to API server and kubelet.

Thirty pods on eight cards, half of which hold a card's replica and work on it; every other second
one ends and another begins. Kubelet and API server are the stand-ins of the tests, cgroups and
processes are real, so this needs root.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.lab import get
from tests.e2e.pod_lab import Pod, PodLab

from benchmarks.machine import cpu_ns, memory, pin
from benchmarks.table import Table

GPUS, PODS, REPLICAS = 8, 30, 2
SHARED = "nvidia.com/gpu.shared"
CHURN_S = 2.0
SCRAPE_EVERY_S = 15.0


def run(args: argparse.Namespace) -> list[Table]:
    """Start the pods, churn them for a while, and count."""
    duration_s = 60.0 if args.quick else 300.0
    with tempfile.TemporaryDirectory(prefix="jb-", dir="/tmp") as folder:
        home = Path(folder)
        with (
            PodLab(home, gpus=GPUS) as lab,
            lab.daemon(home / "daemon", JOULEBOOK_DAEMON_COMMIT_S="10") as daemon,
        ):
            assert daemon.process is not None
            pid = daemon.process.pid
            pin(pid, last=True)
            offered = [f"{card}::{n}" for card in lab.cards for n in range(REPLICAS)]
            lab.kubelet.advertise(SHARED, *offered)
            free = list(offered)
            started = _starting(lab, free)
            pods = [next(started) for _ in range(PODS)]
            time.sleep(10)
            asked, calls, used_ns = lab.kubelet.calls.copy(), lab.api.calls.copy(), cpu_ns(pid)
            began = time.monotonic()
            scrape_at, churned = began, 0
            while (now := time.monotonic()) < began + duration_s:
                if now >= scrape_at:
                    get(f"{daemon.url}/metrics")
                    scrape_at += SCRAPE_EVERY_S
                _end(lab, pods.pop(0), free)
                pods.append(next(started))
                churned += 1
                time.sleep(max(0.0, CHURN_S - (time.monotonic() - now)))
            hours = (time.monotonic() - began) / 3600
            cpu = 100 * (cpu_ns(pid) - used_ns) / (hours * 3600e9)
            fills = memory(pid, [lab.scenario.path])
            for pod in pods:
                _end(lab, pod, free)
    table = Table(
        f"A Kubernetes node: {GPUS} GPUs, {PODS} pods, one ends and one begins every "
        f"{CHURN_S:.0f} s",
        ["RSS MiB", "PSS MiB", "CPU % of a core", "kubelet calls/h", "API calls/h",
         "API calls since start", "pods churned"],
    )  # fmt: skip
    since = lab.api.calls - calls
    table.add(
        fills.rss, fills.pss, cpu, (lab.kubelet.calls - asked).total() / hours,
        since.total() / hours, ", ".join(f"{n} {name}" for name, n in sorted(calls.items())),
        churned,
    )  # fmt: skip
    table.notes.append(
        f"{duration_s:.0f} s; half of the pods hold one of {REPLICAS} replicas of a card and work "
        f"on it; a scrape every {SCRAPE_EVERY_S:.0f} s; a watch is renewed every 50 to 60 minutes"
    )
    return [table]


def _starting(lab: PodLab, free: list[str]) -> Iterator[Pod]:
    for number in itertools.count():
        if number % 2 and free:
            device = free.pop(0)
            pod = lab.start(f"train-{number}", {SHARED: [device]}, owner=("Job", f"job{number}"))
            lab.burn(pod, lab.cards.index(device.split("::")[0]), 80, sm=40)
        else:
            pod = lab.start(f"web-{number}", labels={"app": "web"})
        yield pod


def _end(lab: PodLab, pod: Pod, free: list[str]) -> None:
    lab.end(pod, listed_s=0)
    lab.delete(pod)
    free.extend(device for ids in pod.devices.values() for device in ids)
