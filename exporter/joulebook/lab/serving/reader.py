"""Read the token counters of model servers now and then, and join them with the ledger.

Threads ask; one thread writes. A server is asked without credentials and redirects, for a bounded
answer in bounded time, and only if its workload runs in the ledger, which says whose it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from joulebook.config.lab_server import ServingSection
from joulebook.core.report.serving import CounterReading, Counts, Produced
from joulebook.core.sanitize import clean_label
from joulebook.errors import (
    ConfigError,
    FeedError,
    InputError,
    LedgerError,
    SourceError,
)
from joulebook.http_client import Web
from joulebook.lab.collect.discovery import api_server
from joulebook.lab.collected import served, tokens
from joulebook.lab.collected.database import Database
from joulebook.lab.collected.tokens import ServerReading, ServingWorkload
from joulebook.lab.report.prometheus_api import Access, PrometheusApi
from joulebook.lab.serving.exposition import NAMES, ServerCounters, counted, parse
from joulebook.lab.serving.find import ModelServer, ServerFinder, ServingPods
from joulebook.log import LogOnce

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

MAX_BYTES = 4 * 2**20
"""vLLM's answer is some 100 KiB."""
MAX_SERVERS = 5_000
_PARALLEL = 8
_SETTLE_S = 300.0
_WIDE_S = 35 * 86_400
_DAY_S = 86_400.0

_POD = ("pod", "exported_pod", "kubernetes_pod_name", "pod_name")
_NAMESPACE = ("namespace", "exported_namespace", "kubernetes_namespace")
_OF_SCRAPE = frozenset(
    {"job", "endpoint", "service", "container", "prometheus", "prometheus_replica", "replica"}
)
"""Labels in which two scrapes of one server differ."""
_MOST_OF_POD = 16
"""Servers of one pod: addresses in a Prometheus may be the words of users."""

_Series = dict[tuple[object, ...], tuple[str, Mapping[str, str], float]]


class FixedServers:
    """`serving.targets`."""

    def __init__(self, settings: ServingSection) -> None:
        self._servers = [
            ModelServer(each.workload, each.cluster, (each.url,), each.model)
            for _, each in sorted(settings.targets.items())
        ]

    def servers(self) -> list[ModelServer]:
        """Return the list."""
        return self._servers


class ServingReader:
    """Reads all servers, and writes what they counted into the collected ledger."""

    def __init__(
        self,
        settings: ServingSection,
        connect: Callable[[], Database],
        finders: Sequence[ServerFinder] | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`finders` replace those of the settings. Raises `ConfigError`."""
        self.errors: Counter[str] = Counter()
        self.read = 0
        """How many servers were read the last time."""
        self._settings = settings
        self._connect = connect
        self._now_s = now_s
        self._finders = _finders(settings) if finders is None else finders
        self._prometheus = _prometheus(settings)
        self._web = Web(
            timeout_s=settings.timeout_s,
            deadline_s=2 * settings.timeout_s,
            max_bytes=MAX_BYTES,
            proxied=False,
            hosts=_PARALLEL,
        )
        self._settled_s = self._widely_s = 0.0

    def run(self, stop: threading.Event, leads: Callable[[], bool]) -> None:
        """Read now and then until told to stop, while this server `leads`."""
        while not stop.is_set():
            if leads():
                self._pass()
            stop.wait(self._settings.every_s)

    def _pass(self) -> None:
        try:
            self.once()
            _once.recovered("serving", "token counters are written again")
        except (LedgerError, ConfigError) as error:
            _once.failed("serving", "token counters are not written: %s", error)
        except Exception:
            _once.fault("token counters are not written")

    def once(self) -> None:
        """Read all servers of running workloads, and join what is due. Raises `LedgerError`."""
        now_s = int(self._now_s())
        with self._connect() as database:
            readings = self._direct(database, now_s)
            # A workload is read in one way: at its own server, else where Prometheus has it.
            there = {each.workload.number for each in readings}
            readings += self._of_prometheus(database, now_s, there)
            self.read = len(readings)
            refused = tokens.book(database, readings, self._settings.models)
            if refused:
                self.errors["too_many_models"] += refused
                _once.failed(
                    "models", "%d models are not counted: more than serving.models = %d of one "
                    "workload", refused, self._settings.models,
                )  # fmt: skip
            self._settle(database, now_s)

    def _settle(self, database: Database, now_s: int) -> None:
        if now_s < self._settled_s + _SETTLE_S:
            return
        if now_s >= self._widely_s + _DAY_S:
            # Nodes that were away, and rows that were dated anew.
            served.settle(database, now_s, _WIDE_S)
            tokens.forget(database, now_s)
            self._widely_s = now_s
        else:
            served.settle(database, now_s)
        self._settled_s = now_s

    def _direct(self, database: Database, now_s: int) -> list[ServerReading]:
        asked: list[tuple[ServingWorkload, ModelServer]] = []
        taken: set[int] = set()
        # What is configured comes first: a pod that is read there is not asked once more.
        for finder in self._finders:
            servers = finder.servers()
            names = ((each.workload, each.cluster) for each in servers)
            known = tokens.running(database, names, now_s)
            asked += [
                (workload, each)
                for each in servers
                if (workload := known.get((each.workload, each.cluster)))
                and workload.number not in taken
            ]
            taken = {workload.number for workload, _ in asked}
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="serving") as pool:
            answers = list(pool.map(lambda pair: self._ask(*pair), asked[:MAX_SERVERS]))
        return [each for each in answers if each is not None]

    def _ask(self, workload: ServingWorkload, server: ModelServer) -> ServerReading | None:
        """In a thread of the pool."""
        reason, message = "", ""
        for url in server.urls:
            try:
                found = parse(self._web.get(url).decode("utf-8", "replace"))
            except (FeedError, InputError) as error:
                reason, message = error.reason, str(error)
                continue
            except Exception as error:
                logger.exception("%s: reading failed", url)
                reason, message = "fault", repr(error)
                continue
            _once.recovered(url, "%s: token counters are read again", url)
            return _reading(workload, server.urls[0], found, server, int(self._now_s()))
        self.errors[reason] += 1
        _once.failed(server.urls[0], "%s: %s", server.urls[0], message, reason=reason)
        return None

    def _of_prometheus(
        self, database: Database, now_s: int, there: set[int]
    ) -> list[ServerReading]:
        if self._prometheus is None:
            return []
        names = "|".join(NAMES)
        try:
            samples = self._prometheus.instant(f'{{__name__=~"{names}"}}', now_s)
            _once.recovered("prometheus", "token counters are read from Prometheus again")
        except SourceError as error:
            self.errors["prometheus"] += 1
            _once.failed("prometheus", "%s", error)
            return []
        by_pod: dict[tuple[str, str], dict[str, _Series]] = {}
        for sample in samples:
            labels = sample.labels
            pod = _first(labels, _NAMESPACE), _first(labels, _POD)
            name = labels.get("__name__", "")
            if not all(pod):
                continue
            # One server that two jobs scrape counts once.
            same = (*sorted(pair for pair in labels.items() if pair[0] not in _OF_SCRAPE),)
            servers = by_pod.setdefault(pod, {})
            instance = clean_label(labels.get("instance", ""))
            # Each server of a pod has a counter of its own: a sum falls where one is not scraped.
            if instance in servers or len(servers) < _MOST_OF_POD:
                servers.setdefault(instance, {})[same] = (name, labels, sample.value)
        return [
            _reading(workload, tokens.in_prometheus(instance), ServerCounters(models), None, now_s)
            for pod, workload in tokens.running_pods(database, by_pod, now_s).items()
            if workload.number not in there
            for instance, found in sorted(by_pod[pod].items())
            if (models := counted(found.values()))
        ]


def _finders(settings: ServingSection) -> list[ServerFinder]:
    found: list[ServerFinder] = [FixedServers(settings)] if settings.targets else []
    if settings.kubernetes:
        found.append(ServingPods(api_server(), settings.kubernetes_selector))
    return found


def _prometheus(settings: ServingSection) -> PrometheusApi | None:
    if not settings.prometheus:
        return None
    file = settings.prometheus_token_file
    access = Access(token_file=Path(file) if file else None, timeout_s=4 * settings.timeout_s)
    return PrometheusApi(settings.prometheus, access)


def _reading(
    workload: ServingWorkload,
    target: str,
    found: ServerCounters,
    server: ModelServer | None,
    read_s: int,
) -> ServerReading:
    started_s = found.started_s or (server.started_s if server else 0)
    unnamed = server.model if server else ""

    def at(counts: Counts) -> dict[Produced, CounterReading]:
        return {kind: CounterReading(n, read_s, started_s) for kind, n in counts.items()}

    return ServerReading(
        workload, target, {name or unnamed: at(counts) for name, counts in found.models.items()}
    )


def _first(labels: Mapping[str, str], names: Sequence[str]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")
