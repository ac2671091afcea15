"""What the gauges say of devices that are shared agrees with what is booked."""

from __future__ import annotations

import pytest

from joulebook.core.attribution.claims import Claim, Evidence, Holder
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import (
    Component,
    DeviceStatus,
    Instance,
    InstanceUse,
    Meter,
    ProcessUse,
    Reading,
)
from joulebook.core.ledger.state import Books
from joulebook.core.workloads import WorkloadId
from joulebook.node.sharing import sharing

CARD = Meter(Component.GPU, "GPU-a")
A, B = WorkloadId("kubernetes", "a"), WorkloadId("kubernetes", "b")
S = 10**9


def books(*claims: Claim, idle_mw: int | None = 70_000, **reading: object) -> Books:
    base = Reading(CARD, 1, 0, **reading)  # type: ignore[arg-type]
    later = Reading(CARD, 2, 0)
    return Books(
        meters={CARD: MeterState(CARD, base, (later,), idle_mw=idle_mw)}, claims=tuple(claims)
    )


def card(*instances: Instance, watts: float = 280.0) -> dict[Meter, DeviceStatus]:
    status = DeviceStatus(
        CARD, 0, 1, mig=bool(instances), values={"power_watts": watts},
        instances=instances, slices=7 if instances else 0,
    )  # fmt: skip
    return {CARD: status}


def on(workload: WorkloadId, uuid: str, slices: int) -> Claim:
    return Claim(workload, CARD, 0, None, Evidence.POD_RESOURCES, slices, 7, uuid)


def test_nobody() -> None:
    assert sharing(books(), card(), 5 * S) == {}


def test_one_draws_all_of_it_and_claims_of_another_time_do_not_count() -> None:
    past = Claim(B, CARD, 0, 4 * S, Evidence.PROLOG)
    found = sharing(books(past, Claim(A, CARD, 0, None, Evidence.PROLOG)), card(), 5 * S)
    assert found[CARD].holders == (Holder(A, Evidence.PROLOG, 1, 1),)
    assert found[CARD].draws == {A: 1.0}


def test_time_sliced_neighbours_draw_by_their_work() -> None:
    uses = (ProcessUse(1, 0, 3 * S, None, A), ProcessUse(2, 0, 1 * S, None, B))
    half = [Claim(who, CARD, 0, None, Evidence.POD_RESOURCES, 1, 4) for who in (A, B)]
    found = sharing(books(*half, processes=uses), card(), 5 * S)
    # 70 W over four replicas, 210 W by three to one.
    assert found[CARD].draws == {
        A: pytest.approx((17.5 + 157.5) / 280),
        B: pytest.approx((17.5 + 52.5) / 280),
    }


def test_instances_draw_by_their_activity() -> None:
    cut = (Instance("MIG-x", 1, 0, 3, "3g"), Instance("MIG-y", 2, 0, 4, "4g"))
    busy = (InstanceUse("MIG-x", 3, 7, 1_000_000), InstanceUse("MIG-y", 4, 7, 0))
    found = sharing(books(on(A, "MIG-x", 3), on(B, "MIG-y", 4), instances=busy), card(*cut), 5 * S)
    assert [h.instance for h in found[CARD].holders] == ["MIG-x", "MIG-y"]
    assert found[CARD].draws == {A: pytest.approx(240 / 280), B: pytest.approx(40 / 280)}


def test_users_of_what_nobody_holds_are_shown_and_the_unknown_too() -> None:
    uses = (ProcessUse(1, 0, None, None, A), ProcessUse(2, 0, None, None, None))
    found = sharing(books(processes=uses), card(), 5 * S)
    assert {h.workload for h in found[CARD].holders} == {A, None}
    assert found[CARD].draws == {None: 0.5, A: 0.5}


def test_without_power_nothing_is_drawn_and_without_a_status_nothing_breaks() -> None:
    claim = Claim(A, CARD, 0, None, Evidence.PROLOG)
    assert sharing(books(claim), card(watts=0.0), 5 * S)[CARD].draws == {}
    assert sharing(Books(claims=(claim,)), {}, 5 * S)[CARD].draws == {}
