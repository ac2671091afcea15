from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.metrics.sample import (
    BERT,
    CPU0,
    ENDED,
    FRESH,
    GPU0,
    GPU1,
    PROCESS,
    RUNNING,
    SHARING,
    SWEEP,
    UNSETTLED,
    device,
    small_books,
    small_view,
)

from joulebook.core.attribution.claims import Claim, Evidence, Holder
from joulebook.core.energy.host_usage import HostSnapshot, Use
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Method
from joulebook.core.ledger.series import OVERFLOW, pool_id
from joulebook.core.ledger.state import Books, ExperimentState, WorkloadState
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.metrics import collector
from joulebook.metrics.catalogue import (
    CATALOGUE,
    GAP_REASONS,
    GPU_GAP_REASONS,
    SENSOR_ERROR_REASONS,
)
from joulebook.metrics.collector import PRODUCERS, Sample, collect
from joulebook.metrics.derived import UNKNOWN, Derived, joules, seconds
from joulebook.metrics.snapshot import Snapshot
from joulebook.units import NS_PER_S

Values = dict[tuple[str, ...], float]


def values(view: Snapshot, name: str) -> Values:
    collected = collect(view, PROCESS)
    assert not collected.failures
    (family,) = [f for f in collected.families if f.metric.name == f"joulebook_{name}"]
    return dict(family.samples)


def with_books(**changes: object) -> Snapshot:
    return small_view(msgspec.structs.replace(small_books(), **changes))


def test_collector_and_catalogue_are_the_same() -> None:
    assert set(PRODUCERS) == {metric.name for metric in CATALOGUE}
    collected = collect(small_view(), PROCESS, {"joulebook_gpu_info": 1})
    assert {f.metric.name for f in collected.families if f.samples} == {m.name for m in CATALOGUE}
    for family in collected.families:
        for labels, _ in family.samples:
            assert len(labels) == len(family.metric.labels)


def test_collecting_twice_gives_the_same() -> None:
    view = small_view()
    assert collect(view, PROCESS) == collect(view, PROCESS)


def test_empty_node_has_a_valid_exposition() -> None:
    collected = collect(Snapshot("n", Books()))
    assert not collected.failures
    assert {f.metric.name for f in collected.families if f.samples} == {
        "joulebook_tick_duration_seconds",
        "joulebook_build_info",
        "joulebook_evidence_energy_joules_total",
        "joulebook_method_energy_joules_total",
    }


@given(st.integers(0, 10**19))
def test_joules_are_floored_and_never_fall(energy_uj: int) -> None:
    shown = joules(energy_uj)
    step = 1 if energy_uj >= 10**9 else 1 / 64
    assert 0 <= energy_uj / 10**6 - shown <= step * (1 + 1e-9) + energy_uj * 1e-21
    assert math.modf(shown / step)[0] == 0
    assert joules(energy_uj + 1) >= shown


@given(st.integers(0, 10**18))
def test_seconds_are_floored(duration_ns: int) -> None:
    shown = seconds(duration_ns)
    assert (shown * 1024).is_integer()
    assert int(shown * 1024) == duration_ns * 1024 // 10**9


def test_workload_is_shown_once_its_labels_are_settled() -> None:
    shown = values(small_view(), "workload_energy_joules_total")
    assert {key[1] for key in shown} == {"101", "100_7.r1", "108", "99"}
    assert UNSETTLED.workload not in {key[1] for key in values(small_view(), "workload_info")}
    assert UNSETTLED.workload not in {key[3] for key in values(small_view(), "gpu_held_ratio")}


def test_workload_is_zero_while_it_is_held_and_true_afterwards() -> None:
    key = ("slurm", "108", *SWEEP)
    assert values(small_view(), "workload_energy_joules_total")[*key, "gpu"] == 0
    assert values(small_view(), "workload_gpu_seconds_total")[key] == 0
    books = small_books()
    released = msgspec.structs.replace(books.workloads[FRESH], hold_left_ns=0)
    view = with_books(workloads={**books.workloads, FRESH: released})
    assert values(view, "workload_energy_joules_total")[*key, "gpu"] == 77
    assert values(view, "workload_gpu_seconds_total")[key] == 2


def test_what_is_not_measured_for_all_of_its_time_says_so() -> None:
    """It runs for 4,500 s, and was measured for 3,600; the reading of a lost card is no end."""
    key = ("slurm", "101", *BERT)
    assert values(small_view(), "workload_coverage_ratio") == {key: 0.8}
    books = small_books()
    state, meter = books.workloads[RUNNING], books.meters[GPU0]

    def shown(state: WorkloadState, meter: MeterState, claims: tuple[Claim, ...]) -> object:
        view = with_books(
            workloads={RUNNING: state}, meters={**books.meters, GPU0: meter}, claims=claims
        )
        view = msgspec.structs.replace(view, holders={})
        return values(view, "workload_coverage_ratio").get(key)

    whole = msgspec.structs.replace(state.facts, started_ns=1_400 * NS_PER_S)
    assert shown(msgspec.structs.replace(state, facts=whole), meter, books.claims) is None
    early = msgspec.structs.replace(meter.base, t_ns=4_100 * NS_PER_S)
    lost = msgspec.structs.replace(
        meter, base=early, gap_reason="gpu_is_lost", gap_to_ns=5_000 * NS_PER_S
    )
    assert shown(state, lost, books.claims) == 0.8
    assert shown(state, msgspec.structs.replace(meter, base=early), books.claims) is None
    over = msgspec.structs.replace(state, ended_ns=4_600 * NS_PER_S)
    assert shown(over, meter, ()) == 0.878
    assert shown(msgspec.structs.replace(state, shared=True), meter, books.claims) is None
    used = msgspec.structs.replace(state.facts, evidence="processes")
    assert shown(msgspec.structs.replace(state, facts=used), meter, books.claims) is None


@pytest.mark.parametrize("how", ["claim", "holder", "gpu_count"])
def test_component_is_shown_at_zero_before_anything_is_booked_on_it(how: str) -> None:
    id_ = WorkloadId("slurm", "200")
    facts = WorkloadFacts(id_, gpu_count=int(how == "gpu_count"))
    view = with_books(
        workloads={id_: WorkloadState(facts, {}, 0, BERT._replace(experiment="new"), "200")},
        experiments={BERT._replace(experiment="new"): ExperimentState({}, {}, 0, 0)},
        claims=(Claim(id_, GPU0, 0, 5, Evidence.PROLOG),) if how == "claim" else (),
    )
    holders = {GPU0: (Holder(id_, Evidence.PROLOG, 1, 1),)} if how == "holder" else {}
    view = msgspec.structs.replace(view, holders=holders)
    for name in ("energy_joules_total", "idle_energy_joules_total"):
        assert values(view, f"workload_{name}") == {("slurm", "200", "ada", "nlp", "new", "gpu"): 0}
        assert values(view, f"experiment_{name}") == {("ada", "nlp", "new", "gpu"): 0}
    assert values(view, "workload_gpu_seconds_total") == {("slurm", "200", "ada", "nlp", "new"): 0}
    assert values(view, "experiment_gpu_seconds_total") == {("ada", "nlp", "new"): 0}


def test_experiment_shows_its_baseline_while_it_is_held() -> None:
    shown = values(small_view(), "experiment_energy_joules_total")
    assert shown[*SWEEP, "gpu"] == 60_000
    assert shown[*BERT, "gpu"] == 1_234_567
    books = small_books()
    free = msgspec.structs.replace(books.experiments[SWEEP], hold_left_ns=0)
    view = with_books(experiments={**books.experiments, SWEEP: free})
    assert values(view, "experiment_energy_joules_total")[*SWEEP, "gpu"] == 60_977
    assert values(view, "experiment_gpu_seconds_total")[SWEEP] == 422


def test_folded_workload_counts_in_the_overflow_of_its_owner() -> None:
    books = small_books()
    pool = pool_id(SWEEP)
    labels = SWEEP._replace(experiment=OVERFLOW)
    view = with_books(
        workloads={
            **books.workloads,
            SHARING: msgspec.structs.replace(books.workloads[SHARING], folded=True),
            pool: WorkloadState(WorkloadFacts(pool), {}, 0, labels, OVERFLOW),
        }
    )
    identity = (OVERFLOW, OVERFLOW, *labels)
    energy = values(view, "workload_energy_joules_total")
    assert energy[*identity, "gpu"] == 0
    assert "100_7.r1" not in {key[1] for key in energy}
    assert values(view, "workload_power_watts")[*identity, "gpu"] == 50.375
    assert values(view, "gpu_held_ratio")["1", GPU1.name, *identity] == 0.25


def test_an_overflow_is_seen_at_zero_before_anybody_in_it_holds_anything() -> None:
    pool, labels = pool_id(SWEEP), SWEEP._replace(experiment=OVERFLOW)
    state = WorkloadState(WorkloadFacts(pool), {}, 0, labels, OVERFLOW)
    view = with_books(workloads={pool: state}, claims=())
    identity = (OVERFLOW, OVERFLOW, *labels)
    assert values(view, "workload_energy_joules_total")[*identity, "gpu"] == 0
    hardware = (*identity, "hardware", "EUR")
    assert values(view, "workload_cost_total").get(hardware) == 0


def test_power_is_that_of_the_devices_times_the_share_held() -> None:
    second = Meter(Component.GPU, "GPU-third")
    view = small_view()
    view = msgspec.structs.replace(
        view,
        statuses=(*view.statuses, device(second, 2, power_watts=100.0)),
        holders={**view.holders, second: (Holder(RUNNING, Evidence.PROLOG, 1, 3),)},
    )
    power = values(view, "workload_power_watts")
    assert power["slurm", "101", *BERT, "gpu"] == 446.083
    assert power["slurm", "108", *SWEEP, "gpu"] == 50.375
    assert ENDED.workload not in {key[1] for key in power}


def test_two_instances_of_a_workload_are_one_series() -> None:
    held = tuple(Holder(RUNNING, Evidence.PROLOG, n, 7, f"MIG-{n}") for n in (1, 2))
    nobody = tuple(Holder(None, Evidence.PROLOG, 1, 7, f"MIG-{n}") for n in (3, 4))
    view = msgspec.structs.replace(small_view(), holders={GPU0: (*held, *nobody)})
    ratios = values(view, "gpu_held_ratio")
    assert ratios["0", GPU0.name, "slurm", "101", *BERT] == pytest.approx(3 / 7)
    assert ratios["0", GPU0.name, *UNKNOWN] == pytest.approx(2 / 7)


def test_power_is_shared_as_it_is_drawn() -> None:
    view = small_view()
    drawn = {GPU0: {RUNNING: 0.25, None: 0.5}}
    held = values(view, "workload_power_watts")["slurm", "101", *BERT, "gpu"]
    power = values(msgspec.structs.replace(view, draws=drawn), "workload_power_watts")
    assert power["slurm", "101", *BERT, "gpu"] == pytest.approx(held / 4, abs=0.001)


def test_what_a_device_does_not_say_is_absent() -> None:
    status = msgspec.structs.replace(device(GPU0, 0), values={"temperature_celsius": 40.0})
    view = msgspec.structs.replace(small_view(), statuses=(status,))
    assert values(view, "gpu_power_watts") == {}
    assert values(view, "workload_power_watts") == {}
    assert values(view, "gpu_temperature_celsius") == {("0", GPU0.name): 40.0}


def test_only_gpus_are_shown_as_gpus() -> None:
    view = small_view()
    cpu = device(CPU0, 0, power_watts=90.0)
    view = msgspec.structs.replace(view, statuses=(*view.statuses, cpu))
    assert {key[1] for key in values(view, "gpu_info")} == {GPU0.name, GPU1.name}


def test_holder_that_nobody_knows_is_said_to_be_unknown() -> None:
    shown = values(small_view(), "gpu_held_ratio")
    assert shown["1", GPU1.name, "", "(unknown)", "", "", ""] == 0.25


def test_remainders_methods_and_evidence_begin_at_zero() -> None:
    view = with_books(remainders={}, evidence_uj={"prolog-v9": 5 * 10**9}, method_uj={})
    remainders = values(view, "remainder_energy_joules_total")
    assert len(remainders) == 10
    assert not any(remainders.values())
    assert values(view, "evidence_energy_joules_total")[("prolog-v9",)] == 5000
    assert values(view, "evidence_energy_joules_total")[("none",)] == 0
    assert len(values(view, "method_energy_joules_total")) == len(Method)


def test_information_of_a_workload() -> None:
    (names,) = (metric.labels for metric in CATALOGUE if metric.name == "joulebook_workload_info")
    info = values(small_view(), "workload_info")
    (found,) = (each for each in (dict(zip(names, key, strict=True)) for key in info)
                if each["workload"] == "101")  # fmt: skip
    assert found == {
        "scheduler": "slurm",
        "workload": "101",
        "name": "train.sh",
        "partition": "h100",
        "image": "",
        "array": "",
        "gpu_count": "1",
        "gpu_model": "NVIDIA H100 80GB HBM3",
        "evidence": "prolog",
    }
    assert set(info.values()) == {1}


def test_information_of_a_workload_is_the_same_once_it_holds_nothing() -> None:
    view = msgspec.structs.replace(with_books(claims=()), holders={})
    assert values(view, "workload_info") == values(small_view(), "workload_info")


def test_foreign_use_keeps_its_labels_when_the_workload_leaves() -> None:
    before = values(small_view(), "foreign_use_seconds_total")
    assert before == values(with_books(workloads={}), "foreign_use_seconds_total")


def test_sensor_that_never_answered_has_no_last_success() -> None:
    assert values(small_view(), "sensor_last_success_timestamp_seconds") == {
        ("nvml", "counter"): 1_764_004_999.5
    }
    assert values(small_view(), "sensor_up") == {("nvml", "counter"): 1, ("rapl", "counter"): 0}


def test_family_that_fails_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = RuntimeError("broken")

    def fail(derived: Derived) -> Iterator[Sample]:
        yield ("gpu",), 1.0
        raise broken

    name = "joulebook_pending_energy_joules"
    monkeypatch.setattr(collector, "PRODUCERS", {**PRODUCERS, name: fail})
    collected = collect(small_view(), PROCESS, {name: 4, "other": 1})
    assert collected.failures == {name: broken}
    shown = {f.metric.name: dict(f.samples) for f in collected.families}
    assert name not in shown
    assert shown["joulebook_exposition_errors_total"] == {(name,): 5, ("other",): 1}
    assert len(shown) == len(CATALOGUE) - 1


def test_state_that_cannot_be_read_fails_only_what_needs_it() -> None:
    """A workload of a kind that nobody foresaw costs its own families, not the scrape."""
    view = with_books(workloads={RUNNING: None})
    collected = collect(view, PROCESS)
    assert "joulebook_workload_energy_joules_total" in collected.failures
    names = {f.metric.name for f in collected.families if f.samples}
    assert {"joulebook_meter_energy_joules_total", "joulebook_gpu_power_watts"} <= names


def test_durations_are_shown_in_seconds() -> None:
    shown = values(small_view(), "workload_gpu_seconds_total")
    assert shown["slurm", "101", *BERT] == 3600
    assert values(small_view(), "gap_seconds_total")["gpu", GPU1.name, "gpu_is_lost"] == 2.5


def test_gaps_and_errors_of_the_usual_reasons_begin_at_zero() -> None:
    gaps = values(with_books(gaps_ns={(CPU0, "counter_wrap"): 10**9}), "gap_seconds_total")
    assert gaps.pop(("cpu", CPU0.name, "counter_wrap")) == 1
    assert set(gaps.values()) == {0}
    assert {reason for _, name, reason in gaps if name == GPU0.name} == {
        *GAP_REASONS,
        *GPU_GAP_REASONS,
    }
    assert {reason for _, name, reason in gaps if name == CPU0.name} == set(GAP_REASONS)
    view = small_view()
    healthy = tuple(msgspec.structs.replace(s, errors={}) for s in view.sensors)
    errors = values(msgspec.structs.replace(view, sensors=healthy), "sensor_errors_total")
    assert errors == {("nvml", "counter", r): 0 for r in SENSOR_ERROR_REASONS["nvml"]} | {
        ("rapl", "counter", r): 0 for r in SENSOR_ERROR_REASONS["rapl"]
    }


def test_gaps_of_meters_that_left_are_kept() -> None:
    view = with_books(meters={})
    assert values(view, "gap_seconds_total") == {("gpu", GPU1.name, "gpu_is_lost"): 2.5}


def test_peaks_are_of_the_model_and_say_where_they_are_from() -> None:
    peaks = values(small_view(), "gpu_peak_flops")
    assert peaks["0", GPU0.name, "bf16", "NVIDIA H100 datasheet"] == 989_500_000_000_000
    unheard = msgspec.structs.replace(device(GPU0, 0), model="Tesla K80")
    view = msgspec.structs.replace(small_view(), statuses=(unheard,))
    assert values(view, "gpu_peak_flops") == {}


def test_budgets_of_the_configuration_are_shown() -> None:
    assert values(small_view(), "budget") == {
        ("nlp", "bert-base", "EUR"): 2500,
        ("vision", "", "kwh"): 500,
    }


def test_the_node_s_own_meter_is_shown_beside_what_is_in_it() -> None:
    view = small_view()
    assert values(view, "node_energy_joules_total") == {("ipmi",): 900}
    assert values(view, "node_covered_energy_joules_total") == {("ipmi",): 950}
    assert values(view, "node_deficit_joules") == {("ipmi",): 50}
    assert values(view, "node_meter_omits") == {("ipmi", "cpu"): 0, ("ipmi", "gpu"): 1}
    assert values(view, "meter_idle_watts") == {("cpu", CPU0.name): 62.5}


def test_a_workload_that_uses_the_host_has_the_series_before_anything_is_booked() -> None:
    use = HostSnapshot(5_000, 8, 0, 0, 0, (Use(SHARING, 0),))
    shown = values(with_books(snapshots={5_000: use}), "workload_energy_joules_total")
    assert {key[-1] for key in shown if key[1] == "100_7.r1"} == {"gpu", "cpu"}
