"""A small world for the core: devices with exact energy, jobs, and a daemon that may be killed.

No clock, no I/O, no chance: every value follows from the numbers a world is made of. Devices know
the true energy at every instant; what the core gets to see of it is a counter that steps every
100 ms +-10 ms, in whole millijoules, read each second and in bursts after a boundary. The daemon
keeps nothing but the books: a kill loses all that came in after the last tick.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component, Failure, InstanceUse, Meter, Reading
from joulebook.core.evidence import Amount, PostingKey, Remainder
from joulebook.core.ledger.advance import BookingPolicy, Tick, advance
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.units import NS_PER_MS, NS_PER_S, PJ_PER_UJ, UJ_PER_MJ

MS, S = NS_PER_MS, NS_PER_S
EPOCH_NS = 1_760_000_000 * S
"""Where the time of a world begins: some day in 2025, not on a quarter hour."""

BURST_MS = 400
MORE_UJ = 10**16
BUSY_UJ = 100_000_000
"""A device that consumed more than this in a second was busy."""
MASK = (1 << 64) - 1


def mix(number: int) -> int:
    """A well-mixed 64-bit hash of an integer (splitmix64): the only chance there is here."""
    z = (number * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def gpu(name: str = "GPU-0") -> Meter:
    return Meter(Component.GPU, name)


def job_id(name: str) -> WorkloadId:
    return WorkloadId("slurm", name)


@dataclass(frozen=True)
class Reset:
    """The counter begins again at zero; with an epoch because the machine was booted."""

    t_ns: int
    epoch: str = ""


@dataclass(frozen=True)
class Device:
    """One meter. `steps` are (instant, milliwatts), the first before anything else happens."""

    meter: Meter
    steps: tuple[tuple[int, int], ...]
    lifetime_uj: int = 5_000_000 * 1_000_000
    period_ns: int = 100 * MS
    jitter_ns: int = 10 * MS
    phase_ns: int = 0
    seed: int = 0
    resets: tuple[Reset, ...] = ()
    uptime: bool = False
    wrap_uj: int | None = None
    counter: bool = True
    power: bool = False
    instances: tuple[tuple[int, tuple[InstanceUse, ...]], ...] = ()
    """MIG: (instant, the instances from then on), the first before anything else happens."""
    garbage: tuple[tuple[int, int], ...] = ()
    """By number of the second: what the counter says instead (from `MORE_UJ` on: so much more)."""

    @cached_property
    def _sums(self) -> tuple[list[int], list[int]]:
        times = [t for t, _ in self.steps]
        parts = [(b - a) * mw for (a, mw), (b, _) in pairwise(self.steps)]
        return times, list(accumulate(parts, initial=0))

    def true_pj(self, t_ns: int) -> int:
        """Energy since the first step, in picojoules, exactly."""
        times, sums = self._sums
        i = max(bisect_right(times, t_ns) - 1, 0)
        return sums[i] + self.steps[i][1] * (t_ns - times[i])

    def true_uj(self, a_ns: int, b_ns: int) -> int:
        return (self.true_pj(b_ns) - self.true_pj(a_ns)) // PJ_PER_UJ

    def power_mw(self, t_ns: int) -> int:
        return self.steps[max(bisect_right(self._sums[0], t_ns) - 1, 0)][1]

    def step_ns(self, k: int) -> int:
        """When the counter moves for the k-th time."""
        wobble = mix((self.seed << 32) + k) % (2 * self.jitter_ns + 1) - self.jitter_ns
        return EPOCH_NS + self.phase_ns + k * self.period_ns + wobble

    def last_step_ns(self, t_ns: int) -> int:
        if not self.period_ns:
            return t_ns
        k = (t_ns - EPOCH_NS - self.phase_ns) // self.period_ns + 1
        while self.step_ns(k) > t_ns:
            k -= 1
        return self.step_ns(k)

    def counter_uj(self, t_ns: int) -> int:
        """What the counter says, whole millijoules in microjoules, before it wraps."""
        since, base_uj = self.steps[0][0], self.lifetime_uj
        for reset in self.resets:
            if reset.t_ns <= t_ns:
                since, base_uj = reset.t_ns, 0
        moved_ns = max(self.last_step_ns(t_ns), since)
        return (base_uj + self.true_uj(since, moved_ns)) // UJ_PER_MJ * UJ_PER_MJ

    def read(self, t_ns: int, *, full: bool) -> Reading:
        """One look; `full` is the look of every second, else a glance of a burst."""
        past = [r for r in self.resets if r.t_ns <= t_ns]
        born_ns = past[-1].t_ns if past else EPOCH_NS - 40_000 * S
        energy: int | None = None
        if self.counter:
            energy = self.counter_uj(t_ns)
            for second, says in self.garbage if full else ():
                if second == (t_ns - EPOCH_NS) // S:
                    energy = says if says < MORE_UJ else energy + says
            if self.wrap_uj is not None:
                energy %= self.wrap_uj
        return Reading(
            self.meter,
            t_ns,
            energy_uj=energy,
            power_mw=self.power_mw(t_ns) if self.power else None,
            wrap_uj=self.wrap_uj,
            epoch=next((r.epoch for r in reversed(past) if r.epoch), "boot-0"),
            uptime_ns=(t_ns - born_ns) // S * S if self.uptime else None,
            max_power_mw=1_000_000,
            busy=self.true_uj(t_ns - S, t_ns) > BUSY_UJ if full else None,
            processes=() if full else None,
            instances=self._instances(t_ns) if full else None,
        )

    def _instances(self, t_ns: int) -> tuple[InstanceUse, ...]:
        return next((there for since, there in reversed(self.instances) if since <= t_ns), ())


@dataclass(frozen=True)
class Job:
    """A workload that truly held (a part of) a device in `[t0, t1)`, and how it comes to be known.

    `late_ns` is how long after the fact its start and its end are reported. The end of one that
    vanishes is never reported: complete evidence just no longer mentions it.
    """

    name: str
    meter: Meter
    t0_ns: int
    t1_ns: int
    parts: int = 1
    of: int = 1
    late_ns: int = 0
    evidence: Evidence = Evidence.PROLOG
    vanishes: bool = False
    instance: str = ""

    @property
    def id(self) -> WorkloadId:
        return job_id(self.name)

    def claim(self, now_ns: int, committed_ns: int) -> Claim | None:
        """What a complete report says of it at `now_ns`."""
        if now_ns < self.t0_ns + self.late_ns:
            return None
        known_ns = self.t1_ns + (0 if self.vanishes else self.late_ns)
        ended = now_ns >= known_ns
        if ended and (self.vanishes or committed_ns > known_ns + 2 * S):
            return None
        t1_ns = self.t1_ns if ended else None
        part = (self.parts, self.of, self.instance)
        return Claim(self.id, self.meter, self.t0_ns, t1_ns, self.evidence, *part)

    def facts(self) -> WorkloadFacts:
        labels = Labels("ada", "nlp", self.name.split("_", maxsplit=1)[0])
        return WorkloadFacts(self.id, labels=labels, started_ns=self.t0_ns, complete=True)


Span = tuple[int, int]


@dataclass(frozen=True)
class World:
    """Devices and jobs, and what the daemon goes through.

    `alive` are the spans in which it runs; `silent` those in which the evidence of jobs is not
    whole; `lost` those in which every look fails; `hung` those in which there is no answer.
    """

    devices: tuple[Device, ...]
    jobs: tuple[Job, ...]
    alive: tuple[Span, ...]
    cadence_ns: int = S
    silent: tuple[Span, ...] = ()
    lost: tuple[Span, ...] = ()
    hung: tuple[Span, ...] = ()
    bursts: bool = True
    notice_ns: int = 2 * MS
    utc_steps: tuple[tuple[int, int], ...] = ()
    extra: tuple[int, ...] = ()
    """Instants of further glances at every device."""

    def of_burst(self, device: Device) -> list[int]:
        """Instants of the bursts: a few ms apart until two steps were seen after a boundary."""
        times = set(self.extra)
        edges = [
            t + job.late_ns
            for job in self.jobs
            for t in (job.t0_ns, job.t1_ns)
            if job.meter == device.meter
        ]
        for edge_ns in edges if self.bursts else ():
            at_ns, seen, shown = edge_ns + self.notice_ns, 0, None
            while seen < 2 and at_ns < edge_ns + BURST_MS * MS:
                times.add(at_ns)
                says = device.counter_uj(at_ns)
                seen += shown is not None and says != shown
                shown = says
                at_ns += 2 * MS + mix(at_ns) % (2 * MS)
        return sorted(times)

    def ticks(self) -> Iterator[Tick]:
        of_burst = {device.meter: self.of_burst(device) for device in self.devices}
        committed_ns = 0
        for start_ns, stop_ns in self.alive:
            before_ns, resumed = start_ns - 1, committed_ns > 0
            for now_ns in range(start_ns, stop_ns, self.cadence_ns):
                yield self._tick(before_ns, now_ns, committed_ns, of_burst, resumed)
                before_ns = committed_ns = now_ns
                resumed = False

    def _tick(
        self,
        before_ns: int,
        now_ns: int,
        committed_ns: int,
        of_burst: Mapping[Meter, Sequence[int]],
        resumed: bool,
    ) -> Tick:
        readings: list[Reading] = []
        failures: list[Failure] = []
        for device in self.devices:
            for t_ns in of_burst[device.meter]:
                answers = not (_within(t_ns, self.lost) or _within(t_ns, self.hung))
                if before_ns < t_ns < now_ns and answers:
                    readings.append(device.read(t_ns, full=False))
            if _within(now_ns, self.lost):
                failures.append(Failure(device.meter, now_ns, "gpu_lost"))
            elif not _within(now_ns, self.hung):
                readings.append(device.read(now_ns, full=True))
        silent = _within(now_ns, self.silent)
        claims = [c for job in self.jobs if (c := job.claim(now_ns, committed_ns)) is not None]
        reported = [j for j in self.jobs if before_ns < j.t0_ns + j.late_ns <= now_ns]
        return Tick(
            now_ns,
            utc_offset_ns=sum(by_ns for at_ns, by_ns in self.utc_steps if at_ns <= now_ns),
            readings=tuple(readings),
            failures=tuple(failures),
            claims=() if silent else tuple(claims),
            complete=frozenset() if silent else frozenset(Evidence),
            facts=tuple(job.facts() for job in reported),
            resumed=resumed,
        )


def _within(t_ns: int, spans: Iterable[Span]) -> bool:
    return any(a <= t_ns < b for a, b in spans)


@dataclass
class Run:
    """What a daemon made of a world: the books after each tick, and all postings and gaps."""

    history: list[Books] = field(default_factory=lambda: [Books()])
    entries: list[Entry] = field(default_factory=list)
    postings: dict[PostingKey, Amount] = field(default_factory=dict)

    @property
    def books(self) -> Books:
        return self.history[-1]

    def take(self, tick: Tick, policy: BookingPolicy) -> None:
        books, entry = advance(self.books, tick, policy)
        self.history.append(books)
        self.entries.append(entry)
        for key, amount in entry.postings.items():
            self.postings[key] = self.postings.get(key, Amount(0)).plus(amount)

    def by_subject(self, meter: Meter | None = None) -> dict[WorkloadId | Remainder, int]:
        sums: dict[WorkloadId | Remainder, int] = {}
        for key, amount in self.postings.items():
            if meter is None or key.meter == meter:
                sums[key.subject] = sums.get(key.subject, 0) + amount.energy_uj
        return sums

    def booked_uj(self, meter: Meter | None = None) -> int:
        return sum(self.by_subject(meter).values())


def play(
    ticks: World | Iterable[Tick],
    policy: BookingPolicy | None = None,
    each: Callable[[Books, Books, Entry], None] | None = None,
) -> Run:
    """Drive the ledger over all ticks; `each` sees every step."""
    run = Run()
    policy = policy or BookingPolicy()
    for tick in ticks.ticks() if isinstance(ticks, World) else ticks:
        run.take(tick, policy)
        if each is not None:
            each(run.history[-2], run.history[-1], run.entries[-1])
    return run


def at(seconds: float) -> int:
    """An instant so many seconds after the world began."""
    return EPOCH_NS + round(seconds * S)


@lru_cache(maxsize=64)
def powered(
    spans: tuple[tuple[int, int, int], ...], idle_mw: int = 60_000
) -> tuple[tuple[int, int], ...]:
    """A power curve: `idle_mw`, and so much more in each `(t0, t1, milliwatts)`."""
    edges: dict[int, int] = {}
    for t0_ns, t1_ns, mw in spans:
        edges[t0_ns] = edges.get(t0_ns, 0) + mw
        edges[t1_ns] = edges.get(t1_ns, 0) - mw
    power, steps = idle_mw, [(EPOCH_NS - 100 * S, idle_mw)]
    for t_ns in sorted(edges):
        power += edges[t_ns]
        steps.append((t_ns, power))
    return tuple(steps)
