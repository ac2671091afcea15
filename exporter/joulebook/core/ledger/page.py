"""The page of one tick: what is posted, charged and lost in it, before new books are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from joulebook.core.attribution import host, node_meter
from joulebook.core.attribution.claims import Tenure
from joulebook.core.attribution.gpu import Share, share_out
from joulebook.core.attribution.node_meter import Supply
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.meter import MeterState, MeterUpdate
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import ZERO, Amount, Gap, Leaf, PostingKey, Remainder, Subject
from joulebook.core.money.accrual import Accrual, Stretch
from joulebook.core.workloads import WorkloadId


class Page:
    """A tick's own scratch, thrown away with it."""

    def __init__(
        self,
        accrual: Accrual,
        usage: host.Usage,
        leaves_uj: Mapping[Leaf, int],
        supplies: Sequence[Supply],
    ) -> None:
        self.accrual = accrual
        self.usage = usage
        self.leaves_uj = dict(leaves_uj)
        self._supplies = supplies
        self.postings: dict[PostingKey, Amount] = {}
        self.gaps: list[Gap] = []
        self.lost_ns: dict[tuple[Meter, str], int] = {}
        self.foreign_ns: dict[tuple[Meter, WorkloadId], int] = {}

    def note(self, taken: MeterUpdate) -> MeterState:
        """Keep what a meter lost; hand on its state."""
        self.gaps.extend(taken.gaps)
        for reason, duration_ns in taken.lost_ns:
            key = (taken.state.meter, reason)
            self.lost_ns[key] = self.lost_ns.get(key, 0) + duration_ns
        return taken.state

    def post(self, interval: Interval, tenure: Tenure, state: MeterState) -> None:
        """Post and charge one tenure's part of an interval; note who else used the device."""
        booked: set[Subject] = set()
        for piece, stretch in self.accrual.pieces(interval):
            self.accrual.take(piece, stretch)
            if piece.meter.component in host.COMPONENTS:
                shares = host.share_out(piece, state.idle_mw, self.usage)
            else:
                shares = share_out(piece, tenure, state.idle_mw)
            self._book(piece.meter, stretch, shares)
            booked.update(share.subject for share in shares)
        watched = bool(tenure.holders) and not interval.outage
        for user in {process.workload for process in interval.processes if watched}:
            if user is not None and user not in booked:
                where = (interval.meter, user)
                lasted_ns = interval.t1_ns - interval.t0_ns
                self.foreign_ns[where] = self.foreign_ns.get(where, 0) + lasted_ns

    def post_other(
        self, interval: Interval, gpus: Sequence[Sequence[Tenure]], split: node_meter.OtherSplit
    ) -> None:
        """Post and charge what a supply consumed beside its leaves."""
        for piece, stretch in self.accrual.pieces(interval):
            self.accrual.take(piece, stretch)
            self._book(piece.meter, stretch, node_meter.share_out(piece, gpus, split))

    def measured(self, interval: Interval, now_ns: int) -> None:
        """Keep the energy of a leaf for the supplies that measure it too."""
        node_meter.noted(self.leaves_uj, interval, self._supplies, now_ns)

    def earned(self) -> dict[WorkloadId, dict[Component, Amount]]:
        """What each workload got in this tick, by component."""
        earned: dict[WorkloadId, dict[Component, Amount]] = {}
        for key, amount in self.postings.items():
            if isinstance(key.subject, WorkloadId):
                balance = earned.setdefault(key.subject, {})
                component = key.meter.component
                balance[component] = balance.get(component, ZERO).plus(amount)
        return earned

    def remainders_uj(self) -> dict[tuple[Component, Remainder], int]:
        """The energy that was nobody's, by component and reason."""
        sums: dict[tuple[Component, Remainder], int] = {}
        for key, amount in self.postings.items():
            if isinstance(key.subject, Remainder):
                where = (key.meter.component, key.subject)
                sums[where] = sums.get(where, 0) + amount.energy_uj
        return sums

    def _book(self, meter: Meter, stretch: Stretch, shares: Sequence[Share]) -> None:
        for subject, amount, method, evidence in shares:
            key = PostingKey(subject, meter, stretch.quarter_s, method, evidence)
            self.postings[key] = self.postings.get(key, ZERO).plus(amount)
            self.accrual.charge(stretch, subject, meter, amount)
