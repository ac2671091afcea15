"""Random scenarios against a second account of the truth, and that this account finds faults.

A scenario that fails is played again, the smallest that fails alike is printed, by

    .venv/bin/python -m tests.unit.oracle SEED
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec
import pytest
from tests.scale import SCALE, scaled
from tests.unit.oracle.account import Fault
from tests.unit.oracle.node import play
from tests.unit.oracle.scenario import Action, Plan, plan

from joulebook.core import workloads
from joulebook.core.attribution import attribute, claims, outages
from joulebook.core.energy import intervals
from joulebook.core.energy import measure as measuring
from joulebook.core.energy.readings import Break
from joulebook.core.ledger import experiment_series, series
from joulebook.core.ledger.state import Entry
from joulebook.core.money import accrual, rates
from joulebook.core.money.amounts import Item
from joulebook.lab.collected import ingest
from joulebook.ledger import state
from joulebook.ledger.write import EntryWriter
from joulebook.node.daemon import Daemon

PARTS = 20
FIRST = 0 if SCALE == 1 else random.SystemRandom().randrange(10**9)
"""A usual run plays the same scenarios each time; a nightly one new ones."""

Patch = pytest.MonkeyPatch


@pytest.mark.no_cover
@pytest.mark.timeout(14_400)
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_doubled_or_anothers_whatever_happens(part: int) -> None:
    count = scaled(2_000) // PARTS
    for seed in range(FIRST + part * count, FIRST + (part + 1) * count):
        try:
            play(plan(seed))
        except Exception as error:
            pytest.fail(f"{error!r}: .venv/bin/python -m tests.unit.oracle {seed}")


# ---- faults that it must find --------------------------------------------------------------------


def drop_an_interval(patch: Patch) -> None:
    real = measuring.measure

    def measure(*args: Any) -> Any:
        measured = real(*args)
        return measured._replace(intervals=measured.intervals[1:])

    patch.setattr("joulebook.core.ledger.advance.measure", measure)


def post_twice(patch: Patch) -> None:
    real = EntryWriter._write_postings

    def write(self: EntryWriter, entry: Entry, *args: Any) -> None:
        real(self, entry, *args)
        real(self, entry, *args)

    patch.setattr(EntryWriter, "_write_postings", write)


def let_the_worst_evidence_win(patch: Patch) -> None:
    real = claims.admit

    def admit(found: Any, instances: Any = None) -> Any:
        worst = max((claim.evidence for claim in found), default=None)
        return real([claim for claim in found if claim.evidence is worst], instances)

    patch.setattr(claims, "admit", admit)


def skip_prices_below_zero(patch: Patch) -> None:
    real = accrual.Tariff._per_kwh

    def per_kwh(self: Any, found: Any) -> Iterator[Any]:
        return (each for each in real(self, found) if each[0].item is not Item.CREDIT)

    patch.setattr(accrual.Tariff, "_per_kwh", per_kwh)


def forget_the_pue(patch: Patch) -> None:
    patch.setattr(rates, "facility_rate", lambda value, _: value and value * rates.PPM)


def lose_what_was_counted_since_a_reload(patch: Patch) -> None:
    real = intervals.judge

    def judge(*args: Any) -> Any:
        found = real(*args)
        return Break.IMPLAUSIBLE if found is Break.RESET else found

    patch.setattr("joulebook.core.energy.meter.judge", judge)


def take_a_reload_for_a_jump(patch: Patch) -> None:
    patch.setattr("joulebook.core.energy.meter.confirm", lambda *_: Break.IMPLAUSIBLE)


def show_what_is_not_committed(patch: Patch) -> None:
    real = Daemon._show

    def show(self: Any) -> None:
        committed, self._committed = self._committed, self._books
        real(self)
        self._committed = committed

    patch.setattr(Daemon, "_show", show)


def lose_the_backlog_of_failed_commits(patch: Patch) -> None:
    patch.setattr(Entry, "plus", lambda _, later: later)


def give_outages_to_whoever_comes_after(patch: Patch) -> None:
    def tenures(interval: Any, found: Any, _: Any) -> Any:
        return claims.settle(found, interval.t0_ns, interval.t1_ns)

    patch.setattr(outages, "tenures", tenures)


def let_the_dead_go_on_holding(patch: Patch) -> None:
    real = claims.merge

    def merge(known: Any, reported: Any, _: Any, affirmed: Any) -> Any:
        return real(known, reported, frozenset(), affirmed)

    patch.setattr("joulebook.core.ledger.advance.merge", merge)


def book_before_evidence_has_settled(patch: Patch) -> None:
    real = attribute.Known.due

    def due(self: Any, state: Any, now_ns: int, settle_ns: int) -> Any:
        return real(self, state, now_ns, 0)

    patch.setattr(attribute.Known, "due", due)


def show_series_with_a_value_at_once(patch: Patch) -> None:
    real = series._ExposedSeries.settle_labels

    def settle(self: Any) -> None:
        real(self)
        self.wait(10**18)

    patch.setattr(series._ExposedSeries, "settle_labels", settle)


def expire_an_experiment_with_its_energy(patch: Patch) -> None:
    def expire(self: Any, unused_ns: int, in_use: Iterable[Any]) -> None:
        for labels in self._unused(unused_ns, in_use):
            del self.states[labels]

    patch.setattr(experiment_series.ExperimentSeries, "expire", expire)


def move_a_begin(patch: Patch) -> None:
    real = workloads.merged

    def merged(known: Any, reported: Any) -> Any:
        begun_ns = reported.started_ns or known.started_ns
        return msgspec.structs.replace(real(known, reported), started_ns=begun_ns)

    patch.setattr(series, "merged", merged)


def take_in_another_past(patch: Patch) -> None:
    patch.setattr(ingest, "_refuse_other_past", lambda *_: None)
    patch.setattr(state, "read_writer", lambda *_: "")


FAULTS: dict[Callable[[Patch], None], set[str]] = {
    drop_an_interval: set(),
    post_twice: set(),
    let_the_worst_evidence_win: {"begin"},
    skip_prices_below_zero: set(),
    forget_the_pue: set(),
    lose_what_was_counted_since_a_reload: {"reload"},
    take_a_reload_for_a_jump: {"reload"},
    show_what_is_not_committed: set(),
    lose_the_backlog_of_failed_commits: {"disk"},
    give_outages_to_whoever_comes_after: {"kill"},
    let_the_dead_go_on_holding: {"end"},
    book_before_evidence_has_settled: {"begin"},
    show_series_with_a_value_at_once: {"begin"},
    expire_an_experiment_with_its_energy: {"end"},
    move_a_begin: {"stop"},
    take_in_another_past: {"restore", "collect"},
}
"""Each, and what happens in the scenarios that are tried."""


def _killed_on_a_full_disk(each: Plan) -> Plan:
    """A job whose end, and last energy, no commit told before the daemon died; often scraped."""
    events = (
        Action(2_000, "begin", (0, 0, 1, 1, 0, "prolog")),
        Action(22_000, "disk", (60_000,)),
        Action(37_000, "end", (0, 0, True)),
        Action(40_000, "kill", (100,)),
    )
    scrapes = (Action(at_ms, "scrape") for at_ms in range(0, 50_000, 1_000))
    held_ns = 4_000_000_000
    return each._replace(length_ms=50_000, zero_hold_ns=held_ns, actions=(*events, *scrapes))


@pytest.mark.no_cover
@pytest.mark.parametrize("break_", FAULTS, ids=lambda each: str(each.__name__))
def test_the_account_finds_that_it_would(
    break_: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    break_(monkeypatch)
    plans = (plan(seed) for seed in range(20_000))
    concerned = (
        each for each in plans if FAULTS[break_] <= {action.what for action in each.actions}
    )
    with pytest.raises(Fault):
        for each in islice(concerned, 300):
            uncommitted = break_ is show_what_is_not_committed
            play(_killed_on_a_full_disk(each) if uncommitted else each)
