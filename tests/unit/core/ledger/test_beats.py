"""Books that are advanced on a slow beat and at boundaries hold what those of every second hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import Auditor, laws
from tests.unit.core.ledger.test_restart import expected
from tests.unit.core.world import S, World, at, gpu, play
from tests.unit.core.worlds import exact_worlds, worlds

from joulebook.core.evidence import Remainder
from joulebook.core.ledger.advance import Tick

BEATS = st.integers(2, 12)


def on_beat(ticks: Iterable[Tick], beat: int) -> Iterator[Tick]:
    """The ticks of a daemon that books where claims change, else every `beat` of them.

    A kill loses what it sampled since it last booked.
    """
    waiting: list[Tick] = []
    claims: object = None
    for tick in ticks:
        waiting = [tick] if tick.resumed else [*waiting, tick]
        if tick.claims != claims or tick.resumed or len(waiting) == beat:
            yield together(waiting)
            waiting, claims = [], tick.claims
    if waiting:
        yield together(waiting)


def together(ticks: list[Tick]) -> Tick:
    """What came in during all of them, as one that is at the end of the last."""
    return msgspec.structs.replace(
        ticks[-1],
        readings=tuple(reading for tick in ticks for reading in tick.readings),
        failures=tuple(failure for tick in ticks for failure in tick.failures),
        facts=tuple(fact for tick in ticks for fact in tick.facts),
        resumed=ticks[0].resumed,
    )


@laws(80)
@given(worlds(), BEATS)
def test_every_law_holds_on_any_beat(world: World, beat: int) -> None:
    run = play(on_beat(world.ticks(), beat), each=Auditor())
    assert run.booked_uj() == sum(state.booked_uj for state in run.books.meters.values())


@laws(80)
@given(worlds(kills=False), BEATS)
def test_no_energy_depends_on_the_beat(world: World, beat: int) -> None:
    straight = play(world)
    run = play(on_beat(world.ticks(), beat))
    for meter, state in straight.books.meters.items():
        assert run.books.meters[meter].read_uj == state.read_uj
        assert run.books.meters[meter].last == state.last


@laws(80)
@given(exact_worlds(), BEATS)
def test_everybody_gets_the_same_on_any_beat(world: World, beat: int) -> None:
    straight, run = play(world).by_subject(), play(on_beat(world.ticks(), beat)).by_subject()
    splits = 2 * len(world.jobs)
    assert {who for who, uj in straight.items() if uj} == {who for who, uj in run.items() if uj}
    assert all(abs(run[who] - straight[who]) <= splits for who in run if straight.get(who))


@laws(120)
@given(exact_worlds(), BEATS, st.integers(0, 22), st.integers(1, 12))
def test_a_kill_loses_no_energy_and_nobody_who_held_the_card_loses_any(
    world: World, beat: int, killed_s: int, away_s: int
) -> None:
    ((_, end_ns),) = world.alive
    kill_ns, back_ns = at(killed_s) + S // 2, at(killed_s + away_s)
    lives = ((at(0), kill_ns), (back_ns, max(end_ns, back_ns + 8 * S)))
    ticks = list(on_beat(replace(world, alive=lives).ticks(), beat))
    run = play(ticks, each=Auditor())
    straight = play(replace(world, alive=((at(0), lives[1][1]),)))
    assert run.books.meters[gpu()].read_uj == straight.books.meters[gpu()].read_uj
    # What was burnt since the last commit: to who held the card from then until after the outage.
    outages = [(a.now_ns, b.now_ns) for a, b in pairwise(ticks) if b.resumed]
    want = expected(world, outages)
    got = {who: uj for who, uj in run.by_subject().items() if uj}
    got.pop(Remainder.UNALLOCATED, None)
    assert set(got) == set(want)
    splits = 2 + 2 * len(world.jobs)
    assert all(abs(got[who] - uj) <= splits for who, uj in want.items()), (got, want)
