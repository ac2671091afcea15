"""All workload sources as one: who holds what, as the loop is reported in each tick.

A source that raises is a bug of ours, often triggered by user input: it must not stop the meters or
the other sources. Its evidence is then incomplete, so claims on record stay.

The owner of a process on a device is looked up once in the process's life. Users' names are masked
(`[privacy] users`) before anything is written or exposed.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import DeviceStatus, ProcessUse, Reading
from joulebook.core.ledger.state import Books
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.errors import ConfigError
from joulebook.log import LogOnce
from joulebook.node.workloads.contract import (
    FAULT,
    Before,
    Boundary,
    CountsHostUsage,
    Holdings,
    UsageGroup,
    WorkloadSource,
)
from joulebook.untrusted_files import read_secret, shown_path

MAX_OWNERS = 10_000
"""The most processes whose owner is cached; far more than run on one node's GPUs."""

ASK_AGAIN_S = 1.0
"""An unknown process may become known a moment later, when its pod has a name."""


class ProcessOwners:
    """Queries the sources in order; the first answer wins.

    There are none where pids are not those of the host: another process has that number here.
    """

    def __init__(
        self, tenants: Sequence[WorkloadSource], now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._tenants = tenants
        self._now_s = now_s
        self._known: dict[tuple[int, int], tuple[WorkloadId | None, float]] = {}
        self._seen: set[tuple[int, int]] = set()

    def poll(self) -> None:
        """New process lists come: forget those that were in none of the last ones."""
        if self._seen:
            if not self._known.keys() <= self._seen:
                known = self._known.items()
                self._known = {key: owner for key, owner in known if key in self._seen}
            self._seen = set()

    def identified(self, reading: Reading) -> Reading:
        """The reading, with the owner of each process."""
        if not reading.processes:
            return reading
        now = self._now_s()
        owned = [
            msgspec.structs.replace(process, workload=self._owner(process, now))
            for process in reading.processes
        ]
        return msgspec.structs.replace(reading, processes=tuple(owned))

    def _owner(self, process: ProcessUse, now: float) -> WorkloadId | None:
        key = (process.pid, process.started_ns)
        self._seen.add(key)
        owner, asked_s = self._known.get(key, (None, now - ASK_AGAIN_S))
        if owner is None and now - asked_s >= ASK_AGAIN_S:
            if len(self._known) >= MAX_OWNERS:
                self._known.clear()
            found = (source.identify(process.pid) for source in self._tenants)
            owner = next((each for each in found if each is not None), None)
            self._known[key] = (owner, now)
        return owner


log = logging.getLogger(__name__)
_once = LogOnce(log)


class WorkloadSources:
    """The workload sources of this node, in their order. `masked` is applied to every user's
    name.
    """

    def __init__(self, sources: Sequence[WorkloadSource], masked: Mask = str) -> None:
        self._sources = sources
        self._masked = masked
        self._rejected: dict[str, Mapping[str, int]] = {}
        self._faults: Counter[str] = Counter()

    def open(self, boundary: Boundary, books: Books) -> None:
        """Start all sources, continuing from the books."""
        claims = tuple(claim for claim in books.claims if claim.t1_ns is None)
        held = {claim.workload for claim in claims}
        # Sources know a workload by the name that it had first.
        first = {renamed.now: id_ for id_, renamed in books.renamed.items()}
        facts = tuple(
            self._unmasked(msgspec.structs.replace(state.facts, id=first.get(id_, id_)))
            for id_, state in books.workloads.items()
            # A series ends where nothing is used for a moment; only sources know ends.
            if (None in {state.ended_ns, state.facts.ended_ns} or first.get(id_, id_) in held)
            and id_ not in books.renamed
        )
        for source in self._sources:
            source.open(boundary, Before(facts, claims, books.last_ns))

    def close(self) -> None:
        """Stop all sources."""
        for source in self._sources:
            source.close()

    def settled(self) -> None:
        """Confirm that the last holdings are durable."""
        for source in self._sources:
            with self._apart(source, "settled"):
                source.settled()

    def heard(self, devices: Sequence[DeviceStatus]) -> Holdings:
        """Return what all of them know now; `devices` maps indexes, minors and UUIDs to meters."""
        claims: list[Claim] = []
        complete: set[Evidence] = set()
        facts: list[WorkloadFacts] = []
        for source in self._sources:
            with self._apart(source, "holdings"):
                holdings = source.holdings(devices)
                claims += holdings.claims
                complete |= holdings.complete
                facts += [self._anonymous(fact) for fact in holdings.facts]
                self._rejected[source.name] = holdings.rejected
        return Holdings(tuple(claims), frozenset(complete), tuple(facts))

    def groups(self) -> list[UsageGroup]:
        """Return where the kernel counts what workloads use of the host, of all that know it."""
        groups: list[UsageGroup] = []
        for source in self._sources:
            if isinstance(source, CountsHostUsage):
                with self._apart(source, "groups"):
                    groups += source.groups()
        return groups

    def rejected(self) -> Mapping[str, Mapping[str, int]]:
        """Return the inputs rejected since the start, by source and reason."""
        counts = {name: dict(reasons) for name, reasons in self._rejected.items()}
        for name, faults in self._faults.items():
            reasons = counts.setdefault(name, {})
            reasons[FAULT] = reasons.get(FAULT, 0) + faults
        return counts

    def _anonymous(self, fact: WorkloadFacts) -> WorkloadFacts:
        labels = fact.labels._replace(user=self._masked(fact.labels.user))
        return fact if labels == fact.labels else msgspec.structs.replace(fact, labels=labels)

    def _unmasked(self, fact: WorkloadFacts) -> WorkloadFacts:
        """Leave out a user's name that was masked: it is not the user's, and not to mask again."""
        if self._masked(fact.labels.user) == fact.labels.user:
            return fact
        return msgspec.structs.replace(fact, labels=fact.labels._replace(user=""))

    @contextmanager
    def _apart(self, source: WorkloadSource, asked: str) -> Iterator[None]:
        """Contain an exception of one source: log it once, and count it."""
        key = f"{source.name} {asked}"
        try:
            yield
        except Exception as fault:
            self._faults[source.name] += 1
            _once.failed(key,
                "%s failed (%s): existing claims stay. This is a bug in Joulebook: please report "
                "it",
                source.name, asked, level=logging.ERROR, exc_info=fault,
            )  # fmt: skip
        else:
            _once.recovered(key, "%s works again (%s)", source.name, asked)


Mask = Callable[[str], str]

HASH_CHARACTERS = 16
SHORTEST_KEY_BYTES = 16


def mask(users: str, key_file: str) -> Mask:
    """Return how names are treated: `plain` as they are, `hmac` as a keyed hash, `none` not at all.

    The same key on every node of a site gives the same hash, so that a user's jobs still add up.
    Raises `ConfigError` if the key cannot be used.
    """
    if users == "plain":
        return lambda user: user
    if users == "none":
        return lambda user: ""
    try:
        key = read_secret(Path(key_file)).strip()
    except OSError as e:
        raise ConfigError(
            f"privacy.key_file: {shown_path(key_file)}: cannot be read: {e.strerror}; users = "
            f'"{users}" needs a file with at least {SHORTEST_KEY_BYTES} random bytes'
        ) from e
    if len(key) < SHORTEST_KEY_BYTES:
        raise ConfigError(
            f"privacy.key_file = {key_file!r}: {len(key)} bytes; expected at least "
            f"{SHORTEST_KEY_BYTES} random bytes, the same on every node"
        )

    def hashed(user: str) -> str:
        if not user:
            return ""
        return hmac.new(key, user.encode(), hashlib.sha256).hexdigest()[:HASH_CHARACTERS]

    return hashed
