"""The composition root: build the daemon from the configuration.

Sensors are chosen in `sensors`, sources of workloads in `workloads`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from joulebook.backoff import LastingThread
from joulebook.clock import Clock, NodeClock
from joulebook.config import Config
from joulebook.config.lab import allowances
from joulebook.config.rates import Rates, missing
from joulebook.core.attribution import host
from joulebook.core.attribution.host import OtherSplit
from joulebook.core.ledger import series
from joulebook.core.ledger.advance import BookingPolicy
from joulebook.core.ledger.state import Books
from joulebook.errors import ConfigError, InputError
from joulebook.ledger.query import LedgerReader
from joulebook.ledger.run_answer import answer
from joulebook.ledger.sqlite import SqliteStore
from joulebook.metrics.exposition import Exposition
from joulebook.metrics.snapshot import Snapshot
from joulebook.node.assembly.sensors import (
    PCI_DEVICES,
    Registration,
    chosen,
    conflict,
    gpu_is_here,
    proc_of_driver,
    traces,
)
from joulebook.node.assembly.workloads import (
    WORKLOAD_SOURCES,
    marked,
    unnamed,
    unseen,
)
from joulebook.node.daemon import Daemon
from joulebook.node.day_totals import DAY_S, Charging, DayTotals
from joulebook.node.health import Health
from joulebook.node.parts import Parts, Settings
from joulebook.node.release import ReleaseHandler
from joulebook.node.sensor_thread import SensorThread
from joulebook.node.workload_sources import mask
from joulebook.node.workloads.contract import WorkloadSource
from joulebook.node.workloads.host.usage import HostUsageReader
from joulebook.server.auth import PostingsPages, Tokens
from joulebook.server.server import Server
from joulebook.units import NS_PER_S, ns_from_s

__all__ = ["Node", "assemble", "can_measure", "gpu_is_here", "traces"]

log = logging.getLogger(__name__)


def can_measure(config: Config, pci: Path = PCI_DEVICES) -> bool:
    """Return whether any sensor would run here."""
    return bool(chosen(config, pci))


NOTHING = (
    "nothing to measure: no NVIDIA GPU on the PCI bus and no driver library, no AMD or Intel "
    "GPU, no RAPL, no power meter in sysfs, and no other sensor enabled"
)
"""The message if no sensor would run."""


class Node:
    """A daemon with all its parts; leaving the context closes everything."""

    def __init__(
        self,
        daemon: Daemon,
        health: Health,
        server: Server,
        address: str,
        exits: ExitStack,
        *,
        idle: bool,
    ) -> None:
        self.daemon = daemon
        self.health = health
        self.server = server
        self.address = address
        self.idle = idle
        """Whether there is nothing to measure, and that was to be waited for."""
        self._exits = exits

    def healthy(self) -> tuple[bool, str]:
        """Return whether the daemon is healthy, and why not, for callers without HTTP."""
        if not self.server.alive:
            return False, "the HTTP server has ended: nothing is served"
        return self.health.healthy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exits.__exit__(kind, error, trace)


def assemble(config: Config) -> Node:
    """Build the daemon that `config` describes; it serves, but does not tick yet.

    Raises `ConfigError` and `LedgerError`.
    """
    with ExitStack() as exits:
        masked = mask(config.privacy.users, config.privacy.key_file)
        choices = chosen(config)
        if not choices and not config.daemon.wait_for_sensors:
            raise ConfigError(
                f"{NOTHING}; see `joulebook doctor`; `joulebook run --demo` replays a recorded "
                "trace"
            )
        if problem := conflict(choices):
            raise ConfigError(problem)
        if warning := unseen(config):
            log.warning("%s", warning)
        for missing_, names in unnamed(config):
            log.warning("%s is missing: no %s (see joulebook doctor)", missing_, names)
        path = Path(config.ledger.path)
        store = SqliteStore(
            path,
            retention_days=config.ledger.retention_days,
            allow_volatile=config.ledger.allow_volatile,
            node=config.node_name(),
            cluster=config.node.cluster,
        )
        exits.callback(store.close)
        books, anchor = store.load()
        clock = NodeClock(anchor)
        workers = _workers(config, clock, books, choices)
        money = _money(config, exits)
        budgets = allowances(config.budgets, config.rates.currency)
        tenants = _tenants(config, clock)
        name = config.node_name()
        health = Health(
            workers,
            lately_s=max(5.0, 3 * config.daemon.interval_s),
            hang_s=config.daemon.hang_s,
            idle="" if choices else NOTHING,
        )
        exposition = Exposition(
            Snapshot(
                name,
                books,
                cluster=config.node.cluster,
                rates=money.rates,
                charges=money.charges,
                lacking=money.lacking,
                budgets=budgets,
            ),
            health.ready,
            health.healthy,
            compat=config.exposition.compat,
            on_error=lambda family, error: log.error(
                "metric %s is left out of scrapes: %r", family, error
            ),
        )
        web_config = Path(config.server.web_config) if config.server.web_config else None
        server = Server(
            config.server.listen,
            exposition,
            web_config,
            export=_export(config, name, store),
            hosts=(name, *config.server.hosts),
            runs=partial(_runs, config.ledger.path, name),
        )
        parts = Parts(
            settings=Settings(
                name,
                config.node.cluster,
                config.daemon.interval_s,
                config.daemon.commit_s,
                config.daemon.process_interval_s,
                patience_s=min(config.daemon.interval_s, 1.0) / 2,
                budgets=budgets,
                sees_pids=proc_of_driver(config) is not None,
            ),
            policy=_policy(config),
            clock=clock,
            store=store,
            books=books,
            workers=workers,
            sources=tenants,
            release=ReleaseHandler(path),
            today=_today(path, clock),
            health=health,
            publish=exposition.publish,
            masked=masked,
            rejected=lambda: {"server": server.rejected, "threads": LastingThread.deaths},
            money=money,
            marked=marked(tenants),
            host=_host(config, clock, workers),
        )
        server.start()
        exits.callback(server.stop)
        address = f"{config.server.listen.rpartition(':')[0]}:{server.port}"
        return Node(Daemon(parts), health, server, address, exits.pop_all(), idle=not choices)


def _export(config: Config, node: str, store: SqliteStore) -> PostingsPages | None:
    """Return the export of the ledger; `None` without a token."""
    if not config.server.token_file:
        return None

    def page(since: int, ledger_id: str) -> bytes:
        # Opened for each: a view that stays open would hold back the write-ahead log.
        with LedgerReader(config.ledger.path) as reader:
            page = reader.page(node, config.node.cluster, since, ledger_id)
        store.handed(page.next)
        return msgspec.json.encode(page)

    return PostingsPages(page, Tokens(Path(config.server.token_file)))


def _runs(ledger: str, node: str, query: Mapping[str, str]) -> bytes | str:
    """Answer a program that asks for its figures; text says what is wrong with the query."""
    try:
        return msgspec.json.encode(answer(ledger, node, query))
    except InputError as error:
        return str(error)


def _workers(
    config: Config, clock: Clock, books: Books, choices: Mapping[str, Registration]
) -> list[SensorThread]:
    """Return a worker for each sensor that is wanted; it answers for its meters on record too."""
    sensors = [choice.make(config, clock) for choice in choices.values()]
    return [
        SensorThread(
            sensor,
            clock,
            kind=sensor.kind,
            known={meter for meter in books.meters if sensor.owns(meter)},
        )
        for sensor in sensors
    ]


def _host(config: Config, clock: Clock, workers: Sequence[SensorThread]) -> HostUsageReader | None:
    """Return the reader of host usage, if something measures the host."""
    if not any(host.COMPONENTS & worker.sensor.components for worker in workers):
        return None
    return HostUsageReader(clock, proc=Path(config.host.proc))


def _tenants(config: Config, clock: Clock) -> Sequence[WorkloadSource]:
    return [make(config, clock) for wanted, make in WORKLOAD_SOURCES.values() if wanted(config)]


def _money(config: Config, exits: ExitStack) -> Charging:
    """Return the rates, polled in their own thread until `exits` are closed."""
    lacking = tuple((setting.key, setting.without) for setting in missing(config.rates))
    lacking += unnamed(config)
    if config.rates == Rates():
        return Charging(lacking=lacking)
    # With all feeds and their HTTP client: only for who has rates.
    from joulebook.rates.build import charges, make_poller  # noqa: PLC0415

    poller = make_poller(config, os.environ)
    poller.start()
    exits.callback(poller.stop)
    return Charging(poller, charges(config.rates), lacking)


def _policy(config: Config) -> BookingPolicy:
    shown = config.exposition
    return BookingPolicy(
        settle_ns=ns_from_s(config.daemon.settle_s),
        other=OtherSplit(config.host.other),
        calibrations={name: each.values() for name, each in config.calibration.items()},
        series=series.SeriesPolicy(
            zero_hold_ns=ns_from_s(shown.zero_hold()),
            linger_ns=ns_from_s(shown.linger_s),
            max_workloads=shown.max_workloads,
            max_experiments=shown.max_experiments,
            max_experiments_per_owner=shown.max_experiments_per_owner,
        ),
    )


def _today(path: Path, clock: NodeClock) -> DayTotals:
    day = (clock.now_ns() + clock.utc_offset_ns()) // (DAY_S * NS_PER_S)
    with LedgerReader(path) as reader:
        since_s = day * DAY_S
        return DayTotals(reader.since_by_owner(since_s), day, reader.bills_by_owner(since_s))
