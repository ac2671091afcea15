"""A second account of the truth: what counters proved, who could have it, and what it cost.

It knows what sensors and sources handed over and nothing of how joulebook reckons: sums are made
here anew, of plain integers and fractions. Where the truth is not one figure (energy at a boundary,
evidence that came late), it is the least and the most that can be true.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Meter, Reading
from joulebook.core.evidence import Remainder
from joulebook.core.ledger.state import Entry
from joulebook.core.workloads import WorkloadId

S = 1_000_000_000
HOLE_NS = 5 * S
EDGE_NS = 150_000_000
"""A counter moves every 100 ms at most: so old may be what a reading says."""

UNREAD_NS = 60 * S
FAR_NS = 3_600 * S
FOREVER = 1 << 62
NOBODY = WorkloadId("", "")


Key = tuple[WorkloadId | None, str]


class Fault(AssertionError):
    """What joulebook says cannot be true."""


class Undecided(Exception):
    """Whether a counter may have wrapped twice hangs on a second: there is no one truth."""


class Seen(NamedTuple):
    """One reading that the daemon got. `life` is the counter's, `outage`: the first after one."""

    reading: Reading
    life: int
    outage: bool
    garbage: bool


class Step(NamedTuple):
    """What a meter proved between two readings. `unknown`: somewhere before, nobody knows when."""

    a_ns: int
    b_ns: int
    energy_uj: int
    outage: bool
    unknown: bool


class Tale(NamedTuple):
    """One claim as the daemon was told it: certain until `sure_ns`, possible until `may_ns`."""

    who: WorkloadId
    evidence: Evidence
    full: bool
    t0_ns: int
    heard_ns: int
    sure_ns: int
    may_ns: int
    t1_ns: int | None


class Stay(NamedTuple):
    """From when to when a process of somebody was on a card."""

    meter: Meter
    who: WorkloadId
    t0_ns: int
    t1_ns: int


class Heard(NamedTuple):
    """What a source said when it was asked."""

    t_ns: int
    evidence: Evidence
    claims: tuple[Claim, ...]
    whole: bool


@dataclass
class Account:
    """All that the daemon was told, as far as it is in the ledger, and what it said of it."""

    settle_ns: int
    seen: dict[Meter, list[Seen]] = field(default_factory=lambda: defaultdict(list))
    heard: list[Heard] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)
    posted: Counter[tuple[Meter, WorkloadId | Remainder]] = field(default_factory=Counter)
    booked: Counter[Meter] = field(default_factory=Counter)
    begun: dict[WorkloadId, int] = field(default_factory=dict)
    _kept: tuple[dict[Meter, int], int] = ({}, 0)
    _resumed: set[Meter] = field(default_factory=set)
    _steps: dict[Meter, list[tuple[Seen, Step]]] = field(default_factory=dict)

    # ---- what happens ----------------------------------------------------------------------------

    def delivered(self, seen: Iterable[tuple[Reading, int, bool]]) -> None:
        for reading, life, garbage in sorted(seen, key=lambda each: each[0].t_ns):
            meter = reading.meter
            known = self.seen[meter]
            before = next((each.reading for each in reversed(known) if not each.garbage), None)
            if before is not None and reading.t_ns <= before.t_ns:
                continue
            self.seen[meter].append(Seen(reading, life, meter in self._resumed, garbage))
            if not garbage:
                self._resumed.discard(meter)

    def told(self, t_ns: int, evidence: Evidence, claims: tuple[Claim, ...], whole: bool) -> None:
        self.heard.append(Heard(t_ns, evidence, claims, whole))

    def committed(self, entry: Entry) -> None:
        """A commit went through: what it adds up to must be what some reading proved."""
        self._kept = ({meter: len(seen) for meter, seen in self.seen.items()}, len(self.heard))
        for fact in entry.facts:
            if fact.started_ns:
                self.begun[fact.id] = min(fact.started_ns, self.begun.get(fact.id, FOREVER))
        for key, amount in entry.postings.items():
            if amount.energy_uj < 0 or not 0 <= amount.idle_uj <= amount.energy_uj:
                raise Fault(f"{key}: {amount}")
            self.posted[key.meter, key.subject] += amount.energy_uj
            self.booked[key.meter] += amount.energy_uj
        for meter in {key.meter for key in entry.postings}:
            self.edge(meter)

    def crashed(self) -> None:
        """What was not committed was never told."""
        lengths, heard = self._kept
        for meter in self.seen:
            del self.seen[meter][lengths.get(meter, 0) :]
        del self.heard[heard:]

    def copied(self) -> object:
        """All that the ledger holds now, for `put_back`."""
        lengths, heard = self._kept
        seen = {meter: seen[: lengths.get(meter, 0)] for meter, seen in self.seen.items()}
        kept = (seen, self.heard[:heard], self.posted, self.booked, self.begun, self._kept)
        return copy.deepcopy(kept)

    def put_back(self, kept: Any) -> None:
        seen, self.heard, self.posted, self.booked, self.begun, self._kept = copy.deepcopy(kept)
        self.seen, self._steps = defaultdict(list, seen), {}

    def resumed(self) -> None:
        self._resumed = {meter for meter, seen in self.seen.items() if seen}

    # ---- what the counters proved ----------------------------------------------------------------

    def steps(self, meter: Meter) -> list[Step]:
        """What each reading proved, in order; none for one that proves nothing."""
        seen = _proving(self.seen[meter])
        known = self._steps.setdefault(meter, [])
        # Readings only come and go at the end.
        while known and (len(known) >= len(seen) or known[-1][0] is not seen[len(known)]):
            known.pop()
        for before, now in pairwise(seen[len(known) :]):
            known.append((now, _step(before, now)))
        return [step for _, step in known]

    def edge(self, meter: Meter) -> int:
        """The instant up to which the postings of a meter reach."""
        left_uj = self.booked[meter]
        first = next((each.reading.t_ns for each in self.seen[meter] if not each.garbage), 0)
        for step in self.steps(meter):
            if left_uj < step.energy_uj or (left_uj == 0 and step.energy_uj):
                break
            left_uj -= step.energy_uj
            first = step.b_ns
        if left_uj:
            proved = sum(step.energy_uj for step in self.steps(meter))
            raise Fault(
                f"{meter.name}: {self.booked[meter]} uJ are posted, which no reading proved "
                f"({left_uj} more than the one before; all proved {proved})"
            )
        return first

    # ---- who could have it -----------------------------------------------------------------------

    def tales(self, meter: Meter) -> list[Tale]:
        """The claims on a meter, by what was said of them when."""
        done: list[Tale] = []
        open_: dict[tuple[Evidence, Key], Tale] = {}
        closed: set[tuple[Evidence, Key, int]] = set()
        for heard in self.heard:
            if not heard.whole:
                continue
            listed = {(c.workload, c.instance): c for c in heard.claims if c.meter == meter}
            for key, claim in listed.items():
                if (heard.evidence, key, claim.t0_ns) in closed:
                    continue
                tale = open_.get((heard.evidence, key)) or Tale(
                    claim.workload or NOBODY, heard.evidence,
                    claim.parts == claim.of and not claim.instance,
                    claim.t0_ns, heard.t_ns, 0, FOREVER, None,
                )  # fmt: skip
                tale = tale._replace(sure_ns=heard.t_ns)
                open_[heard.evidence, key] = tale
                if claim.t1_ns is not None:
                    may_ns = max(claim.t1_ns, heard.t_ns)
                    done.append(
                        open_.pop((heard.evidence, key))._replace(
                            sure_ns=claim.t1_ns, may_ns=may_ns, t1_ns=claim.t1_ns
                        )
                    )
                    closed.add((heard.evidence, key, claim.t0_ns))
            for evidence, key in [*open_]:
                if evidence is heard.evidence and key not in listed:
                    done.append(open_.pop((evidence, key))._replace(may_ns=heard.t_ns))
        return [*done, *open_.values()]

    def check_holders(self, meter: Meter) -> None:
        """Nobody has less than was certainly its own, nor more than could be."""
        tales, stays = self.tales(meter), [s for s in self.stays if s.meter == meter]
        least: Counter[WorkloadId] = Counter()
        most: Counter[WorkloadId] = Counter()
        down_uj = reset_uj = 0
        edge_ns = self.edge(meter)
        for step in self.steps(meter):
            if step.b_ns > edge_ns:
                break
            # A new life without proof may be noticed only after an outage that followed.
            down_uj += step.energy_uj * (step.outage or step.unknown)
            reset_uj += step.energy_uj * step.unknown
            if step.unknown:
                continue
            owner = self._owner(step, tales)
            if owner is not None:
                least[owner] += step.energy_uj
            could = {owner} if owner is not None else set(_could(step, tales, stays))
            for who in could:
                most[who] += step.energy_uj
        for (where, subject), energy_uj in self.posted.items():
            if where != meter:
                continue
            if isinstance(subject, WorkloadId) and energy_uj > most[subject]:
                raise Fault(
                    f"{meter.name}: {subject} got {energy_uj} uJ, and cannot have consumed more "
                    f"than {most[subject]}"
                )
            limit = {Remainder.DAEMON_DOWN: down_uj, Remainder.COUNTER_RESET: reset_uj}
            if isinstance(subject, Remainder) and energy_uj > limit.get(subject, FOREVER):
                raise Fault(f"{meter.name}: {energy_uj} uJ are {subject}, of {limit[subject]}")
        for who, energy_uj in least.items():
            subject = Remainder.UNKNOWN_HOLDER if who == NOBODY else who
            if self.posted[meter, subject] < energy_uj:
                raise Fault(
                    f"{meter.name}: {subject} got {self.posted[meter, subject]} uJ of at least "
                    f"{energy_uj} that were its own"
                )

    def _owner(self, step: Step, tales: Iterable[Tale]) -> WorkloadId | None:
        """Who alone can have held the whole meter throughout; `None`: that is not certain."""
        if step.outage:
            return None
        a_ns, b_ns = step.a_ns - EDGE_NS, step.b_ns + EDGE_NS
        there = [tale for tale in tales if tale.t0_ns < b_ns and tale.may_ns > a_ns]
        for tale in there:
            known_ns = max(tale.t0_ns, tale.heard_ns - self.settle_ns)
            if not tale.full or known_ns > a_ns or tale.sure_ns < b_ns:
                continue
            rivals = (each for each in there if each.who != tale.who)
            if all(_outranks(tale, rival) for rival in rivals):
                return tale.who
        return None


def _outranks(tale: Tale, rival: Tale) -> bool:
    return (tale.evidence, -tale.t0_ns) < (rival.evidence, -rival.t0_ns)


def _could(step: Step, tales: Iterable[Tale], stays: Iterable[Stay]) -> Iterator[WorkloadId]:
    """Who may have had a part of it: of an outage only who was there before and after."""
    a_ns, b_ns = step.a_ns - EDGE_NS, step.b_ns + EDGE_NS
    for tale in tales:
        if step.outage:
            lasted = tale.sure_ns >= step.b_ns if tale.t1_ns is None else tale.t1_ns >= step.b_ns
            # Of a card that was not read for a minute, each minute is an outage of its own.
            since_ns = step.a_ns + EDGE_NS if step.b_ns - step.a_ns < UNREAD_NS else step.b_ns
            if tale.t0_ns <= since_ns and lasted:
                yield tale.who
        elif tale.t0_ns < b_ns and tale.may_ns > a_ns:
            yield tale.who
    for stay in stays:
        if stay.t0_ns < b_ns and stay.t1_ns > a_ns:
            yield stay.who


def _proving(seen: Iterable[Seen]) -> list[Seen]:
    """Leave out what proves nothing: lies, and a first look that the next one does not confirm.

    Nothing tells of the new life of a counter without uptime but a second look that agrees.
    """
    found: list[Seen] = []
    for now in seen:
        if len(found) > 1:
            before, last = found[-2:]
            told = last.reading.uptime_ns is not None or last.reading.energy_uj is None
            told = told or last.reading.epoch != before.reading.epoch
            if last.life != before.life and not told and (now.garbage or now.life != last.life):
                found.pop()
        if not now.garbage:
            found.append(now)
    return found


def _step(before: Seen, now: Seen) -> Step:
    a, b = before.reading, now.reading
    energy_uj, a_ns, unknown = 0, a.t_ns, False
    if a.energy_uj is None or b.energy_uj is None:
        if b.t_ns - a.t_ns <= HOLE_NS:
            energy_uj = ((a.power_mw or 0) + (b.power_mw or 0)) * (b.t_ns - a.t_ns) // 2_000_000
    elif before.life != now.life:
        energy_uj, unknown = b.energy_uj, b.uptime_ns is None
        if b.uptime_ns is not None:
            a_ns = max(a_ns, b.t_ns - b.uptime_ns)
    elif b.wrap_uj is None:
        energy_uj = b.energy_uj - a.energy_uj
    else:
        wraps_ns = b.wrap_uj * 1_000_000 // (b.max_power_mw or 1)
        if abs(b.t_ns - a.t_ns - wraps_ns) < S:
            raise Undecided
        if b.t_ns - a.t_ns < wraps_ns:
            energy_uj = (b.energy_uj - a.energy_uj) % b.wrap_uj
    return Step(a_ns, b.t_ns, energy_uj, now.outage, unknown)


@dataclass
class Page:
    """What is on `/metrics`, from scrape to scrape: no counter falls, and each begins at zero."""

    zero_hold_ns: int
    expire_ns: int
    values: dict[tuple[str, tuple[str, ...]], tuple[float, int]] = field(default_factory=dict)
    last_ns: int = 0

    def forget(self) -> None:
        """Whoever puts an older ledger back has counters that begin again."""
        self.values, self.last_ns = {}, 0

    def scraped(self, counters: Mapping[tuple[str, tuple[str, ...]], float], now_ns: int) -> None:
        is_watched = 0 < now_ns - self.last_ns < self.zero_hold_ns
        # One that is withdrawn comes back at what it last showed, or at zero if that has expired.
        of_ours = ["joulebook_workload", "joulebook_experiment"][: 1 + (self.expire_ns > FAR_NS)]
        for key, value in counters.items():
            name = key[0]
            before, at_ns = self.values.get(key, (0.0, 0))
            lasting = now_ns - at_ns < self.expire_ns and not name.startswith("joulebook_workload")
            if key not in self.values or not (at_ns == self.last_ns or lasting):
                if name.startswith(tuple(of_ours)) and is_watched and value:
                    raise Fault(f"{name}{key[1]} appears at {value}, and Prometheus counts none")
            elif value < before:
                raise Fault(f"{name}{key[1]} fell from {before} to {value}")
            self.values[key] = (value, now_ns)
        self.last_ns = now_ns
