"""The collector: requests pages from many nodes at a time, and writes them one by one.

Threads request; only the thread that calls `run` or `once` writes. A page lost in between is simply
requested again.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from joulebook.config.lab import Collect
from joulebook.core.ledger.export import PostingsPage
from joulebook.errors import ConfigError, InputError, LedgerError, LedgerUnavailable
from joulebook.lab.collect import validate
from joulebook.lab.collect.client import NodeClient, TargetList, Unanswered
from joulebook.lab.collect.discovery import Targets
from joulebook.lab.collected import ingest
from joulebook.lab.collected.database import Database
from joulebook.log import LogOnce

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

_TURN_S = 0.2
"""Seconds between checks for due targets."""

_DATABASE_S = 5.0
"""From one try to reach the database to the next."""

_REPEATS = 5
"""Answers that lead to another question at once; then a target waits like one that fails."""


class NodeQuestion(NamedTuple):
    """A request to a target."""

    target: str
    since: int
    ledger_id: str


class NodeAnswer(NamedTuple):
    """The response: a page, or the reason of a failure and a message."""

    question: NodeQuestion
    page: PostingsPage | None
    reason: str = ""
    message: str = ""


class Collector:
    """Collects from all targets into the ledger that `connect` opens."""

    def __init__(
        self,
        settings: Collect,
        targets: Targets,
        client: NodeClient,
        connect: Callable[[], Database],
    ) -> None:
        self.settings = settings
        self.sources = targets
        self.states = TargetList()
        self.taken: Counter[str] = Counter()
        """Pages, rows and late entries since the start."""
        self.database_problem = ""
        self.standby = False
        """Whether another server with the same database collects."""
        self.turned = time.monotonic()
        """When it last checked for due targets."""
        self._client = client
        self._connect = connect
        self._database: Database | None = None
        self._next_try = 0.0
        self._next_refresh = 0.0
        self._positions: dict[str, int] = {}
        self._ledger_of: dict[str, str] = {}
        self._answers: queue.SimpleQueue[NodeAnswer] = queue.SimpleQueue()

    @property
    def leads(self) -> bool:
        """Whether this server, of all with the same database, does what must be done once."""
        return self._database is not None

    def run(self, stop: threading.Event) -> None:
        """Collect until told to stop, or stand by while another server does."""
        with ThreadPoolExecutor(self.settings.parallel, thread_name_prefix="ask") as pool:
            while not stop.is_set():
                self._turn(pool, spread_s=min(self.settings.every_s, 60.0))
            pool.shutdown(wait=False, cancel_futures=True)
        self._let_go()

    def once(self) -> bool:
        """Collect from each target until it has no more; return whether all succeeded.

        Raises `LedgerError` if the collected ledger cannot be used.
        """
        self._look(time.monotonic(), spread_s=0.0)
        self._database = self._open()
        with ThreadPoolExecutor(self.settings.parallel, thread_name_prefix="ask") as pool:
            while any(self._unfinished(url) for url in self.states.targets):
                self._ask(pool)
                self._take_in()
                if self.database_problem:
                    raise LedgerUnavailable(self.database_problem)
        self._let_go()
        return not self.sources.failing and not any(
            state.problem for state in self.states.targets.values()
        )

    def _unfinished(self, url: str) -> bool:
        state = self.states.targets[url]
        return state.asked or (not state.failures and (state.good_s is None or state.behind > 0))

    def _turn(self, pool: ThreadPoolExecutor, spread_s: float) -> None:
        self.turned = time.monotonic()
        self._look(self.turned, spread_s)
        if self._database is None and self.turned >= self._next_try:
            try:
                self._take_over()
            except LedgerError as error:
                self._lost(error)
        if self._database is not None:
            self._ask(pool)
        self._take_in()

    def _look(self, now: float, spread_s: float) -> None:
        """For targets, and for new certificates."""
        if now < self._next_refresh:
            return
        self._next_refresh = now + self.settings.refresh_s
        self.states.renew(self.sources.look(), now, spread_s if self.states.targets else 0.0)
        try:
            self._client.refresh()
            _once.recovered("certificates", "certificates are in use again")
        except ConfigError as error:
            _once.failed("certificates", "%s; using the last good ones", error)

    def _ask(self, pool: ThreadPoolExecutor) -> None:
        for url in self.states.due(time.monotonic(), self.settings.parallel - self.states.asked):
            ledger_id = self._ledger_of.get(url, "")
            question = NodeQuestion(url, self._positions.get(ledger_id, 0), ledger_id)
            pool.submit(self._fetch, question)

    def _fetch(self, question: NodeQuestion) -> None:
        """In a thread of the pool."""
        try:
            page = self._client.page(*question)
            validate.check(page, question.since, question.ledger_id, question.target)
            answer = NodeAnswer(question, page)
        except (Unanswered, InputError) as error:
            answer = NodeAnswer(question, None, error.reason, str(error))
        except ConfigError as error:
            answer = NodeAnswer(question, None, "no_token", str(error))
        except Exception as error:
            logger.exception("%s: request failed", question.target)
            answer = NodeAnswer(question, None, "fault", f"{question.target}: {error!r}")
        self._answers.put(answer)

    def _take_in(self) -> None:
        try:
            answer = self._answers.get(timeout=_TURN_S)
        except queue.Empty:
            return
        self._settle(answer)

    def _settle(self, answer: NodeAnswer) -> None:
        target = answer.question.target
        if answer.page is None:
            self._refused(target, answer.reason, answer.message)
            return
        try:
            self._write(answer.question, answer.page)
        except InputError as error:
            self._refused(target, error.reason, str(error))
        except LedgerUnavailable as error:
            self._lost(error)
            self._again(target)
        except LedgerError as error:
            self._refused(target, "refused", f"{target}: {error}")

    def _write(self, question: NodeQuestion, page: PostingsPage) -> None:
        target, node = question.target, (page.cluster, page.node)
        if twin := self.states.twin(target, node, page.ledger_id):
            raise InputError(
                f"{target}: is node {page.node!r}, but so is {twin}, with another ledger: set "
                "different node.name",
                reason="twice",
            )
        self._ledger_of[target] = page.ledger_id
        if page.since != self._positions.get(page.ledger_id, 0):
            # The first answer tells which ledger it has; the next question goes on from there.
            self._again(target)
            return
        if self._database is None:
            self._again(target)
            return
        now_s = time.time()
        taken = ingest.take(self._database, page, target, int(now_s), self.states.targets.keys())
        if taken is None:
            self._read_positions(self._database)
            self._again(target)
            return
        self._positions[page.ledger_id] = page.next
        self.taken.update(pages=1, rows=taken.rows, late=taken.late)
        if taken.undated:
            said = ", ".join(f"{quarter_s}" for quarter_s in sorted(taken.undated)[:5])
            logger.warning(
                "%s: rows of node %s have impossible quarter hours (%s): its clock was wrong; "
                "they are kept aside until the node corrects their dates",
                target, page.node, said,
            )  # fmt: skip
        if target in self.states.targets:
            self.states.found(target, node, page.ledger_id)
        _once.recovered(target, "%s: collected again", target)
        self.states.went_well(
            target, time.monotonic(), now_s, self.settings.every_s, page.last - page.next
        )

    def _refused(self, target: str, reason: str, message: str) -> None:
        _once.failed(target, "%s", message)
        self.states.failed(target, time.monotonic(), self.settings.every_s, reason, message)

    def _again(self, target: str) -> None:
        """Request again at once, without counting a failure of the target."""
        if target in self.states.targets:
            state = self.states.targets[target]
            state.repeats += 1
            if state.repeats > _REPEATS and not self.database_problem:
                self._refused(target, "order", f"{target}: returns a different ledger each time")
                return
            self.states.again(target, time.monotonic())

    def _take_over(self) -> None:
        """Open the ledger to collect, unless another server does."""
        database = self._open()
        self.standby = not database.leads()
        if self.standby:
            _once.failed("standby", "another server collects: standing by", level=logging.INFO)
            database.close()
            self._next_try = self.turned + _DATABASE_S
            return
        _once.recovered("standby", "the other server has ended: collecting")
        self._database = database

    def _open(self) -> Database:
        database = self._connect()
        self._read_positions(database)
        if self.database_problem:
            self.database_problem = ""
        _once.recovered("database", "%s is writable again", database.name)
        return database

    def _read_positions(self, database: Database) -> None:
        self._positions = {}
        for places in ingest.places(database).values():
            self._positions |= {place.ledger_id: place.position for place in places}
        self._ledger_of = {**ingest.targets(database), **self._ledger_of}

    def _lost(self, error: LedgerError) -> None:
        self.database_problem = str(error)
        _once.failed("database", "%s; nodes keep what was not collected", error)
        self._let_go()
        self._next_try = time.monotonic() + _DATABASE_S

    def _let_go(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
