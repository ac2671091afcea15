"""Memory and power limits that a workload's cards had."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component, DeviceStatus, Meter
from joulebook.core.ledger.advance import BookingPolicy, Tick, advance
from joulebook.core.ledger.card_facts import with_card_facts
from joulebook.core.ledger.state import Books, WorkloadState
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId

GIB = 2**30
G0, G1 = (Meter(Component.GPU, f"GPU-{n}") for n in range(2))
JOB, OTHER = (WorkloadId("slurm", name) for name in ("101", "102"))
FACTS = WorkloadFacts(JOB, labels=Labels("ada", "nlp", "bert"), extra={"partition": "a100"})


def held(meter: Meter, workload: WorkloadId | None = JOB, **more: object) -> Claim:
    claim = Claim(workload, meter, 1, None, Evidence.PROLOG)
    return msgspec.structs.replace(claim, **more)


def books(*claims: Claim, facts: WorkloadFacts = FACTS) -> Books:
    states = {each.id: WorkloadState(each, {}, 1) for each in (facts, WorkloadFacts(OTHER))}
    return Books(claims=claims, workloads=states)


def status(meter: Meter, used_gib: float, limit_w: float, *, mig: bool = False) -> DeviceStatus:
    values: Mapping[str, float] = {
        "memory_used_bytes": used_gib * GIB,
        "memory_total_bytes": 79.6 * GIB,
        "power_limit_watts": limit_w,
    }
    return DeviceStatus(meter, 0, 1, values=values, mig=mig)


def extra(books_: Books, *statuses: DeviceStatus) -> dict[str, str] | None:
    found = {each.id: each.extra for each in with_card_facts((), books_, statuses)}
    assert set(found) <= {JOB}
    return found.get(JOB)


def test_the_most_of_all_cards_and_every_limit() -> None:
    both = books(held(G0), held(G1))
    seen = extra(both, status(G0, 3.2, 300), status(G1, 11.01, 249.6))
    assert seen == {
        "partition": "a100", "gpu_memory_gib": "12", "gpu_memory_total_gib": "80",
        "gpu_power_limits_w": "250,300",
    }  # fmt: skip
    later = books(held(G0), facts=msgspec.structs.replace(FACTS, extra=seen))
    assert extra(later, status(G0, 11.9, 300)) is None  # nothing is new, so nothing is written
    raised = extra(later, status(G0, 20, 200))
    assert raised is not None
    assert (raised["gpu_memory_gib"], raised["gpu_power_limits_w"]) == ("20", "200,250,300")


def test_only_of_a_card_that_one_workload_holds_alone() -> None:
    one = status(G0, 8, 300)
    assert extra(books(), one) is None
    assert extra(books(held(G0, OTHER), held(G0)), one) is None
    assert extra(books(held(G0, None)), one) is None
    assert extra(books(held(G0, parts=1, of=2)), one) is None
    assert extra(books(held(G0, instance="MIG-1")), one) is None
    assert extra(books(held(G0)), status(G0, 8, 300, mig=True)) is None
    assert extra(books(held(G0, t1_ns=5)), one) is None
    assert extra(books(held(G0, WorkloadId("slurm", "999"))), one) is None


def test_what_a_driver_does_not_report_is_absent() -> None:
    found = extra(books(held(G0)), DeviceStatus(G0, 0, 1, values={"power_limit_watts": 400.0}))
    assert found == {"partition": "a100", "gpu_power_limits_w": "400"}
    assert (
        extra(books(held(G0)), DeviceStatus(G0, 0, 1, values={"memory_used_bytes": float("nan")}))
        is None
    )


def test_they_go_into_the_ledger_and_take_nothing_from_what_a_source_reports() -> None:
    before = books(held(G0))
    renamed = msgspec.structs.replace(FACTS, labels=Labels("ada", "nlp", "better"))
    facts = with_card_facts((renamed,), before, [status(G0, 8, 300)])
    after, entry = advance(before, Tick(10, facts=facts), BookingPolicy())
    known = after.workloads[JOB].facts
    assert known.labels.experiment == "better"
    assert known.extra["gpu_memory_gib"] == "8"
    assert entry.facts[-1] == known
