"""Implement `joulebook replay`: run a recorded trace through the pipeline on virtual time.

Nothing is stored. Readings come from the sensor that plays traces, and `ledger.advance` books them
tick by tick as in the daemon, but without waiting between ticks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from joulebook.commands.shared import text
from joulebook.commands.shared.options import FILE, Options, argument, command, option
from joulebook.commands.shared.text import NOTHING
from joulebook.commands.trace.jobs_csv import TraceJob, read_jobs
from joulebook.config import load
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy import counter_steps
from joulebook.core.energy.readings import Failure, Meter, Reading
from joulebook.core.evidence import ZERO, Amount, PostingKey, Remainder
from joulebook.core.ledger import advance
from joulebook.core.ledger.state import Books
from joulebook.core.sanitize import one_line
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.node.sensors.trace.format import Trace, read_trace
from joulebook.node.sensors.trace.player import ReplaySensor, find_trace
from joulebook.terminal import Column, Screen, cut
from joulebook.units import NS_PER_S, ns_from_s


@dataclass
class Outcome:
    """The result of a replay: the books at its end, and all postings."""

    name: str
    trace: Trace
    span_ns: int
    jobs: Sequence[TraceJob]
    books: Books = field(default_factory=Books)
    postings: dict[PostingKey, Amount] = field(default_factory=dict)
    readings: int = 0

    @property
    def balanced(self) -> bool:
        """Return whether each meter's booked energy equals its postings, to the microjoule."""
        return all(
            state.booked_uj == self.posted(meter).energy_uj
            for meter, state in self.books.meters.items()
        )

    def posted(self, meter: Meter) -> Amount:
        """Return the sum of the postings of one meter."""
        return _sum(amount for key, amount in self.postings.items() if key.meter == meter)


_METERS = (
    Column("GPU", name=True),
    Column("MODEL", name=True, spare=3),
    Column("READ", right=True),
    Column("BOOKED", right=True),
    Column("PENDING", right=True, spare=2),
    Column("GAPS", right=True),
)
_SUBJECTS = (
    Column("JOB", name=True),
    Column("USER", name=True, spare=3),
    Column("ACCOUNT", name=True, spare=4),
    Column("EXPERIMENT", name=True),
    Column("GPU TIME", right=True, spare=2),
    Column("ENERGY", right=True),
    Column("SHARE", right=True),
)


def lines(outcome: Outcome, screen: Screen) -> list[str]:
    """Return all lines."""
    width, books = screen.width, outcome.books
    read_uj = sum(state.read_uj for state in books.meters.values())
    booked_uj = sum(state.booked_uj for state in books.meters.values())
    posted_uj = sum(amount.energy_uj for amount in outcome.postings.values())
    title = (
        f"{one_line(outcome.name)}: {text.several(len(books.meters), 'GPU')}, "
        f"{text.duration(outcome.span_ns)}, {text.several(outcome.readings, 'reading')}"
    )
    methods = ", ".join(
        f"{text.percent(uj, posted_uj)} {method.value}"
        for method, uj in books.method_uj.items()
        if uj
    )
    gaps = ", ".join(
        f"{text.duration(lost_ns)} {one_line(reason)}" for reason, lost_ns in _gaps(books).items()
    )
    if outcome.balanced:
        verdict = screen.paint("balanced to the microjoule", "green")
    else:
        verdict = screen.paint(f"OFF BY {booked_uj - posted_uj:,} uJ", "red")
    return [
        screen.paint(cut(title, width), "bold"),
        "",
        *screen.table(_METERS, list(_meter_rows(outcome)), width=width),
        "",
        *screen.table(_SUBJECTS, list(_subject_rows(outcome, posted_uj)), width=width),
        "",
        f"Read       {text.exact_energy(read_uj)}",
        f"Posted     {text.exact_energy(posted_uj)}",
        f"Pending    {text.exact_energy(read_uj - booked_uj)}",
        f"Methods    {methods or NOTHING}",
        f"Gaps       {gaps or 'none'}",
        f"Books      {verdict}",
    ]


def _meter_rows(outcome: Outcome) -> Iterable[list[str]]:
    models = {device.name: device.model for device in outcome.trace.header.devices}
    for meter, state in outcome.books.meters.items():
        lost_ns = sum(ns for (where, _), ns in outcome.books.gaps_ns.items() if where == meter)
        yield [
            one_line(meter.name),
            one_line(models.get(meter.name, "")).removeprefix("NVIDIA ") or NOTHING,
            text.energy(state.read_uj),
            text.energy(state.booked_uj),
            text.energy(state.read_uj - state.booked_uj),
            text.duration(lost_ns) if lost_ns else NOTHING,
        ]


def _subject_rows(outcome: Outcome, posted_uj: int) -> Iterable[list[str]]:
    jobs = {job.id: job for job in outcome.jobs}
    sums: dict[WorkloadId | Remainder, Amount] = {}
    for key, amount in outcome.postings.items():
        sums[key.subject] = sums.get(key.subject, ZERO).plus(amount)
    ranked = sorted(sums.items(), key=lambda item: -item[1].energy_uj)
    energies = text.energies([amount.energy_uj for _, amount in ranked])
    for (subject, amount), energy in zip(ranked, energies, strict=True):
        if isinstance(subject, Remainder):
            who = [f"({subject.value})", NOTHING, NOTHING, NOTHING]
        else:
            job = jobs[subject.workload]
            names = (job.user, job.account, job.experiment)
            who = [one_line(subject.workload), *(one_line(name) or NOTHING for name in names)]
        yield [
            *who,
            NOTHING if isinstance(subject, Remainder) else text.duration(amount.held_ns),
            energy,
            text.percent(amount.energy_uj, posted_uj),
        ]


def _gaps(books: Books) -> dict[str, int]:
    gaps: dict[str, int] = {}
    for (_, reason), lost_ns in books.gaps_ns.items():
        gaps[reason] = gaps.get(reason, 0) + lost_ns
    return gaps


def _sum(amounts: Iterable[Amount]) -> Amount:
    total = ZERO
    for amount in amounts:
        total = total.plus(amount)
    return total


FAILED = 1

BEGIN_NS = 1_767_225_600 * NS_PER_S
"""Start of virtual time: 2026-01-01 00:00 UTC, on a quarter hour."""

_TOLD_NS = 60 * NS_PER_S


class VirtualClock:
    """A clock that is set by hand; UTC and node time are the same."""

    epoch = "replay"

    def __init__(self) -> None:
        self.t_ns = BEGIN_NS

    def now_ns(self) -> int:
        """Node time."""
        return self.t_ns

    def utc_offset_ns(self) -> int:
        """None."""
        return 0

    def boottime_ns(self, t_ns: int) -> int:
        """Return node time, as if the machine had booted at time 0."""
        return t_ns - BEGIN_NS


def main(args: Options) -> int:
    """Replay the trace to its end and print the ledger; return 1 if it does not balance."""
    config = load(args.config, os.environ)
    path = find_trace(str(args.trace))
    trace = read_trace(path)
    jobs = read_jobs(args.jobs, [each.name for each in trace.header.devices]) if args.jobs else ()
    policy = advance.BookingPolicy(settle_ns=ns_from_s(config.daemon.settle_s))
    outcome = play(path, trace, jobs, policy, ns_from_s(config.daemon.interval_s))
    screen = Screen()
    for line in lines(outcome, screen):
        screen.say(line)
    return 0 if outcome.balanced else FAILED


def play(
    path: Path,
    trace: Trace,
    jobs: Sequence[TraceJob],
    policy: advance.BookingPolicy,
    interval_ns: int,
) -> Outcome:
    """Return everything the daemon would book for this trace with these jobs."""
    clock = VirtualClock()
    sensor = ReplaySensor(clock, path, loop=False)
    sensor.open()
    span_ns = max(records[-1].t_ns for records in trace.records)
    meters = [Meter(device.component, device.name) for device in trace.header.devices]
    books, outcome = Books(), Outcome(path.name, trace, span_ns, jobs)
    edges = sorted({edge for job in jobs for edge in (job.start_ns, job.end_ns) if edge < span_ns})
    of_burst: list[Reading] = []
    for at_ns, is_tick in _steps_of(span_ns, interval_ns, edges):
        clock.t_ns = BEGIN_NS + at_ns
        if not is_tick:
            of_burst += sensor.poll_energy(meters)
            continue
        poll = sensor.poll(processes=True)
        books = _advance(
            books, clock, policy, jobs, (*of_burst, *poll.readings), poll.failures, outcome
        )
        outcome.readings += len(of_burst) + len(poll.readings)
        of_burst = []
    # No more readings: what is still pending becomes ripe.
    clock.t_ns += policy.settle_ns + interval_ns
    books = _advance(books, clock, policy, jobs, (), (), outcome)
    sensor.close()
    outcome.books = books
    return outcome


def _steps_of(span_ns: int, interval_ns: int, edges: Iterable[int]) -> Iterator[tuple[int, bool]]:
    """Yield the instants at which something is read, and whether each is a tick."""
    ticks = {*range(0, span_ns, interval_ns), span_ns}
    bursts = {
        edge + step
        for edge in edges
        for step in range(0, counter_steps.LENGTH_NS, counter_steps.PAUSE_NS)  # as the daemon reads
        if edge + step < span_ns
    }
    for at_ns in sorted(ticks | bursts):
        yield at_ns, at_ns in ticks


def _advance(
    books: Books,
    clock: VirtualClock,
    policy: advance.BookingPolicy,
    jobs: Sequence[TraceJob],
    readings: Sequence[Reading],
    failures: Sequence[Failure],
    outcome: Outcome,
) -> Books:
    # An ended job is only reported until it is booked.
    now_ns = clock.t_ns - BEGIN_NS
    told_ns = policy.settle_ns + _TOLD_NS
    known = [job for job in jobs if job.start_ns <= now_ns <= job.end_ns + told_ns]
    tick = advance.Tick(
        clock.t_ns,
        readings=tuple(readings),
        failures=tuple(failures),
        claims=tuple(_claim(job, clock.t_ns) for job in known),
        complete=frozenset({Evidence.PROLOG}),
        facts=tuple(_facts(known)),
    )
    after, entry = advance.advance(books, tick, policy)
    for key, amount in entry.postings.items():
        outcome.postings[key] = outcome.postings.get(key, ZERO).plus(amount)
    return after


def _claim(job: TraceJob, now_ns: int) -> Claim:
    end_ns = BEGIN_NS + job.end_ns
    return Claim(
        WorkloadId("slurm", job.id),
        job.meter,
        BEGIN_NS + job.start_ns,
        end_ns if end_ns <= now_ns else None,
        Evidence.PROLOG,
    )


def _facts(jobs: Iterable[TraceJob]) -> Iterator[WorkloadFacts]:
    by_id: dict[str, list[TraceJob]] = {}
    for job in jobs:
        by_id.setdefault(job.id, []).append(job)
    for id_, parts in by_id.items():
        first = parts[0]
        yield WorkloadFacts(
            WorkloadId("slurm", id_),
            labels=Labels(first.user, first.account, first.experiment),
            started_ns=BEGIN_NS + min(part.start_ns for part in parts),
            complete=True,
            gpu_count=len({part.meter for part in parts}),
            evidence=Evidence.PROLOG.label,
        )


@command()
@argument("trace", type=FILE, help="Trace file, or a shipped trace: a100, v100.")
@option(
    "--jobs",
    type=FILE,
    metavar="FILE",
    help="Which job held which GPU: CSV with job,user,account,experiment,gpu,start_s,end_s.",
)
def replay(options: Options) -> int:
    """Replay a recorded trace through the daemon's pipeline, and show what is booked."""
    return main(options)
