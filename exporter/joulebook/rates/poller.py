"""One thread that keeps the rates current, and publishes them as immutable sets.

`poller.current` is always there and never waits for anybody. Local sources are read before the
first tick; feeds are asked by the thread, in turn, each as often as it wants. What a feed cannot
say now is filled from what it said before (also before a restart, from the cache on disk), marked
as an estimate, for `keep_s`; after that it is not known.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from joulebook.backoff import LastingThread, pause_s
from joulebook.core.money.rates import Point, RateSet, StepCurve, carried, overlay
from joulebook.errors import ConfigError, FeedEmpty, FeedError, FeedLimited, FeedWrong
from joulebook.log import LogOnce
from joulebook.rates.cache import Cache, CachedRates
from joulebook.rates.contract import DAY_S, Quantity, sift
from joulebook.rates.feeds.server import QuantityRates
from joulebook.rates.sources import Feed

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

HISTORY_S = 40 * DAY_S
"""How long values are kept: energy of an outage is booked at the rates of its time."""
AHEAD_S = 2 * DAY_S

_FIRST_RETRY_S = 30.0
_LAST_RETRY_S = 3600.0
_LONGEST_WAIT_S = 6 * 3600.0
"""The longest wait that a feed may demand."""
_LOOK_BACK_S = 14 * DAY_S
_IDLE_S = 3600.0


class FeedHealth(NamedTuple):
    """How a source does."""

    quantity: Quantity
    source: str
    up: bool
    """The last answer was good, and not late."""
    state: str
    """`ok`, `new` (not queried yet), or the reason of the current failure."""
    fetched_utc_s: int | None
    """When it last gave a good answer; `None`: never."""
    message: str
    errors: Mapping[str, int]
    """Since the start, by reason: those of `contract.FeedError`, `late`, and `fault` (ours)."""

    def age_s(self, now_s: float) -> float | None:
        """Seconds since its last good answer."""
        return None if self.fetched_utc_s is None else max(now_s - self.fetched_utc_s, 0.0)


class _Slot:
    """The state of one feed. Used by one thread only."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.points: tuple[Point, ...] = ()
        self.fetched_s: int | None = None
        self.due = 0.0
        self.failures = 0
        self.state = "new"
        self.message = ""
        self.errors: Counter[str] = Counter()

    def health(self) -> FeedHealth:
        return FeedHealth(
            self.feed.quantity,
            self.feed.source.name,
            self.state == "ok",
            self.state,
            self.fetched_s,
            self.message,
            MappingProxyType(dict(self.errors)),
        )


class Poller:
    """Keeps the rates of `feeds` over `basis`; `now_s` is UTC, `monotonic_s` never jumps."""

    def __init__(
        self,
        feeds: Sequence[Feed],
        basis: RateSet,
        cache: Cache,
        *,
        now_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Reads the cache and local sources. Raises `ConfigError` if one of those is wrong."""
        self._slots = [_Slot(feed) for feed in feeds]
        self._basis = basis
        self._cache = cache
        self._now_s = now_s
        self._monotonic_s = monotonic_s
        self._jitter = jitter
        self._current = basis
        self._health: tuple[FeedHealth, ...] = ()
        self._offers: Mapping[Quantity, QuantityRates] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._prime()

    @property
    def current(self) -> RateSet:
        """The rates as they are known now."""
        return self._current

    def health(self) -> tuple[FeedHealth, ...]:
        """Return the health of each source at its last query."""
        return self._health

    @property
    def offers(self) -> Mapping[Quantity, QuantityRates]:
        """All data of sources, without stand-ins: what the rates service passes on."""
        return self._offers

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start polling feeds in a thread."""
        self._thread = LastingThread("rates", self._run)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a question under way is left to itself."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def ask_all(self) -> None:
        """Query every source once in this thread. Not for a poller that was started."""
        for slot in self._slots:
            slot.due = self._monotonic_s()
        self.step()

    def step(self) -> float:
        """Query the due sources, publish, and return the seconds until the next is due."""
        for slot in self._slots:
            if slot.due <= self._monotonic_s() and not self._stop.is_set():
                self._ask(slot)
                self._publish()
        self._publish()
        due = min((slot.due for slot in self._slots), default=self._monotonic_s() + _IDLE_S)
        return max(due - self._monotonic_s(), 0.0)

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            wait_s = self.step()

    def _prime(self) -> None:
        for slot in self._slots:
            if slot.feed.source.plan.local:
                self._ask(slot)
                if slot.state != "ok":
                    raise ConfigError(slot.message)
                continue
            kept = self._cache.load(slot.feed.quantity, slot.feed.identity)
            if kept is not None:
                good, _ = sift(kept.points, slot.feed.quantity, self._basis.currency)
                slot.points, slot.fetched_s = good, kept.fetched_utc_s
                # A whole cluster may have been switched on at once: what is known will do for
                # the moment in which all would ask.
                slot.due = self._monotonic_s() + self._jitter(0, slot.feed.source.plan.every_s / 10)
        self._publish()

    def _ask(self, slot: _Slot) -> None:
        feed, plan, now_s = slot.feed, slot.feed.source.plan, int(self._now_s())
        if plan.local:
            t0_s = now_s - HISTORY_S
        else:
            newest = slot.points[-1].end_utc_s if slot.points else None
            back_s = now_s - newest if newest is not None else 0
            t0_s = now_s - min(max(plan.back_s, back_s), _LOOK_BACK_S)
        t1_s = now_s + (AHEAD_S if plan.local else plan.ahead_s)
        key = f"{feed.quantity}"
        try:
            said = feed.source.fetch(t0_s, t1_s)
            good, refused = self._sifted(feed, said, now_s)
        except FeedError as error:
            self._failed(slot, error)
            _once.failed(key, "rates.%s: %s", feed.quantity, error)
            return
        except Exception as fault:
            # A fault of ours in reading one feed must not end the thread that asks all others.
            name = type(fault).__name__
            self._failed(slot, FeedWrong(f"{feed.source.name}: {name}", reason="fault"))
            what = "rates.%s: reading %s failed"
            _once.failed(key, what, feed.quantity, feed.source.name, exc_info=fault)
            return
        slot.errors.update(refused)
        slot.failures = 0
        slot.fetched_s = now_s
        slot.due = self._monotonic_s() + plan.every_s * self._jitter(0.9, 1.1)
        slot.points = good if plan.local else _merged(slot.points, good, now_s)
        self._judge(slot, refused, now_s)
        if slot.state == "ok":
            _once.recovered(key, "rates.%s: %s works again", feed.quantity, slot.message)
        else:
            _once.failed(key, "rates.%s: %s", feed.quantity, slot.message)
        if not plan.local:
            self._cache.store(feed.quantity, CachedRates(feed.identity, now_s, slot.points))

    def _sifted(
        self, feed: Feed, said: Sequence[Point], now_s: int
    ) -> tuple[tuple[Point, ...], Counter[str]]:
        """Return plausible points, and others by reason. Raises `FeedError` if none is
        plausible.
        """
        good, refused = sift(said, feed.quantity, self._basis.currency)
        # Milliseconds taken for seconds end up here; such a feed would never be late again.
        sane = tuple(p for p in good if p.start_utc_s < now_s + AHEAD_S + DAY_S)
        if len(sane) < len(good) and not feed.source.plan.local:
            refused["absurd"] += len(good) - len(sane)
            good = sane
        if good:
            return good, refused
        if not refused:
            raise FeedEmpty(f"{feed.source.name}: no value for that time")
        reason = max(refused, key=lambda reason: refused[reason])
        raise FeedWrong(f"{feed.source.name}: all values are {reason}", reason=reason)

    def _judge(self, slot: _Slot, refused: Mapping[str, int], now_s: int) -> None:
        """Whether a good answer is all that it should be."""
        name, plan = slot.feed.source.name, slot.feed.source.plan
        slot.state, slot.message = "ok", name
        end = slot.points[-1].end_utc_s if slot.points else now_s
        if refused:
            slot.state = max(refused, key=lambda reason: refused[reason])
            slot.message = f"{name}: {sum(refused.values())} values rejected: {', '.join(refused)}"
        elif end is not None and end + plan.late_s <= now_s:
            slot.state = "late"
            slot.errors["late"] += 1
            slot.message = f"{name}: its newest value ended {now_s - end} s ago"

    def _failed(self, slot: _Slot, error: FeedError) -> None:
        slot.errors[error.reason] += 1
        slot.state, slot.message = error.reason, str(error)
        slot.failures += 1
        wait_s = pause_s(
            slot.failures, _FIRST_RETRY_S, _LAST_RETRY_S, lambda: self._jitter(0.0, 1.0)
        )
        if isinstance(error, FeedLimited):
            wait_s = max(wait_s, min(error.retry_after_s, _LONGEST_WAIT_S))
        if slot.feed.source.plan.local:  # A file that a person is about to mend.
            wait_s = slot.feed.source.plan.every_s
        slot.due = self._monotonic_s() + wait_s

    def _publish(self) -> None:
        curves = {
            slot.feed.quantity: StepCurve(carried(slot.points, slot.feed.keep_s))
            for slot in self._slots
        }
        fresh = RateSet(
            self._basis.currency,
            self._basis.zone,
            curves.get(Quantity.PRICE, StepCurve()),
            curves.get(Quantity.CARBON, StepCurve()),
            curves.get(Quantity.PUE, self._basis.pue),
            self._basis.hardware,
        )
        if fresh != self._current:
            self._current = fresh
        self._offers = {
            slot.feed.quantity: QuantityRates(slot.feed.source.name, slot.points, slot.fetched_s)
            for slot in self._slots
        }
        self._health = tuple(slot.health() for slot in self._slots)


def _merged(old: tuple[Point, ...], new: tuple[Point, ...], now_s: int) -> tuple[Point, ...]:
    """Return the old points overlaid with the new ones."""
    # A figure without end (of a rates service whose settings were changed) ends with the next.
    if old and old[-1].end_utc_s is None:
        *rest, last = old
        if last.start_utc_s < new[0].start_utc_s:
            rest.append(msgspec.structs.replace(last, end_utc_s=new[0].start_utc_s))
        old = tuple(rest)
    kept = overlay(old, new)
    return tuple(p for p in kept if p.end_utc_s is None or p.end_utc_s > now_s - HISTORY_S)
