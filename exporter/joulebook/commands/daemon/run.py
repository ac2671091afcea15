"""Implement `joulebook run`: the daemon of a node, until a signal ends it.

Of `--demo` only the jobs are simulated, by event files like those of the SLURM hooks. The power is
a recorded card's, and everything from the event files to the status page is a real node's code.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
from msgspec.structs import replace

from joulebook import log
from joulebook.commands.shared.options import Options, command, option
from joulebook.commands.shared.stopping import stop_asked
from joulebook.config import Config, load
from joulebook.config.node import Ledger, Slurm, Tenants
from joulebook.config.rates import CarbonSection, Hardware, Price, Rates
from joulebook.config.sensors import Nvml, Replay, Sensors
from joulebook.config.workloads import Marks
from joulebook.node.assembly import node as assembly
from joulebook.node.health import ServiceManager
from joulebook.node.sensors.trace.format import read_trace

logger = logging.getLogger(__name__)

LOOK_S = 60.0
"""Seconds between retries of a daemon that has nothing to measure."""


def main(args: Options) -> int:
    """Run until SIGTERM or SIGINT."""
    config = load(args.config, os.environ)
    if args.compat:
        shown = replace(config.exposition, compat=tuple(args.compat))
        config = replace(config, exposition=shown)
    log.setup(config.log.level, config.log.format)
    jobs: DemoJobs | None = None
    if args.demo == "always" or (args.demo and not assembly.gpu_is_here()):
        config, jobs = _demo(config)
    stop = stop_asked()
    while not stop.is_set():
        with assembly.assemble(config) as node:
            logger.info("serving http://%s/ and /metrics", node.address)
            # What is loaded stays: no collection need ever look through it again.
            gc.collect()
            gc.freeze()
            if jobs:
                jobs.start()
            with ServiceManager(os.environ).reported(node.healthy):
                node.daemon.run(_until_measurable(config, stop) if node.idle else stop)
            if jobs:
                jobs.stop()
    return 0


def _until_measurable(config: Config, stop: threading.Event) -> threading.Event:
    """Return an event that is set with `stop`, or once there is something to measure."""
    logger.warning("%s; retrying every %g s", assembly.NOTHING, LOOK_S)
    ended = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_S):
            if assembly.can_measure(config):
                logger.info("found something to measure: restarting")
                break
        ended.set()

    threading.Thread(target=look, name="look-for-sensors", daemon=True).start()
    return ended


def _demo(config: Config) -> tuple[Config, DemoJobs]:
    """Return the demo for a machine without a GPU; its first line of output says that it is one."""
    config = demo_config(config, Path.cwd())
    cards = [
        device
        for path in assembly.traces(config.sensors.replay.trace)
        for device in read_trace(path).header.devices
    ]
    logger.warning(
        "DEMO: no GPU is read. Replaying the recorded power of %s, with simulated jobs; no "
        "figure is measured on this machine",
        " and ".join(f"{card.model} ({card.note.rpartition('; ')[2]})" for card in cards),
    )
    return config, DemoJobs(Path(config.tenants.slurm.events_dir), [card.name for card in cards])


@command()
@option(
    "--demo",
    is_flag=False,
    flag_value="auto",
    type=click.Choice(["auto", "always"]),
    help="Replay a recorded trace with simulated jobs if there is no GPU ('always': even if there "
    "is one). The ledger is in ./.build/demo.",
)
@option(
    "--compat",
    multiple=True,
    type=click.Choice(["dcgm", "dcgm-hostname"]),
    help="Expose the metrics of another exporter, too.",
)
def run(options: Options) -> int:
    """Run the daemon of a node: read the GPUs, book energy to jobs, serve /metrics."""
    return main(options)


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
