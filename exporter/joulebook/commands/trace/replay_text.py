"""The books of a replay, as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from joulebook.commands.shared import text
from joulebook.commands.shared.text import NOTHING
from joulebook.commands.trace.jobs_csv import TraceJob
from joulebook.core.energy.readings import Meter
from joulebook.core.evidence import ZERO, Amount, PostingKey, Remainder
from joulebook.core.ledger.state import Books
from joulebook.core.sanitize import one_line
from joulebook.core.workloads import WorkloadId
from joulebook.node.sensors.trace.format import Trace
from joulebook.terminal import Column, Screen, cut


@dataclass
class Outcome:
    """What came of a replay: the books at its end, and all that was posted on the way."""

    name: str
    trace: Trace
    span_ns: int
    jobs: Sequence[TraceJob]
    books: Books = field(default_factory=Books)
    postings: dict[PostingKey, Amount] = field(default_factory=dict)
    readings: int = 0

    @property
    def balanced(self) -> bool:
        """Whether what each meter says was booked is what was posted, to the microjoule."""
        return all(
            state.booked_uj == self.posted(meter).energy_uj
            for meter, state in self.books.meters.items()
        )

    def posted(self, meter: Meter) -> Amount:
        """The sum of the postings of one meter."""
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
    """All of it."""
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
    for subject, amount in sorted(sums.items(), key=lambda item: -item[1].energy_uj):
        if isinstance(subject, Remainder):
            who = [f"({subject.value})", NOTHING, NOTHING, NOTHING]
        else:
            job = jobs[subject.workload]
            names = (job.user, job.account, job.experiment)
            who = [one_line(subject.workload), *(one_line(name) or NOTHING for name in names)]
        yield [
            *who,
            text.duration(amount.held_ns) if amount.held_ns else NOTHING,
            text.energy(amount.energy_uj),
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
