"""The life of a series: labels settled, zero held, true value shown, lingering, gone.

Prometheus loses what a counter had when it first appeared and what it gained after it was last
scraped. So a workload's series appears at zero, stays there for a few scrapes before it shows its
true value, and lingers after the workload's end. All of this runs on the tick's clock and is part
of the books: a scrape changes nothing, and a restart continues where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from joulebook.core.attribution.claims import Claim
from joulebook.core.evidence import Balance, summed
from joulebook.core.ledger.experiment_series import ExperimentSeries
from joulebook.core.ledger.state import Books, WorkloadState
from joulebook.core.money.amounts import Charges, add
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId, is_reserved, merged
from joulebook.units import NS_PER_S

OVERFLOW = "(overflow)"


def pool_id(labels: Labels) -> WorkloadId:
    """Return the series that workloads of an owner share once the limit of series is reached."""
    return WorkloadId(OVERFLOW, f"{labels.user}\x1f{labels.account}")


class SeriesPolicy(msgspec.Struct, frozen=True):
    """The configuration of series (`[exposition]`), and fixed limits."""

    zero_hold_ns: int = 37_500_000_000
    linger_ns: int = 900 * NS_PER_S
    label_wait_ns: int = 10 * NS_PER_S
    expire_ns: int = 35 * 86_400 * NS_PER_S
    max_workloads: int = 500
    max_experiments: int = 1000
    max_experiments_per_owner: int = 50
    expose_ns: int = 86_400 * NS_PER_S
    """How long an experiment keeps its series after its last use; its totals are kept longer."""
    retire: bool = True
    """Whether series may be dropped. Not if the last commit failed: a scrape would still see them,
    and one that returned meanwhile would restart below its value.
    """


class Step(NamedTuple):
    """What one tick brings to the series.

    Attributes:
        now_ns: The end of the tick.
        served_ns: How long the series could be scraped since the last tick.
        resumed: Whether this is the first tick of a daemon.
        earned: What each workload got.
        bills: What each is charged for it.
        claims: Who holds or held devices.
        facts: What sources report.
        present: The workloads that use the host now, held devices or not.
        foreign_users: Those that used what others hold; they get a series, if only to be named.

    """

    now_ns: int
    served_ns: int = 0
    resumed: bool = False
    earned: Mapping[WorkloadId, Balance] = {}
    bills: Mapping[WorkloadId, Charges] = {}
    claims: Sequence[Claim] = ()
    facts: Sequence[WorkloadFacts] = ()
    present: frozenset[WorkloadId] = frozenset()
    foreign_users: frozenset[WorkloadId] = frozenset()


def advance(
    books: Books, step: Step, policy: SeriesPolicy
) -> tuple[Books, tuple[WorkloadFacts, ...]]:
    """Advance all series by one tick. Return the books and the facts that are new."""
    exposed = _ExposedSeries(books, policy, step.now_ns)
    if step.resumed:
        exposed.experiments.hold()
    if step.served_ns:
        exposed.wait(step.served_ns)
    else:
        exposed.postpone(step.now_ns - books.last_ns)
    news = exposed.learn(
        step.facts, step.claims, step.present | set(step.earned), step.foreign_users
    )
    exposed.credit(step.earned, step.bills)
    exposed.settle_labels()
    exposed.let_go(step.claims, step.present | {*step.earned, *step.foreign_users})
    return exposed.books(), news


class _ExposedSeries:
    """The exposed series during one tick."""

    def __init__(self, books: Books, policy: SeriesPolicy, now_ns: int) -> None:
        self._before = books
        self._policy = policy
        self._now_ns = now_ns
        self._workloads = dict(books.workloads)
        self.experiments = ExperimentSeries(books.experiments, now_ns, policy.zero_hold_ns)
        self._overflow = Counter(books.overflow)

    def books(self) -> Books:
        return msgspec.structs.replace(
            self._before,
            workloads=self._workloads,
            experiments=self.experiments.states,
            overflow=dict(self._overflow),
        )

    def postpone(self, unseen_ns: int) -> None:
        """Postpone the end of lingering workloads by the time without scrapes."""
        for id_, workload in self._workloads.items():
            if workload.ended_ns is not None:
                final_ns = max(workload.final_ns, workload.ended_ns) + unseen_ns
                self._workloads[id_] = msgspec.structs.replace(workload, final_ns=final_ns)

    def wait(self, served_ns: int) -> None:
        """Let time pass for everything that is held back."""
        for id_, workload in self._workloads.items():
            if workload.hold_left_ns:
                left_ns = max(workload.hold_left_ns - served_ns, 0)
                self._workloads[id_] = msgspec.structs.replace(
                    workload, hold_left_ns=left_ns, final_ns=self._now_ns
                )
        self.experiments.wait(served_ns)

    def learn(
        self,
        facts: Iterable[WorkloadFacts],
        claims: Sequence[Claim],
        earned: Iterable[WorkloadId],
        foreign_users: Iterable[WorkloadId],
    ) -> tuple[WorkloadFacts, ...]:
        """Add workloads seen for the first time; record what is new."""
        reported = {fact.id: fact for fact in facts}
        held_or_used = {claim.workload for claim in claims} | set(earned)
        holding = {claim.workload for claim in claims if claim.t1_ns is None}
        sharing = {claim.workload for claim in claims if claim.parts != claim.of}
        named = held_or_used | set(reported) | set(foreign_users)
        news = []
        for id_ in sorted(id_ for id_ in named if id_ is not None):
            known = self._workloads.get(id_)
            shared = id_ in sharing or (known is not None and known.shared)
            is_new = known is None or not known.held or shared != known.shared
            if not is_new and id_ not in reported:
                continue
            fact = _own_names(merged(WorkloadFacts(id_), reported.get(id_, WorkloadFacts(id_))))
            if known is not None:
                fact = merged(known.facts, fact)
                if id_ in reported and reported[id_].ended_ns is None and id_ in holding:
                    fact = msgspec.structs.replace(fact, ended_ns=None)  # it was considered over
            held = id_ in held_or_used
            if known is None:
                state = WorkloadState(fact, {}, self._now_ns, held=held, shared=shared)
                self._workloads[id_] = state
            elif fact != known.facts or is_new:
                self._workloads[id_] = msgspec.structs.replace(
                    known, facts=fact, held=held or known.held, shared=shared
                )
            if known is None or fact != known.facts:
                news.append(fact)
        return tuple(news)

    def credit(
        self, earned: Mapping[WorkloadId, Balance], bills: Mapping[WorkloadId, Charges]
    ) -> None:
        """Add what was earned; once labels are settled, to the experiment as well."""
        for id_, balance in earned.items():
            workload, bill = self._workloads[id_], bills.get(id_, {})
            self._workloads[id_] = msgspec.structs.replace(
                workload,
                balance=_sum(workload.balance, balance),
                bill=add(workload.bill, bill),
                final_ns=self._now_ns,
            )
            if workload.labels is not None:
                self._roll_up(workload, balance, bill)

    def settle_labels(self) -> None:
        """Freeze labels that are complete, or were waited for long enough.

        A workload that never had a meter gets no series: jobs without GPUs would reach the limit.
        """
        for id_, workload in list(self._workloads.items()):
            if workload.labels is not None or not workload.held:
                continue
            waited_ns = self._now_ns - workload.seen_ns
            if not workload.facts.complete and waited_ns < self._policy.label_wait_ns:
                continue
            settled = msgspec.structs.replace(
                workload,
                labels=self._budgeted(workload),
                shown=workload.facts.shown,
                hold_left_ns=self._policy.zero_hold_ns,
                folded=self._is_full(),
            )
            self._workloads[id_] = settled
            self._roll_up(settled, settled.balance, settled.bill)
            if settled.folded:
                self._overflow["workloads"] += 1

    def let_go(self, claims: Iterable[Claim], active: Iterable[WorkloadId]) -> None:
        """Record ends; drop series whose time is over."""
        closing = {claim.workload for claim in claims}
        running = {claim.workload for claim in claims if claim.t1_ns is None}
        running |= set(active) - closing  # known by its processes alone
        leaving: dict[WorkloadId, WorkloadState] = {}
        for id_, workload in list(self._workloads.items()):
            if id_.scheduler == OVERFLOW:
                continue
            state = workload
            if id_ in running:
                if state.ended_ns is not None:
                    state = msgspec.structs.replace(state, ended_ns=None)
            elif state.ended_ns is None:
                state = msgspec.structs.replace(state, ended_ns=self._ended_ns(state, claims))
            if state is not workload:
                self._workloads[id_] = state
            over = (
                self._policy.retire
                and state.ended_ns is not None
                and id_ not in closing
                and (state.labels is not None or not state.held)
                and not state.hold_left_ns
                and self._now_ns >= max(state.ended_ns, state.final_ns) + self._policy.linger_ns
            )
            if over:
                leaving[id_] = state
        self._leave(leaving)
        if self._policy.retire:
            in_use = {workload.labels for workload in self._workloads.values()}
            self.experiments.withdraw(self._policy.expose_ns, in_use)
            self.experiments.expire(self._policy.expire_ns, in_use)

    def _leave(self, leaving: Mapping[WorkloadId, WorkloadState]) -> None:
        """Drop series, unless another workload still has a part in them.

        A reused name is one series with the sum of both, since it must not decrease.
        """
        kept = {_identity(s) for id_, s in self._workloads.items() if id_ not in leaving}
        for id_, state in leaving.items():
            if state.labels is None or _identity(state) not in kept:
                del self._workloads[id_]
                if state.labels is not None:
                    self.experiments.left(state.labels)

    def _ended_ns(self, state: WorkloadState, claims: Iterable[Claim]) -> int:
        if state.facts.ended_ns is not None:
            return state.facts.ended_ns
        ends = [c.t1_ns for c in claims if c.workload == state.facts.id and c.t1_ns is not None]
        return max(ends, default=self._now_ns)

    def _budgeted(self, workload: WorkloadState) -> Labels:
        """Return the labels of a workload, or those of its owner's overflow.

        Names that people gave have their own limit, and a reserve of the node's: named experiments
        do not share a series just because there are many derived names.
        """
        labels = workload.facts.labels
        if not labels.experiment:
            labels = labels._replace(experiment=workload.facts.shown.strip("() "))
        if labels in self.experiments.states:
            return labels
        named = workload.facts.named
        of_owner = sum(
            known[:2] == labels[:2] and state.named is named
            for known, state in self.experiments.states.items()
        )
        most = self._policy.max_experiments
        room = most if named else most - most // 10
        shown = sum(known.experiment != OVERFLOW for known in self.experiments.states)
        if shown < room and of_owner < self._policy.max_experiments_per_owner:
            return labels
        self._overflow["experiments"] += 1
        return labels._replace(experiment=OVERFLOW)

    def _is_full(self) -> bool:
        shown = sum(w.labels is not None and not w.folded for w in self._workloads.values())
        return shown >= self._policy.max_workloads

    def _roll_up(self, workload: WorkloadState, balance: Balance, bill: Charges) -> None:
        """Credit the experiment, and the overflow series of the owner if there is no own one."""
        assert workload.labels is not None
        labels = workload.labels
        self.experiments.credit(labels, balance, bill, named=workload.facts.named)
        if not workload.folded:
            return
        id_ = pool_id(labels)
        pooled = self._workloads.get(id_) or WorkloadState(
            WorkloadFacts(id_, display=OVERFLOW, complete=True),
            {},
            self._now_ns,
            labels=labels._replace(experiment=OVERFLOW),
            shown=OVERFLOW,
            hold_left_ns=self._policy.zero_hold_ns,
        )
        self._workloads[id_] = msgspec.structs.replace(
            pooled, balance=_sum(pooled.balance, balance), bill=add(pooled.bill, bill)
        )


def _own_names(facts: WorkloadFacts) -> WorkloadFacts:
    """Return the facts without a reserved name, wherever it came from."""
    labels = Labels(*("" if is_reserved(name) else name for name in facts.labels))
    if labels == facts.labels:
        return facts
    named = facts.named and bool(labels.experiment)
    return msgspec.structs.replace(facts, labels=labels, named=named)


def _identity(state: WorkloadState) -> tuple[str, ...]:
    """Return the labels on the series of a workload with settled labels."""
    return (state.facts.id.scheduler, state.shown, *(state.labels or ()))


def _sum(balance: Balance, more: Balance) -> Balance:
    return summed(more.items(), balance)
