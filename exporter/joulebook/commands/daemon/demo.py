"""Simulated jobs for `joulebook run --demo`: event files like those of the SLURM hooks.

Only the jobs are simulated. The power is a recorded card's, and everything from the event files to
the status page is the code of a real node.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from joulebook.config import Config
from joulebook.config.node import Ledger, Slurm, Tenants
from joulebook.config.rates import CarbonSection, Hardware, Price, Rates
from joulebook.config.sensors import Nvml, Replay, Sensors
from joulebook.config.workloads import Marks


class DemoJob(NamedTuple):
    """One line of the timetable: owner, GPUs, start and end (seconds into the cycle)."""

    user: str
    account: str
    experiment: str
    gpus: tuple[int, ...]
    start_s: float
    end_s: float


CYCLE_S = 120.0

TIMETABLE = (
    DemoJob("ada", "nlp", "bert-base", (0,), 2, 55),
    DemoJob("grace", "vision", "resnet50-sweep", (1,), 4, 22),
    DemoJob("grace", "vision", "resnet50-sweep", (1,), 24, 41),
    DemoJob("grace", "vision", "resnet50-sweep", (1,), 43, 60),
    DemoJob("ada", "nlp", "bert-base", (0,), 58, 88),
    DemoJob("alan", "nlp", "tokenizer-tests", (1,), 62, 62.4),
    DemoJob("alan", "nlp", "tokenizer-tests", (1,), 63, 63.3),
    DemoJob("alan", "nlp", "tokenizer-tests", (1,), 64, 66),
    DemoJob("katherine", "physics", "notebook", (1,), 68, 114),
    DemoJob("edsger", "theory", "proof-search", (0,), 90, 116),
)
"""A lab's morning: runs, a sweep, tests of a third of a second, a notebook."""


RATES = Rates(
    zone="DE",
    pue=1.25,
    pue_source="the demo's example",
    price=Price(kind="constant", per_kwh=0.25, source="the demo's example"),
    carbon=CarbonSection(kind="country"),
    hardware={"*A100*": Hardware(per_gpu_hour=1.25), "*V100*": Hardware(per_gpu_hour=0.40)},
)
"""Rates that let the demo show cost and CO2e, unless the site has set its own."""


def demo_config(config: Config, directory: Path) -> Config:
    """Return the configuration of a demo below `directory`: two traces, jobs from event files only.

    A ledger path, address, interval or rates set by the user are kept.
    """
    place = directory / ".build" / "demo"
    ledger = config.ledger
    if ledger == Ledger():
        ledger = Ledger(path=str(place / "ledger.db"))
    return replace(
        config,
        ledger=replace(ledger, allow_volatile=True),
        # Only these two: the demo must not mix its jobs with real ones.
        sensors=Sensors(nvml=Nvml(enabled=False), replay=Replay(enabled=True, trace="a100,v100")),
        tenants=Tenants(
            slurm=Slurm(
                enabled=True,
                events_dir=str(place / "jobs"),
                cgroup_root=str(place / "no-cgroups"),
                scontrol="",
            ),
        ),
        marks=Marks(enabled=False),
        rates=RATES if config.rates == Rates() else config.rates,
        exposition=replace(config.exposition, scrape_interval_s=2),
    )


class DemoJobs:
    """Plays the timetable into `events_dir` in a loop."""

    def __init__(self, events_dir: Path, gpus: Sequence[str]) -> None:
        """Take the UUIDs that the timetable's numbers index (modulo their count)."""
        self._dir = events_dir
        self._gpus = gpus
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-jobs", daemon=True)
        # Job ids must never repeat, even after a restart of the demo.
        self._next_id = int(time.time()) - 1_700_000_000

    def start(self) -> None:
        """Start the first cycle."""
        self._dir.mkdir(parents=True, exist_ok=True)
        self._dir.chmod(0o755)
        for left in self._dir.glob("*.json"):  # left by a demo that was killed
            left.unlink()
        self._thread.start()

    def stop(self) -> None:
        """Stop the timetable and end its running jobs."""
        self._stop.set()
        self._thread.join(2)

    def _run(self) -> None:
        running: dict[Path, DemoJob] = {}
        while not self._stop.is_set():
            began = time.monotonic()
            edges = sorted(
                [(job.start_s, True, job) for job in TIMETABLE]
                + [(job.end_s, False, job) for job in TIMETABLE]
            )
            for at_s, begins, job in edges:
                if self._stop.wait(max(began + at_s - time.monotonic(), 0)):
                    break
                if begins:
                    running[self._begin(job)] = job
                else:
                    path = next(path for path, one in running.items() if one is job)
                    del running[path]
                    self._end(path)
            else:
                self._stop.wait(max(began + CYCLE_S - time.monotonic(), 0))
        for path in running:
            self._end(path)

    def _begin(self, job: DemoJob) -> Path:
        self._next_id += 1
        event = {
            "v": 1,
            "scheduler": "slurm",
            "job_id": str(self._next_id),
            "restart_count": 0,
            "gpu_ids": "uuid",
            "gpus": sorted({self._gpus[gpu % len(self._gpus)] for gpu in job.gpus}),
            "user": job.user,
            "uid": 1000,
            "account": job.account,
            "partition": "demo",
            "comment": f"experiment={job.experiment}",
            "start_ns": time.time_ns(),
        }
        path = self._dir / f"{self._next_id}.0.json"
        _write(path, event)
        return path

    def _end(self, path: Path) -> None:
        event = msgspec.json.decode(path.read_bytes())
        _write(path.with_suffix(".end"), {**event, "end_ns": time.time_ns()})
        path.unlink()


def _write(path: Path, event: object) -> None:
    new = path.with_name(f".{path.name}.tmp")
    new.write_bytes(msgspec.json.encode(event))
    new.chmod(0o644)
    new.replace(path)
