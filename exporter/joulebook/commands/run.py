"""`joulebook run`: the daemon of a node."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from msgspec.structs import replace

from joulebook import log, wiring
from joulebook.commands.demo import DemoJobs, demo_config
from joulebook.commands.stopping import stop_asked
from joulebook.config import Config, load
from joulebook.daemon.supervisor import Supervisor
from joulebook.sensors.trace import read_trace

logger = logging.getLogger(__name__)


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
    with wiring.assemble(config) as node:
        logger.info("serving http://%s/ and /metrics", node.address)
        if jobs:
            jobs.start()
        with Supervisor(os.environ).told(node.health.healthy):
            node.daemon.run(stop)
        if jobs:
            jobs.stop()
    return 0


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
