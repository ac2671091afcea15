"""The series of experiments: held at a baseline when they appear, withdrawn, expired.

An experiment has series while it is used and a day after; its totals are kept for weeks, and then
move to `(expired)` of its owner.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from joulebook.core.evidence import Balance, summed
from joulebook.core.ledger.state import ExperimentState
from joulebook.core.money.amounts import Charges, add
from joulebook.core.workloads import Labels

EXPIRED = "(expired)"


class ExperimentSeries:
    """The experiments of a node during one tick."""

    def __init__(
        self, known: Mapping[Labels, ExperimentState], now_ns: int, zero_hold_ns: int
    ) -> None:
        self.states = dict(known)
        self._now_ns = now_ns
        self._zero_hold_ns = zero_hold_ns

    def hold(self) -> None:
        """Hold every experiment at its last value after a restart."""
        for labels, state in self.states.items():
            if state.exposed:
                self.states[labels] = self._held(state)

    def wait(self, served_ns: int) -> None:
        """Let time pass for experiments that are held."""
        for labels, state in self.states.items():
            if state.hold_left_ns:
                left_ns = max(state.hold_left_ns - served_ns, 0)
                self.states[labels] = msgspec.structs.replace(state, hold_left_ns=left_ns)

    def credit(
        self,
        labels: Labels,
        balance: Balance,
        bill: Charges,
        *,
        named: bool = False,
    ) -> None:
        """Add to an experiment; one that has no series gets them first, at what it last showed.

        What is of a kind that the experiment did not have (the first that ran on a card with a
        rate, say) is seen at zero first: its series are held like new ones.
        """
        state = self.states.get(labels)
        if state is None:
            state = ExperimentState({}, {}, self._zero_hold_ns, self._now_ns)
        elif not (
            state.exposed
            and balance.keys() <= state.balance.keys()
            and bill.keys() <= state.bill.keys()
        ):
            state = self._held(state)
        self.states[labels] = msgspec.structs.replace(
            state,
            exposed=True,
            named=state.named or named,
            balance=summed(balance.items(), state.balance),
            bill=add(state.bill, bill),
            used_ns=self._now_ns,
        )

    def left(self, labels: Labels) -> None:
        """Count its time without use from now on: a workload of it has left."""
        if (state := self.states.get(labels)) is not None:
            self.states[labels] = msgspec.structs.replace(state, used_ns=self._now_ns)

    def withdraw(self, unused_ns: int, in_use: Collection[Labels | None]) -> None:
        """Drop the series of experiments without use for a while; keep their totals."""
        for labels in self._unused(unused_ns, in_use):
            state = self.states[labels]
            if state.exposed and not state.hold_left_ns:
                self.states[labels] = msgspec.structs.replace(state, exposed=False)

    def expire(self, unused_ns: int, in_use: Collection[Labels | None]) -> None:
        """Move experiments without use for a long time to `(expired)` of their owner."""
        for labels in self._unused(unused_ns, in_use):
            if labels.experiment != EXPIRED:
                gone = self.states.pop(labels)
                self.credit(labels._replace(experiment=EXPIRED), gone.balance, gone.bill)

    def _unused(self, unused_ns: int, in_use: Collection[Labels | None]) -> list[Labels]:
        return [
            labels
            for labels, state in self.states.items()
            if state.used_ns < self._now_ns - unused_ns and labels not in in_use
        ]

    def _held(self, state: ExperimentState) -> ExperimentState:
        held = state.hold_left_ns > 0
        return msgspec.structs.replace(
            state,
            baseline=state.baseline if held else state.balance,
            bill_baseline=state.bill_baseline if held else state.bill,
            hold_left_ns=self._zero_hold_ns,
        )
