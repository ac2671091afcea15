"""What the handlers of pages and API share: settings, connections, and who asks."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterator

import msgspec

from joulebook.config import Config
from joulebook.errors import LedgerError
from joulebook.lab.advice.advise import KnownToCome, MonthAdvice
from joulebook.lab.collected.database import Database
from joulebook.lab.serving.metrics import families
from joulebook.lab.serving.reader import ServingReader
from joulebook.lab.web.changes import LabChanges
from joulebook.lab.web.identity import Proxy
from joulebook.lab.web.kept import Kept
from joulebook.lab.web.kubernetes import Reviews
from joulebook.lab.web.result_view import ResultView
from joulebook.lab.web.viewer import Directory, Viewer
from joulebook.metrics.collector import Family

_IDLE = 8
"""Connections that are kept for the next request."""

_ADVICE = 64
"""So many viewers' advice of a month is kept."""


class Databases:
    """Open connections to the collected ledger, used by one request at a time."""

    def __init__(self, connect: Callable[[], Database]) -> None:
        self._connect = connect
        self._idle: queue.LifoQueue[Database] = queue.LifoQueue(_IDLE)

    @contextlib.contextmanager
    def one(self) -> Iterator[Database]:
        """Yield a connection; one on which anything failed is closed. Raises `LedgerError`."""
        try:
            database = self._idle.get_nowait()
        except queue.Empty:
            database = self._connect()
        try:
            yield database
        except LedgerError:
            database.close()
            raise
        except BaseException:
            self._keep(database)
            raise
        self._keep(database)

    def close(self) -> None:
        """Close what is open."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def _keep(self, database: Database) -> None:
        try:
            self._idle.put_nowait(database)
        except queue.Full:
            database.close()


class Lab(msgspec.Struct, frozen=True):
    """One lab server.

    Attributes:
        config: Its configuration.
        databases: Connections to the collected ledger.
        directory: What the site says of people.
        proxy: Who may name users in a header.
        url: Its address as browsers see it.
        server_uid: Its account, for which credentials are made.
        now_s: The clock.
        reviews: Asks Kubernetes whose a token is; `None`: tokens of its own are not taken.
        to_come: What the feeds know of prices and intensities to come.
        kept: The advice that was worked out within the hour.

    """

    config: Config
    databases: Databases
    directory: Directory
    proxy: Proxy
    url: str
    server_uid: int
    now_s: Callable[[], float] = time.time
    reviews: Reviews | None = None
    to_come: Callable[[], KnownToCome] = KnownToCome
    kept: Kept[MonthAdvice] = msgspec.field(default_factory=lambda: Kept(_ADVICE))

    @property
    def urls(self) -> frozenset[str]:
        """Return the addresses under which commands ask for it."""
        return frozenset({self.url, f"http://{self.config.lab.listen}"})

    @property
    def secure(self) -> bool:
        """Return whether browsers come by TLS, so that cookies may only go there."""
        return self.url.startswith("https:")

    def serving(self, reader: ServingReader | None) -> Callable[[], list[Family]]:
        """Return what makes the metrics of served models; none while the ledger is away."""
        limits, currency = self.config.serving.cost_limits, self.config.rates.currency

        def made() -> list[Family]:
            with contextlib.suppress(LedgerError), self.databases.one() as database:
                return families(database, self.now_s(), reader, limits, currency)
            return []

        return made

    @contextlib.contextmanager
    def view(self, viewer: Viewer) -> Iterator[ResultView]:
        """Yield what a viewer sees, at one instant. Raises `LedgerError`."""
        with self.databases.one() as database, database.transaction(writes=False):
            yield ResultView(database, viewer, self.kept)

    @contextlib.contextmanager
    def changes(self, viewer: Viewer) -> Iterator[LabChanges]:
        """Yield what a viewer may change. Raises `LedgerError`."""
        with self.databases.one() as database:
            yield LabChanges(database, viewer, self.now_s)
