"""A machine in virtual time: its clocks, cards that know their true energy, and who holds them.

Nothing here is joulebook's but the types of what is handed over. A look at a card is called from
the tick's own thread, so that a scenario is the same each time it is played.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from joulebook.clock import NodeClock
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import (
    Component,
    DeviceStatus,
    Failure,
    InstanceUse,
    Meter,
    ProcessUse,
    Reading,
)
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.errors import SensorLost
from joulebook.node.sensor_thread import SensorThread
from joulebook.node.sensors.contract import PollResult
from joulebook.node.workloads.contract import NOTHING_HELD, Before, Boundary, Holdings

MS, S = 1_000_000, 1_000_000_000
MOST_MW = 1_000_000
BUSY_MW = 150_000
GLANCE_NS = 3 * MS


class Time:
    """What stands in the place of the module `time`. A suspend passes by the monotonic clock."""

    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME

    def __init__(self, utc_ns: int) -> None:
        self.true_ns = 0  # the axis of the cards: nothing ever changes its pace
        self.boot_ns = self.mono_ns = 5_000 * S
        self.utc_ns = utc_ns
        self.boot = 0

    def pass_by(self, duration_ns: int, *, asleep: bool = False) -> None:
        self.true_ns += duration_ns
        self.boot_ns += duration_ns
        self.utc_ns += duration_ns
        self.mono_ns += 0 if asleep else duration_ns

    def reboot(self, off_ns: int) -> None:
        self.pass_by(off_ns)
        self.boot_ns = self.mono_ns = 2 * S
        self.boot += 1

    def monotonic(self) -> float:
        return self.mono_ns / S

    def time(self) -> float:
        return self.utc_ns / S

    def time_ns(self) -> int:
        return self.utc_ns

    def clock_gettime_ns(self, clock: int) -> int:
        assert clock == self.CLOCK_BOOTTIME
        return self.boot_ns


@dataclass
class Card:
    """One GPU. Its counter (none: it tells its power) moves every `period_ns`, in millijoules."""

    meter: Meter
    model: str
    power_mw: int
    counter: bool = True
    uptime: bool = True
    period_ns: int = 20 * MS
    lifetime_uj: int = 5_000_000_000_000
    wrap_uj: int | None = None
    instances: tuple[InstanceUse, ...] | None = None
    processes: dict[int, ProcessUse] = field(default_factory=dict)
    lost: str = ""
    gone: bool = False
    garbage: str = ""
    lied: bool = False
    truth: dict[tuple[int, int | None], tuple[int, bool]] = field(default_factory=dict)
    """Of each look, by its time and answer: the life of the counter, and whether it was a lie."""
    born_ns: int = -40_000 * S
    curve: list[tuple[int, int, int]] = field(default_factory=list)  # since, picojoules, mW

    def __post_init__(self) -> None:
        self.curve.append((self.born_ns, 0, self.power_mw))

    def draw(self, t_ns: int, power_mw: int) -> None:
        """Draw so much from now on."""
        self.curve.append((t_ns, self._pj(t_ns), power_mw))
        self.power_mw = power_mw

    def reload(self, t_ns: int) -> None:
        """The driver is loaded again: its counter begins at zero."""
        self.born_ns, self.lifetime_uj = t_ns, 0
        self.curve = [(t_ns, 0, self.power_mw)]

    def _pj(self, t_ns: int) -> int:
        since, pj, mw = next(each for each in reversed(self.curve) if each[0] <= t_ns)
        return pj + (t_ns - since) * mw

    def counter_uj(self, t_ns: int) -> int:
        step_ns = max(t_ns // self.period_ns * self.period_ns, self.born_ns)
        millijoules = self._pj(step_ns) // 1_000_000_000
        return self.lifetime_uj + 1_000 * millijoules

    def poll(self, true_ns: int, node_ns: int, epoch: str, processes: bool, full: bool) -> Reading:
        energy_uj = self.counter_uj(true_ns) if self.counter else None
        if energy_uj is not None and self.wrap_uj is not None:
            energy_uj %= self.wrap_uj
        # One lie is enough: two that agree, with nothing between them on record, are the truth.
        lies = energy_uj is not None and bool(self.garbage) and full and not self.lied
        if energy_uj is not None and lies:
            small = self.garbage == "zero" and energy_uj > 10**12
            energy_uj = 0 if small else energy_uj + 10**14
            self.lied = True
        self.truth[node_ns, energy_uj] = (self.born_ns, lies)
        listed = tuple(self.processes.values())
        return Reading(
            self.meter,
            node_ns,
            energy_uj=energy_uj,
            power_mw=None if self.counter else self.power_mw,
            wrap_uj=self.wrap_uj,
            epoch=epoch,
            uptime_ns=(true_ns - self.born_ns) // S * S if self.uptime and self.counter else None,
            max_power_mw=MOST_MW,
            busy=self.power_mw > BUSY_MW if full else None,
            processes=listed if processes else None,
            instances=self.instances if full else None,
        )


class Cards:
    """The sensor of some cards."""

    kind = "counter"
    components = frozenset({Component.GPU})

    def __init__(self, name: str, cards: Sequence[Card], now: Time) -> None:
        self.name = name
        self.cards = cards
        self.now = now
        self.clock: NodeClock | None = None
        self.broken = False
        self.made_ns: int | None = None
        """An answer that was held up says how things stood at this instant."""

    def owns(self, meter: Meter) -> bool:
        return any(card.meter == meter for card in self.cards)

    def open(self) -> None:
        if self.broken:
            raise SensorLost("the driver does not answer", reason="gpu_lost")

    def close(self) -> None:
        pass

    def poll(self, *, processes: bool) -> PollResult:
        self.open()
        there = [card for card in self.cards if not card.gone]
        read = [card for card in there if not card.lost]
        statuses = (
            DeviceStatus(
                card.meter, i, self._node_ns(), model=card.model,
                values={"power_watts": card.power_mw / 1000},
            )
            for i, card in enumerate(there)
        )  # fmt: skip
        return PollResult(
            tuple(self._reading(card, processes, full=True) for card in read),
            tuple(Failure(c.meter, self._node_ns(), c.lost) for c in there if c.lost),
            tuple(statuses),
        )

    def poll_energy(self, meters: Iterable[Meter]) -> Sequence[Reading]:
        self.open()
        wanted = set(meters)
        return [
            self._reading(card, processes=False, full=False)
            for card in self.cards
            if card.meter in wanted and not card.lost and not card.gone
        ]

    def _node_ns(self) -> int:
        assert self.clock is not None
        late_ns = 0 if self.made_ns is None else self.now.true_ns - self.made_ns
        return self.clock.now_ns() - late_ns

    def _reading(self, card: Card, processes: bool, *, full: bool) -> Reading:
        assert self.clock is not None
        true_ns = self.now.true_ns if self.made_ns is None else max(self.made_ns, card.born_ns)
        return card.poll(true_ns, self._node_ns(), self.clock.epoch, processes, full)


class InlineSensor(SensorThread):
    """The real calls and their bookkeeping, made by whoever asks."""

    def __init__(
        self,
        cards: Cards,
        clock: NodeClock,
        known: set[Meter],
        wait: Callable[[int], None],
        deliver: Callable[[PollResult], None],
    ) -> None:
        super().__init__(cards, clock, kind="counter", known=known)
        self.cards = cards
        self.hung = False
        self._pass = wait
        self._deliver = deliver

    def start(self) -> None:
        pass

    def stop(self, patience_s: float = 2.0) -> None:
        self._close()

    def _revive(self) -> None:
        pass

    def ask(self, *, processes: bool) -> None:
        super().ask(processes=processes)
        if self.hung:
            if self._in_call_since is None:
                self._in_call_since = self.cards.now.monotonic()
                self.cards.made_ns = self.cards.now.true_ns
            return
        self._answer()

    def answer_late(self, *, stale: bool) -> None:
        """The call that hung comes back, with how things stood when it began or stand now."""
        self.hung = False
        if self._in_call_since is None:
            return
        if not stale:
            self.cards.made_ns = None
        self._answer()
        self.cards.made_ns = None

    def _answer(self) -> None:
        asked, self._asked = self._asked, None
        self._poll(processes=bool(asked))

    def glance_until(self, until_ns: int) -> None:
        """Play a burst that is wanted, as far as there is time."""
        while self._wants_energy() and not self.hung and self.cards.now.true_ns < until_ns:
            self._poll_energy()
            self._pass(GLANCE_NS)

    def wait(self, timeout_s: float) -> bool:
        if not self._answered.is_set():
            self._pass(max(round(timeout_s * S), 0))
        return self._answered.is_set()

    def collect(self) -> PollResult:
        result = super().collect()
        self._deliver(result)
        return result


class Teller:
    """A workload source that may be late, silent, or raise; it keeps its evidence on a disk."""

    def __init__(self, name: str, evidence: Evidence) -> None:
        self.name = name
        self.evidence = evidence
        self.claims: dict[str, Claim] = {}
        self.facts: dict[str, WorkloadFacts] = {}
        self.pids: dict[int, WorkloadId] = {}
        self.silent = self.raises = False
        self.boundary: Boundary = lambda _: None
        self.hear: Callable[[Teller, tuple[Claim, ...], bool], None] = lambda *_: None
        self._handed: set[str] = set()

    def open(self, boundary: Boundary, before: Before = NOTHING_HELD) -> None:
        self.boundary = boundary

    def forget_begins(self, now_ns: int) -> None:
        """It was started again, and knows of what runs that it does, not since when."""
        for key, claim in self.claims.items():
            if claim.t1_ns is None:
                self.claims[key] = msgspec.structs.replace(claim, t0_ns=now_ns)
                fact = self.facts[key]
                self.facts[key] = msgspec.structs.replace(fact, started_ns=now_ns)

    def holdings(self, devices: Sequence[DeviceStatus]) -> Holdings:
        if self.raises:
            raise UnicodeError("a comment nobody foresaw")
        if self.silent:
            self.hear(self, (), False)
            return Holdings()
        self._handed = {key for key, claim in self.claims.items() if claim.t1_ns is not None}
        claims = tuple(self.claims.values())
        self.hear(self, claims, True)
        return Holdings(claims, frozenset({self.evidence}), tuple(self.facts.values()))

    def settled(self) -> None:
        for key in self._handed:
            self.claims.pop(key, None)
            self.facts.pop(key, None)
        self._handed = set()

    def identify(self, pid: int) -> WorkloadId | None:
        return self.pids.get(pid)

    def close(self) -> None:
        pass
