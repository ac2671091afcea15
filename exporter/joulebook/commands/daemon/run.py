"""Implement `joulebook run`: the daemon of a node, until a signal ends it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import click
from msgspec.structs import replace

from joulebook import log
from joulebook.commands.daemon.demo import DemoJobs, demo_config
from joulebook.commands.shared.options import Options, command, option
from joulebook.config import Config, load
from joulebook.node.assembly import node as assembly
from joulebook.node.sensors.trace.format import read_trace
from joulebook.node.systemd import ServiceManager

logger_stopping = logging.getLogger(__name__)


def stop_asked() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set; call it from the main thread.

    SIGHUP sets it only if a terminal can hang up. Sent to a service it means "reload", which we do
    not support: we log that and go on, since systemd treats an exit by SIGHUP as clean and would
    not restart the service.
    """
    stop = threading.Event()
    at_terminal = sys.stdin is not None and sys.stdin.isatty()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    def go_on(_signal: int, _frame: FrameType | None) -> None:
        # In a thread, since the handler may have interrupted a log call.
        threading.Thread(
            target=logger_stopping.warning,
            args=(
                (
                    "SIGHUP ignored: the configuration is only read at startup; restart to apply "
                    "changes"
                ),
            ),
            name="sighup",
        ).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup(1) has it
        signal.signal(signal.SIGHUP, end if at_terminal else go_on)
    return stop


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
