"""The whole node: what its own meter counted less what was measured in it, never below nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import Auditor, laws

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.attribution.host import OtherSplit
from joulebook.core.energy.node_meter import KEPT_S, NodeMeter
from joulebook.core.energy.readings import Component, Failure, Meter, Reading
from joulebook.core.evidence import Method, Remainder
from joulebook.core.ledger.advance import BookingPolicy, Tick, advance
from joulebook.core.ledger.state import Books
from joulebook.core.workloads import WorkloadId
from joulebook.units import NS_PER_S

S = NS_PER_S
T0 = 1_760_000_000 * S
GPU = Meter(Component.GPU, "GPU-0")
SPARE = Meter(Component.GPU, "GPU-1")
CPU = Meter(Component.CPU, "package-0")
NODE = Meter(Component.OTHER, "ipmi")
EVERYTHING = (Component.CPU, Component.DRAM, Component.GPU)
JOB = WorkloadId("slurm", "1")


class Node:
    """Leaves with counters, a BMC that is asked each `every` seconds, and a daemon by hand."""

    def __init__(
        self, *, every: int = 5, covers: tuple[Component, ...] = EVERYTHING, **policy: object
    ) -> None:
        self.every = every
        self.covers = covers
        self.policy = BookingPolicy(settle_ns=3 * S, **policy)  # type: ignore[arg-type]
        self.books = Books()
        self.audit = Auditor()
        self.watts = {GPU: 100, CPU: 50}
        self.counted = dict.fromkeys((GPU, SPARE, CPU), 0)
        self.node_w = 250
        self.second = 0
        self.claims: tuple[Claim, ...] = ()
        self.resumed = False
        self.modelled = False
        self.silent: set[Meter] = set()

    def run(self, seconds: int) -> NodeMeter:
        for _ in range(seconds):
            self.second += 1
            t_ns = T0 + self.second * S
            readings, failures = [], []
            for meter, watts in self.watts.items():
                self.counted[meter] += watts * 1_000_000
                if meter in self.silent:
                    failures.append(Failure(meter, t_ns, "hung"))
                    continue
                readings.append(
                    Reading(meter, t_ns, self.counted[meter], epoch="b",
                            modelled=self.modelled and meter == CPU)
                )  # fmt: skip
            if self.second % self.every == 0 and NODE not in self.silent:
                readings.append(
                    Reading(NODE, t_ns, power_mw=self.node_w * 1000, covers=self.covers,
                            hole_ns=3 * self.every * S)
                )  # fmt: skip
            tick = Tick(
                t_ns + 1, readings=tuple(readings), failures=tuple(failures), claims=self.claims,
                complete=frozenset({Evidence.PROLOG}), resumed=self.resumed,
            )  # fmt: skip
            self.resumed = False
            before = self.books
            self.books, entry = advance(before, tick, self.policy)
            self.audit(before, self.books, entry)
        found = self.books.node_meters.get(NODE)
        if found is None:
            return NodeMeter(self.books.meters[CPU], (), 0, 0)
        assert found.node_uj == found.children_uj + found.other_uj - found.deficit_uj
        assert self.books.meters[NODE].booked_uj == found.other_uj
        return found

    def other_j(self) -> dict[object, float]:
        found: dict[object, float] = {
            reason: uj / 1e6
            for (component, reason), uj in self.books.remainders.items()
            if component is Component.OTHER and uj
        }
        for who, state in self.books.workloads.items():
            if amount := state.balance.get(Component.OTHER):
                found[who] = amount.energy_uj / 1e6
        return found


def test_what_is_left_of_the_node_is_other_and_nobodys_by_default() -> None:
    node = Node()
    found = node.run(60)
    # Reconciled is from 5 s, when the node was first read, to 55 s: 250 W less 150 W.
    assert found.node_uj == 50 * 250 * 1_000_000
    assert found.children_uj == 50 * 150 * 1_000_000
    assert node.other_j() == {Remainder.SYSTEM: 5_000}
    assert found.deficit_uj == 0 and found.omits == ""
    assert node.books.method_uj[Method.INTEGRATED] == 5_000 * 1_000_000


def test_other_goes_by_held_gpus_where_the_site_wants_it() -> None:
    node = Node(other=OtherSplit.HELD_GPUS)
    node.watts[SPARE] = 20
    node.claims = (Claim(JOB, GPU, T0 + 15 * S, T0 + 35 * S, Evidence.PROLOG),)
    node.run(60)
    # 80 W; of two GPUs one was held for 20 s.
    assert node.other_j() == {JOB: 80 * 20 / 2, Remainder.UNALLOCATED: 50 * 80 - 800}
    assert node.books.evidence_uj["held-gpus"] == 800 * 1_000_000


def test_a_node_without_gpus_has_nobody_to_share_it() -> None:
    node = Node(other=OtherSplit.HELD_GPUS)
    del node.watts[GPU]
    node.run(30)
    assert node.other_j().keys() == {Remainder.SYSTEM}


def test_a_bmc_that_lags_makes_a_deficit_that_is_filled_again_and_nothing_negative() -> None:
    node = Node()
    node.run(30)
    node.watts[GPU] = 400  # at once; the BMC says so 10 s later
    lagging = node.run(10)
    assert lagging.deficit_uj >= 0
    node.node_w = 550
    found = node.run(60)
    assert found.omits == ""
    node.watts[GPU], node.node_w = 100, 550  # and it falls late, too
    node.run(10)
    node.node_w = 250
    found = node.run(60)
    assert found.deficit_uj == 0
    # Over the whole of it the rest is the rest: 100 W, but for the ramps of the trapezoids.
    assert found.other_uj == pytest.approx((found.node_uj - found.children_uj), rel=1e-9)


def test_a_bmc_that_leaves_the_gpus_out_is_noticed() -> None:
    node = Node()
    node.watts[GPU], node.node_w = 300, 150  # CPU 50 W and the rest 100 W: no GPU in it
    assert node.run(40).omits == ""
    found = node.run(300)
    assert found.omits == "gpu"
    assert found.other_uj == 0 and found.deficit_uj > 0
    # The site says so: then only what is in it is taken off.
    reported = Node(covers=(Component.CPU, Component.DRAM))
    reported.watts[GPU], reported.node_w = 300, 150
    found = reported.run(300)
    assert found.omits == "" and found.deficit_uj == 0
    assert reported.other_j() == {Remainder.SYSTEM: pytest.approx(100 * 290, abs=600)}


def test_where_a_leaf_is_a_models_so_is_the_rest() -> None:
    node = Node()
    node.modelled = True
    node.run(40)
    assert Method.MODELLED in node.books.method_uj
    assert Method.INTEGRATED not in node.books.method_uj


def test_a_leaf_that_hangs_is_waited_for_and_then_made_up_for() -> None:
    node = Node()
    node.run(20)
    node.silent = {GPU}
    before = node.run(40)
    assert before.edge_ns < T0 + 25 * S, "its energy may still come"
    node.silent = set()
    found = node.run(30)
    assert (
        found.other_uj
        == found.node_uj - found.children_uj
        == pytest.approx(100 * (found.edge_ns - T0 - 5 * S) // S * 1_000_000, rel=1e-6)
    )
    node.silent = {GPU}
    long = node.run(200)
    assert long.edge_ns > T0 + 150 * S, "not for ever"
    node.silent = set()
    node.run(30)
    later = node.run(600)
    # What was booked as other then is taken off what came later.
    assert later.deficit_uj == 0
    assert later.other_uj == pytest.approx(100e6 * (later.edge_ns - T0 - 5 * S) / S, rel=1e-6)


def test_a_silent_bmc_is_a_gap_and_the_leaves_of_that_time_stay_out() -> None:
    node = Node()
    node.run(30)
    node.silent = {NODE}
    node.run(300)
    node.silent = set()
    found = node.run(60)
    assert found.deficit_uj == 0
    assert found.other_uj == pytest.approx(100 * found.node_uj / 250, rel=0.01)


def test_what_waits_for_a_supply_that_is_gone_is_bounded() -> None:
    node = Node()
    node.run(30)
    node.silent = {NODE}
    for _ in range(3):
        node.second += 20_000
        node.run(3)
    assert len(node.books.children_uj) <= 2 * (KEPT_S + 60)


@laws(40)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 20),
            st.integers(0, 700),
            st.integers(0, 2_000),
            st.sampled_from(["", "", "kill", "gpu silent", "bmc silent"]),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 7),
    st.sampled_from(list(OtherSplit)),
)
def test_it_balances_whatever_happens(
    story: list[tuple[int, int, int, str]], every: int, split: OtherSplit
) -> None:
    node = Node(every=every, other=split)
    node.claims = (Claim(JOB, GPU, T0 + 3 * S, None, Evidence.PROLOG),)
    for seconds, gpu_w, node_w, what in story:
        node.watts[GPU], node.node_w = gpu_w, node_w
        node.silent = {"gpu silent": {GPU}, "bmc silent": {NODE}}.get(what, set())
        if what == "kill" and node.books.last_ns:
            node.second += seconds
            node.resumed = True
        node.run(seconds)
    node.silent = set()
    node.run(20)
