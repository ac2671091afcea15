"""Make a collector from `[collect]`, and show of it metrics, health and a page for people."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from joulebook.config import Config
from joulebook.config.lab import COLLECT_LISTEN, Collect
from joulebook.errors import ConfigError
from joulebook.http_client import Web
from joulebook.lab.collect.client import NodeClient
from joulebook.lab.collect.collector import Collector
from joulebook.lab.collect.discovery import (
    Discovery,
    EndpointSlices,
    FileSd,
    HttpSd,
    Static,
    Targets,
    api_server,
    namespace_of_this_pod,
)
from joulebook.lab.collected.database import connect
from joulebook.metrics.collector import Family
from joulebook.metrics.exposition import Renderer, body, negotiate
from joulebook.metrics.metric import Kind, Metric, Stability
from joulebook.metrics.page.markup import text
from joulebook.server.server import Server


def _metric(
    kind: Kind, name: str, help: str, unit: str = "", labels: tuple[str, ...] = ()
) -> Metric:
    return Metric(
        f"joulebook_collect_{name}", kind, help, unit, labels, stability=Stability.BETA, bare=True
    )


_G, _C = Kind.GAUGE, Kind.COUNTER

COLLECTOR: tuple[Metric, ...] = (
    _metric(_G, "targets", "Number of nodes to collect from."),
    _metric(
        _G,
        "target_up",
        "1 if the last page of a node was written to the ledger, else 0.",
        "",
        ("target",),
    ),
    _metric(
        _G,
        "target_last_success_timestamp_seconds",
        "Unix time at which a page of a node was last written to the ledger.",
        "seconds",
        ("target",),
    ),
    _metric(_G, "target_behind", "Changes on a node that are not collected yet.", "", ("target",)),
    _metric(
        _C,
        "errors_total",
        "Unusable responses of a node, by reason.",
        "",
        ("target", "reason"),
    ),
    _metric(_C, "pages_total", "Pages written to the ledger."),
    _metric(_C, "rows_total", "Rows written to the ledger."),
    _metric(_C, "late_total", "Workloads and days that arrived after their month was closed."),
    _metric(_G, "database_up", "1 if the collected ledger is writable, else 0."),
    _metric(_G, "active", "1 if this server collects, 0 if another one of its database does."),
    _metric(_G, "discovery_up", "1 if every source of targets was read, else 0."),
)
"""Every metric of the collector, in the order of exposition."""


def make_collector(settings: Collect) -> Collector:
    """Raises `ConfigError` for what is missing, or cannot be used."""
    if not settings.url:
        raise ConfigError(
            "collect.url is not set: expected sqlite:///absolute/path or "
            "postgresql://host:port/database"
        )
    sources = _sources(settings)
    if not sources:
        raise ConfigError(
            "nothing to collect from: set collect.targets, file_sd, http_sd or kubernetes"
        )
    if not settings.token_file:
        raise ConfigError(
            "collect.token_file is not set: expected the path of a file with the token of the "
            "daemons (their server.token_file)"
        )
    return Collector(
        settings,
        Targets(sources),
        NodeClient(settings),
        functools.partial(connect, settings.url, create=True),
    )


def _sources(settings: Collect) -> list[Discovery]:
    sources: list[Discovery] = []
    if settings.targets:
        sources.append(Static(settings))
    sources += [FileSd(pattern, settings.scheme) for pattern in settings.file_sd]
    if settings.http_sd:
        web = Web(timeout_s=settings.timeout_s, proxied=False)
        sources.append(HttpSd(settings.http_sd, settings.scheme, web))
    if settings.kubernetes:
        sources.append(
            EndpointSlices(
                api_server(),
                settings.kubernetes_service,
                settings.kubernetes_namespace or namespace_of_this_pod(),
                settings.kubernetes_port_name,
                settings.scheme,
            )
        )
    return sources


_MISTAKEN = {"wrong_ledger", "twice"}
"""Reasons of a mistaken identity of a target, which only a person can resolve."""

_HANG_S = 900.0
"""Without a turn of the loop for so long, a supervisor had better restart it."""


class CollectorPages:
    """`Pages` of the server. Reads what the collector's thread writes; torn views do no harm."""

    def __init__(self, collector: Collector, more: Callable[[], Iterable[Family]] = tuple) -> None:
        """`more` are further metrics of the process."""
        self._collector = collector
        self._more = more
        self._renderer = Renderer("")

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the state of targets and the database."""
        style = negotiate(accept)
        values = dict(self._values())
        blocks = [
            self._renderer.block(Family(metric, values.get(metric.name, [])))
            for metric in COLLECTOR
        ]
        blocks += [self._renderer.block(each) for each in self._more()]
        return body(blocks, style), style.value

    def _values(self) -> Iterator[tuple[str, list[tuple[tuple[str, ...], float]]]]:
        collector = self._collector
        targets = sorted(collector.states.targets.copy().items())
        yield "joulebook_collect_targets", [((), len(targets))]
        yield "joulebook_collect_active", [((), int(collector.leads))]
        if collector.standby:  # Of another server's targets it knows nothing.
            targets = []
        yield (
            "joulebook_collect_target_up",
            [
                ((url,), int(state.good_s is not None and not state.problem))
                for url, state in targets
            ],
        )
        yield (
            "joulebook_collect_target_last_success_timestamp_seconds",
            [((url,), state.good_s) for url, state in targets if state.good_s is not None],
        )
        yield (
            "joulebook_collect_target_behind",
            [((url,), state.behind) for url, state in targets if state.good_s is not None],
        )
        yield (
            "joulebook_collect_errors_total",
            [
                ((url, reason), count)
                for url, state in targets
                for reason, count in sorted(state.errors.copy().items())
            ],
        )
        for name in ("pages", "rows", "late"):
            yield f"joulebook_collect_{name}_total", [((), collector.taken[name])]
        yield "joulebook_collect_database_up", [((), int(not collector.database_problem))]
        yield "joulebook_collect_discovery_up", [((), int(not collector.sources.failing))]

    def ready(self) -> tuple[bool, str]:
        """Return whether the database is writable, targets are readable, and identities are
        clear.
        """
        wrong = [*filter(None, [self._collector.database_problem])]
        wrong += self._collector.sources.failing.copy().values()
        targets = sorted(self._collector.states.targets.copy().items())
        wrong += [each.problem for _, each in targets if each.reason in _MISTAKEN]
        return (False, "\n".join(wrong)) if wrong else (True, "ready")

    def healthy(self) -> tuple[bool, str]:
        """Return whether the loop turns."""
        silent_s = time.monotonic() - self._collector.turned
        if silent_s > _HANG_S:
            return False, f"the collector has been silent for {silent_s:.0f} s"
        return True, "healthy"

    def index(self) -> bytes:
        """Return the targets with their state."""
        rows = "".join(
            f"<tr><td>{text(url, 300)}<td>{text(state.node[1], 300)}"
            f"<td>{_ago(state.good_s)}<td>{state.behind}<td>{text(state.problem, 300)}"
            for url, state in sorted(self._collector.states.targets.copy().items())
        )
        _, said = self.ready()
        return (
            '<!doctype html><html lang="en"><title>Joulebook collector</title>'
            f"<h1>Collector</h1><p>{text(said, 300)}"
            "<table><tr><th>target<th>node<th>collected<th>behind<th>problem"
            f"{rows}</table></html>\n"
        ).encode()


class CollectorServer(Server):
    """The daemon's HTTP server, which here exposes addresses of nodes, at `collect.listen`."""

    reveals = "addresses of nodes"

    def __init__(self, config: Config, pages: CollectorPages) -> None:
        """Raises `ConfigError` if an address or the web configuration file cannot be used."""
        web_config = Path(config.server.web_config) if config.server.web_config else None
        super().__init__(
            config.collect.listen or COLLECT_LISTEN, pages, web_config, hosts=config.server.hosts
        )


def _ago(good_s: float | None) -> str:
    return "never" if good_s is None else f"{time.time() - good_s:,.0f} s ago"
