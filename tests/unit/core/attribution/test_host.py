"""CPU and DRAM: shared out by what was used, exactly, whatever counters, jobs and daemon do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import Auditor, laws

from joulebook.core.attribution.gpu import Share
from joulebook.core.attribution.host import EVIDENCE, Usage, UsageCurve, share_out
from joulebook.core.energy.host_usage import KEPT, HostSnapshot, Use, is_busy, kept
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.evidence import Method, Remainder, Subject
from joulebook.core.ledger.advance import BookingPolicy, Tick, advance
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.workloads import WorkloadId
from joulebook.units import NS_PER_S

S = NS_PER_S
T0 = 1_760_000_000 * S
CPU = Meter(Component.CPU, "package-0")
DRAM = Meter(Component.DRAM, "dram-0")
A, B = WorkloadId("slurm", "1"), WorkloadId("slurm", "2")
GIB = 1 << 30


def snapshot(at_s: float, busy_s: float, *uses: Use, cores: int = 8) -> HostSnapshot:
    return HostSnapshot(T0 + round(at_s * S), cores, round(busy_s * S), 8 * GIB, 64 * GIB, uses)


def use(who: WorkloadId, cpu_s: float, *, gib: int = 0, cores: int = 0, since: float = 0) -> Use:
    return Use(
        who, round(cpu_s * S), gib * GIB, 1000 * cores, T0 + round(since * S) if since else 0
    )


def interval(
    t0: float,
    t1: float,
    joules: int,
    meter: Meter = CPU,
    *,
    idle: bool = False,
    outage: bool = False,
) -> Interval:
    return Interval(
        meter, T0 + round(t0 * S), T0 + round(t1 * S), joules * 1_000_000, Method.COUNTER,
        idle=idle, outage=outage,
    )  # fmt: skip


def joules(shares: Sequence[Share]) -> dict[Subject, float]:
    found: Counter[Subject] = Counter()
    for share in shares:
        found[share.subject] += share.amount.energy_uj
    return {who: uj / 1e6 for who, uj in found.items()}


def test_the_floor_goes_by_cores_and_the_rest_by_cpu_time() -> None:
    usage = Usage(
        [
            snapshot(0, 0, use(A, 0, cores=2), use(B, 100, cores=4)),
            snapshot(10, 40, use(A, 10, cores=2), use(B, 120, cores=4)),
        ]
    )
    # 10 s at 100 W, idle floor 40 W: 400 J by cores of 8, 600 J by CPU time of 40 s.
    shares = share_out(interval(0, 10, 1000), 40_000, usage)
    assert joules(shares) == {
        A: 400 * 2 / 8 + 600 * 10 / 40,
        B: 400 * 4 / 8 + 600 * 20 / 40,
        Remainder.SYSTEM: 400 * 2 / 8 + 600 * 10 / 40,
    }
    assert {s.method for s in shares} == {Method.APPORTIONED}
    assert {s.evidence for s in shares} == {EVIDENCE, "none"}
    assert all(s.amount.idle_uj == 0 and s.amount.held_ns == 0 for s in shares)


def test_without_a_floor_all_goes_by_use() -> None:
    usage = Usage([snapshot(0, 0, use(A, 0)), snapshot(10, 40, use(A, 10))])
    shares = share_out(interval(0, 10, 100), None, usage)
    assert joules(shares) == {A: 25, Remainder.SYSTEM: 75}


def test_an_idle_interval_is_idle_energy_of_who_has_the_cores() -> None:
    usage = Usage([snapshot(0, 0, use(A, 0, cores=6)), snapshot(10, 0.1, use(A, 0.1, cores=6))])
    by = {s.subject: s.amount for s in share_out(interval(0, 10, 80, idle=True), 8_000, usage)}
    assert by[A].energy_uj == by[A].idle_uj == 60_000_000
    assert by[Remainder.SYSTEM].energy_uj == 20_000_000 and by[Remainder.SYSTEM].idle_uj == 0


def test_unknown_cores_have_no_part_in_the_floor() -> None:
    usage = Usage([snapshot(0, 0, use(A, 0)), snapshot(10, 10, use(A, 10))])
    assert joules(share_out(interval(0, 10, 100), 4_000, usage)) == {A: 60, Remainder.SYSTEM: 40}


def test_memory_goes_by_resident_bytes() -> None:
    usage = Usage([snapshot(0, 0, use(A, 0, gib=2)), snapshot(10, 40, use(A, 30, gib=2))])
    shares = share_out(interval(0, 10, 80, DRAM), None, usage)
    assert joules(shares) == {A: 20, Remainder.SYSTEM: 60}
    # The floor by what is resident of all that is installed: 2 of 64 GiB.
    shares = share_out(interval(0, 10, 80, DRAM), 4_000, usage)
    assert joules(shares) == {A: 40 * 2 / 64 + 40 * 2 / 8, Remainder.SYSTEM: 80 - 11.25}


def test_a_workload_that_came_and_went_between_two_censuses_gets_its_own() -> None:
    # It began at 4 s, used 3 s of CPU time, and was reported of with its last total.
    usage = Usage([snapshot(0, 0), snapshot(10, 6, use(A, 3, since=4))])
    assert joules(share_out(interval(0, 10, 60), None, usage)) == {A: 30, Remainder.SYSTEM: 30}
    assert joules(share_out(interval(0, 4, 60), None, usage)) == {Remainder.SYSTEM: 60}


def test_one_that_is_known_late_used_what_it_did_evenly_since_it_began() -> None:
    usage = Usage([snapshot(0, 0), snapshot(5, 5), snapshot(10, 10, use(A, 10, since=0.000001))])
    assert joules(share_out(interval(5, 10, 50), None, usage))[A] == 50
    # Of one whose begin nobody knows, only what it is seen to use counts.
    usage = Usage([snapshot(0, 0), snapshot(5, 5), snapshot(10, 10, use(A, 10))])
    assert joules(share_out(interval(5, 10, 50), None, usage)) == {Remainder.SYSTEM: 50}


def test_of_an_outage_only_what_the_kernel_counted_is_booked_to_workloads() -> None:
    usage = Usage([snapshot(0, 0, use(A, 0), use(B, 0)), snapshot(100, 100, use(A, 40))])
    shares = share_out(interval(0, 100, 100, outage=True), None, usage)
    assert joules(shares) == {A: 40, Remainder.DAEMON_DOWN: 60}


def test_a_model_stays_marked() -> None:
    usage = Usage([snapshot(0, 0, use(A, 0)), snapshot(10, 10, use(A, 5))])
    modelled = msgspec.structs.replace(interval(0, 10, 10), method=Method.MODELLED)
    assert {s.method for s in share_out(modelled, None, usage)} == {Method.MODELLED}


def test_energy_that_is_nobodys_stays_nobodys() -> None:
    reset = msgspec.structs.replace(interval(0, 10, 9), remainder=Remainder.COUNTER_RESET)
    assert joules(share_out(reset, None, Usage([]))) == {Remainder.COUNTER_RESET: 9}
    assert joules(share_out(interval(0, 10, 9), None, Usage([]))) == {Remainder.SYSTEM: 9}


def test_a_node_is_idle_below_a_tenth_of_a_core_and_what_it_has() -> None:
    before = {T0: snapshot(0, 0, cores=100)}
    assert is_busy(before, [snapshot(10, 5, cores=100)]) is False  # 0.1 + 0.5 of 100 cores
    assert is_busy(before, [snapshot(10, 7, cores=100)]) is True
    assert is_busy({}, [snapshot(10, 7)]) is None and is_busy(before, []) is None


def test_censuses_are_kept_as_far_back_as_they_are_needed() -> None:
    all_of_them = [snapshot(n, n) for n in range(10)]
    found = kept({}, all_of_them, T0 + 4 * S + 1)
    assert list(found) == [T0 + n * S for n in range(4, 10)]
    assert kept(found, [], T0 + 4 * S) is found
    many = kept({}, [snapshot(n, n) for n in range(3 * KEPT)], T0)
    assert len(many) == KEPT and min(many) == T0 and max(many) == T0 + (3 * KEPT - 1) * S


@laws(200)
@given(
    st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**15)), max_size=8),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
)
def test_a_curve_never_falls_and_its_parts_add_up(
    points: list[tuple[int, int]], a: int, b: int, c: int
) -> None:
    curve = UsageCurve(sorted(points))
    a, b, c = sorted((a, b, c))
    assert curve.between(a, b) >= 0
    assert curve.between(a, b) + curve.between(b, c) == curve.between(a, c)


snapshots = st.lists(
    st.tuples(
        st.integers(1, 5 * 10**9),
        st.integers(0, 10**11),
        st.lists(
            st.builds(
                Use,
                st.sampled_from([A, B, WorkloadId("kubernetes", "p.1")]),
                st.integers(0, 1 << 62),
                st.integers(0, 1 << 44),
                st.integers(0, 256_000),
                st.one_of(st.just(0), st.integers(T0 - 10**12, T0 + 10**11)),
            ),
            max_size=4,
            unique_by=lambda u: u.workload,
        ),
    ),
    max_size=6,
)


@laws(300)
@given(
    snapshots,
    st.integers(0, 20 * 10**9),
    st.integers(1, 20 * 10**9),
    st.integers(0, 1 << 64),
    st.one_of(st.none(), st.integers(0, 10**7)),
    st.sampled_from([CPU, DRAM]),
    st.booleans(),
    st.booleans(),
)
def test_shares_add_up_to_the_microjoule(
    polls: list[tuple[int, int, list[Use]]],
    start: int,
    length: int,
    energy_uj: int,
    idle_mw: int | None,
    meter: Meter,
    idle: bool,
    outage: bool,
) -> None:
    t_ns, busy_ns, found = T0, 0, []
    for step, more, uses in polls:
        t_ns, busy_ns = t_ns + step, busy_ns + more
        found.append(HostSnapshot(t_ns, 4, busy_ns, 1 << 33, 1 << 35, tuple(uses)))
    part = Interval(
        meter, T0 + start, T0 + start + length, energy_uj, Method.COUNTER, idle=idle, outage=outage
    )
    shares = share_out(part, idle_mw, Usage(found))
    assert sum(s.amount.energy_uj for s in shares) == energy_uj
    assert all(0 <= s.amount.idle_uj <= s.amount.energy_uj for s in shares)
    assert len({s.subject for s in shares}) == len(shares)


WRAP_UJ = 3_000_000


@laws(60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2_900_000),  # uJ since the look before: less than once around
            st.integers(0, 8 * S),  # CPU time of the node
            st.integers(0, 100),  # of it, percent by job A
            st.sampled_from(["tick", "tick", "tick", "down", "snapshot", "silent"]),
        ),
        min_size=3,
        max_size=25,
    )
)
def test_wraps_restarts_and_silences_conserve(story: list[tuple[int, int, int, str]]) -> None:
    """A counter of 3 J that wraps again and again, a daemon that is killed, snapshots that fail."""
    books, audit = Books(), Auditor()
    policy = BookingPolicy(settle_ns=2 * S)
    t_ns, energy, busy, a_ns, resumed = T0, 0, 0, 0, False
    last: tuple[int, int] | None = None
    known_uj = 0
    for more_uj, more_ns, percent, what in [*story, *[(0, 0, 0, "tick")] * 5]:
        t_ns, energy = t_ns + S, energy + more_uj
        busy, a_ns = busy + more_ns, a_ns + more_ns * percent // 100
        resumed = resumed or what == "down"
        if what in {"down", "silent"}:
            continue
        reading = Reading(CPU, t_ns, energy % WRAP_UJ, wrap_uj=WRAP_UJ, max_power_mw=2_900)
        poll = HostSnapshot(t_ns + 1, 8, busy, GIB, 8 * GIB, (Use(A, a_ns, GIB, 4000),))
        tick = Tick(
            t_ns + 2,
            readings=(reading,),
            snapshots=() if what == "snapshot" else (poll,),
            resumed=resumed,
        )
        resumed = False
        before, (books, entry) = books, advance(books, tick, policy)
        audit(before, books, entry)
        again, nothing = advance(books, tick, policy)
        assert again is books and nothing == Entry(), "a tick that is presented again is nothing"
        # At 2.9 W a second is less than once around; two may be more, and are a gap.
        if last is not None and t_ns - last[0] == S:
            known_uj += energy - last[1]
        last = (t_ns, energy)
    assert books.meters[CPU].read_uj == known_uj
    assert books.meters[CPU].booked_uj == sum(
        amount.energy_uj for state in books.workloads.values() for amount in state.balance.values()
    ) + sum(books.remainders.values())
