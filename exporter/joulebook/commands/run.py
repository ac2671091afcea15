"""`joulebook run`: the daemon of a node."""

from __future__ import annotations

import argparse
import logging
import os
import threading
from pathlib import Path

from msgspec.structs import replace

from joulebook import log, wiring
from joulebook.commands.demo import DemoJobs, demo_config
from joulebook.commands.stopping import stop_asked
from joulebook.config import Config, load
from joulebook.daemon.supervisor import Supervisor
from joulebook.sensors.trace import read_trace

logger = logging.getLogger(__name__)

LOOK_S = 60.0
"""How often a daemon with nothing to measure looks whether there is something by now."""


def main(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    config = load(args.config, os.environ)
    if args.compat:
        shown = replace(config.exposition, compat=tuple(args.compat))
        config = replace(config, exposition=shown)
    log.setup(config.log.level, config.log.format)
    jobs: DemoJobs | None = None
    if args.demo == "always" or (args.demo and not wiring.gpu_is_here()):
        config, jobs = _demo(config)
    stop = stop_asked()
    while not stop.is_set():
        with wiring.assemble(config) as node:
            logger.info("serving http://%s/ and /metrics", node.address)
            if jobs:
                jobs.start()
            with Supervisor(os.environ).told(node.health.healthy):
                node.daemon.run(_until_measurable(config, stop) if node.idle else stop)
            if jobs:
                jobs.stop()
    return 0


def _until_measurable(config: Config, stop: threading.Event) -> threading.Event:
    """Set with `stop`, or as soon as there is something to measure where there was nothing."""
    logger.warning("%s; looking again every %g s", wiring.NOTHING, LOOK_S)
    ended = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_S):
            if wiring.can_measure(config):
                logger.info("there is something to measure now: starting anew")
                break
        ended.set()

    threading.Thread(target=look, name="look-for-sensors", daemon=True).start()
    return ended


def _demo(config: Config) -> tuple[Config, DemoJobs]:
    """The embedded default of a machine without GPU; its first line of output says so."""
    config = demo_config(config, Path.cwd())
    cards = [
        device
        for path in wiring.traces(config.sensors.replay.trace)
        for device in read_trace(path).header.devices
    ]
    logger.warning(
        "DEMO: no GPU is read here. Recorded power of %s is played, with simulated jobs on it; "
        "no figure is of this machine",
        " and ".join(f"{card.model} ({card.note.rpartition('; ')[2]})" for card in cards),
    )
    return config, DemoJobs(Path(config.tenants.slurm.events_dir), [card.name for card in cards])
