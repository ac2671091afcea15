"""Views to show: a small one in which every metric occurs, and a busy node."""

from __future__ import annotations

import math

import msgspec

from joulebook.core.attribution.claims import Claim, Evidence, Holder
from joulebook.core.energy.audit import Audit
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.node_meter import NodeMeter
from joulebook.core.energy.readings import Component, DeviceStatus, Meter, Reading
from joulebook.core.evidence import Amount, Method, Remainder
from joulebook.core.ledger.state import Books, ExperimentState, WorkloadState
from joulebook.core.money.accrual import ChargeState
from joulebook.core.money.amounts import Charge, Exact, Item, total
from joulebook.core.money.rates import (
    NANO,
    PER_KWH,
    PPM,
    RATIO_PPM,
    UG_PER_KWH,
    HardwareRate,
    Point,
    Quality,
    RateSet,
    StepCurve,
    nano_per_kwh,
)
from joulebook.core.workloads import Allowance, Labels, WorkloadFacts, WorkloadId
from joulebook.metrics.derived import ProcessStats
from joulebook.metrics.snapshot import Build, RateFeed, SensorHealth, Snapshot
from joulebook.units import NS_PER_S

GIB = 1 << 30
NOW_NS = 5_000 * NS_PER_S
UTC_OFFSET_NS = 1_764_000_000 * NS_PER_S

GPU0 = Meter(Component.GPU, "GPU-5ef3a1c0-0000-4000-8000-000000000000")
GPU1 = Meter(Component.GPU, "GPU-5ef3a1c0-0000-4000-8000-000000000001")
CPU0 = Meter(Component.CPU, "package-0")
BMC = Meter(Component.OTHER, "ipmi")

BERT = Labels("ada", "nlp", "bert-base")
SWEEP = Labels("grace", "vision", "vit-sweep")

RUNNING = WorkloadId("slurm", "101")
SHARING = WorkloadId("slurm", "107.r1")
FRESH = WorkloadId("slurm", "108")
UNSETTLED = WorkloadId("slurm", "109")
ENDED = WorkloadId("slurm", "99")

ELECTRICITY = Charge(Item.ELECTRICITY, "EUR")
CREDIT = Charge(Item.CREDIT, "EUR")
HARDWARE = Charge(Item.HARDWARE, "EUR")
CO2E = Charge(Item.CO2E)
CHARGES = frozenset({ELECTRICITY, HARDWARE, CO2E})
RATES = RateSet(
    "EUR",
    "DE",
    StepCurve((Point(0, 312_500_000, nano_per_kwh("EUR"), "contract 2026", Quality.MEASURED),)),
    StepCurve((Point(0, 363_250_000, UG_PER_KWH, "Energy-Charts DE", Quality.ESTIMATED),)),
    StepCurve((Point(0, 1_250_000, RATIO_PPM, "machine room", Quality.ESTIMATED),)),
    (HardwareRate("NVIDIA H100*", 1_250_000_000, "rates.hardware"),),
)


def bill_of(amount: Amount, *, credit: bool = False) -> dict[Charge, Exact]:
    """What an amount is charged at `RATES`, and a cent of credit."""
    bill = {
        ELECTRICITY: Exact.of(amount.energy_uj * 312_500_000 * 1_250_000),
        CO2E: Exact.of(amount.energy_uj * 363_250_000 * 1_250_000),
        HARDWARE: Exact.of(amount.held_ns * 1_250_000_000 * PPM),
    }
    return {**bill, CREDIT: Exact.of(NANO // 100 * PER_KWH)} if credit else bill


PROCESS = ProcessStats(
    cpu_s=12.5,
    resident_bytes=41 << 20,
    virtual_bytes=600 << 20,
    open_fds=23,
    start_s=1_764_000_100.25,
)


HEALTH = {
    "memory_reserved_bytes": float(600 << 20),
    "memory_temperature_celsius": 71.0,
    "performance_state": 0.0,
    "pcie_generation": 5.0,
    "pcie_lanes": 16.0,
    "remapped_rows_pending": 1.0,
    "row_remapping_failed": 0.0,
    "retired_pages_pending": 0.0,
    "graphics_active_ratio": 0.99,
    "sm_active_ratio": 0.93,
    "sm_occupancy_ratio": 0.5,
    "tensor_active_ratio": 0.37,
    "dram_active_ratio": 0.62,
    "fp64_active_ratio": 0.0,
    "fp32_active_ratio": 0.08,
    "fp16_active_ratio": 0.02,
    "pcie_bytes_transmit": 1.5e9,
    "pcie_bytes_receive": 2.5e9,
}


def device(meter: Meter, index: int, **values: float) -> DeviceStatus:
    return DeviceStatus(
        meter,
        index,
        NOW_NS,
        vendor="nvidia",
        model="NVIDIA H100 80GB HBM3",
        driver="570.86.15",
        pci=f"00000000:{0x18 + index:02X}:00.0",
        minor=index,
        values={
            "power_watts": 412.75,
            "power_limit_watts": 700.0,
            "utilization_ratio": 0.97,
            "memory_utilization_ratio": 0.41,
            "encoder_utilization_ratio": 0.0,
            "decoder_utilization_ratio": 0.0,
            "memory_used_bytes": 61 * GIB,
            "memory_total_bytes": 80 * GIB,
            "temperature_celsius": 64.0,
            "sm_clock_hertz": 1.98e9,
            "memory_clock_hertz": 2.619e9,
            **HEALTH,
            **values,
        },
        throttle_ns={"sw_power_cap": 1_500_000_000, "hw_thermal": 0},
        counts={
            ("xid_errors", "79"): 1,
            ("ecc_errors", "corrected"): 7,
            ("remapped_rows", "corrected"): 1,
            ("remapped_rows", "uncorrected"): 0,
            ("retired_pages", "uncorrected"): 0,
            ("nvlink_errors", "replay"): 5,
            ("pcie_replay", ""): 3,
            ("pcie_bytes", "transmit"): 1 << 40,
            ("nvlink_bytes", "receive"): 1 << 41,
        },
        last_xid=79,
    )


def meter_state(meter: Meter, booked_uj: int, read_uj: int) -> MeterState:
    audit = Audit(ratio=1.00421) if meter.component is Component.GPU else Audit()
    base = Reading(meter, NOW_NS)
    return MeterState(meter, base, booked_uj=booked_uj, read_uj=read_uj, audit=audit)


def small_books() -> Books:
    """Books that balance: a held, a running, an unsettled and an ended workload."""
    running = Amount(
        1_234_567_891_234, 34_000_000_001, 3_600 * NS_PER_S,
        tensor_ns=1_332 * NS_PER_S, tensor_known_ns=3_600 * NS_PER_S,
    )  # fmt: skip
    sharing = Amount(900_015_625, 15_624, 300 * NS_PER_S + 1)
    fresh = Amount(77_000_001, 0, 2 * NS_PER_S)
    unsettled = Amount(5_000_007)
    ended = Amount(60_000_500_000, 50_000_000_000, 120 * NS_PER_S)
    cpu = Amount(250_000_000)
    sweep = sharing.plus(fresh).plus(ended)
    rest_uj = 40_000_000_003
    booked_uj = running.energy_uj + sweep.energy_uj + unsettled.energy_uj + rest_uj
    gpu0_uj = running.energy_uj + 10
    nobody = {(c, Remainder.UNALLOCATED): a for c, a in bill_of(Amount(rest_uj)).items() if a.atoms}
    return Books(
        meters={
            GPU0: meter_state(GPU0, gpu0_uj, gpu0_uj + 1_300_000_000),
            GPU1: meter_state(GPU1, booked_uj - gpu0_uj, booked_uj - gpu0_uj + 4),
            CPU0: msgspec.structs.replace(
                meter_state(CPU0, cpu.energy_uj, cpu.energy_uj), idle_mw=62_500
            ),
        },
        node_meters={
            BMC: NodeMeter(
                meter_state(BMC, 0, 0),
                (Component.CPU, Component.GPU),
                0,
                4_000 * NS_PER_S,
                900_000_000,
                950_000_000,
                0,
                50_000_000,
                "gpu",
            )
        },
        claims=(
            Claim(RUNNING, GPU0, 1_000 * NS_PER_S, None, Evidence.PROLOG),
            Claim(SHARING, GPU1, 2_000 * NS_PER_S, None, Evidence.SCONTROL, 1, 4),
            Claim(FRESH, GPU1, 4_990 * NS_PER_S, None, Evidence.PROLOG, 1, 4),
            Claim(UNSETTLED, GPU1, 4_998 * NS_PER_S, None, Evidence.PROLOG, 1, 4),
        ),
        workloads={
            RUNNING: WorkloadState(
                WorkloadFacts(
                    RUNNING,
                    name="train.sh",
                    labels=BERT,
                    started_ns=500 * NS_PER_S,
                    gpu_count=1,
                    evidence="prolog",
                    extra={"partition": "h100", "gpu_model": "NVIDIA H100 80GB HBM3"},
                ),
                {Component.GPU: running, Component.CPU: cpu},
                0,
                BERT,
                "101",
                bill=bill_of(running, credit=True),
            ),
            SHARING: WorkloadState(
                WorkloadFacts(
                    SHARING,
                    display="100_7.r1",
                    name="sweep",
                    evidence="scontrol",
                    extra={"array": "100_7", "image": "vit:1.4"},
                ),
                {Component.GPU: sharing},
                0,
                SWEEP,
                "100_7.r1",
                bill=bill_of(sharing),
            ),
            FRESH: WorkloadState(
                WorkloadFacts(FRESH),
                {Component.GPU: fresh},
                0,
                SWEEP,
                "108",
                9 * NS_PER_S,
                bill=bill_of(fresh),
            ),
            UNSETTLED: WorkloadState(
                WorkloadFacts(UNSETTLED), {Component.GPU: unsettled}, 0, bill=bill_of(unsettled)
            ),
            ENDED: WorkloadState(
                WorkloadFacts(ENDED, extra={"gpu_model": "NVIDIA H100 80GB HBM3"}),
                {Component.GPU: ended},
                0,
                SWEEP,
                "99",
                ended_ns=NOW_NS - 200 * NS_PER_S,
                bill=bill_of(ended),
            ),
        },
        experiments={
            BERT: ExperimentState(
                {Component.GPU: running, Component.CPU: cpu},
                {},
                0,
                NOW_NS,
                bill=bill_of(running, credit=True),
            ),
            SWEEP: ExperimentState(
                {Component.GPU: sweep},
                {Component.GPU: ended},
                5 * NS_PER_S,
                NOW_NS,
                bill=bill_of(sweep),
                bill_baseline=bill_of(ended),
            ),
        },
        remainders={
            (Component.GPU, Remainder.UNALLOCATED): 30_000_000_000,
            (Component.GPU, Remainder.DAEMON_DOWN): 10_000_000_003,
        },
        evidence_uj={"prolog": running.energy_uj, "none": rest_uj},
        method_uj={Method.COUNTER: booked_uj, Method.APPORTIONED: sharing.energy_uj},
        gaps_ns={(GPU1, "gpu_is_lost"): 2_500_000_000},
        foreign_ns={(GPU0, SHARING): 7 * NS_PER_S},
        overflow={"experiments": 3},
        last_ns=NOW_NS,
        charges={
            charge: ChargeState(amount)
            for charge, amount in total(
                [
                    bill_of(running, credit=True),
                    bill_of(sweep),
                    bill_of(unsettled),
                    bill_of(Amount(rest_uj)),
                ]
            ).items()
        },
        remainder_bills=nobody,
        unpriced_uj={"co2e": 7_500_000},
        models={GPU0: "NVIDIA H100 80GB HBM3", GPU1: "NVIDIA H100 80GB HBM3"},
    )


def small_view(books: Books | None = None) -> Snapshot:
    """A view in which every metric of the catalogue has a value, save that of errors."""
    quarter = 4
    return Snapshot(
        "node-1",
        small_books() if books is None else books,
        cluster="lab",
        statuses=(
            device(GPU1, 1, power_watts=201.5, utilization_ratio=0.355),
            device(GPU0, 0),
        ),
        now_ns=NOW_NS,
        utc_offset_ns=UTC_OFFSET_NS,
        holders={
            GPU0: (Holder(RUNNING, Evidence.PROLOG, 1, 1),),
            GPU1: (
                Holder(SHARING, Evidence.SCONTROL, 1, quarter),
                Holder(FRESH, Evidence.PROLOG, 1, quarter),
                Holder(UNSETTLED, Evidence.PROLOG, 1, quarter),
                Holder(None, Evidence.JOB_MAPPING, 1, quarter),
            ),
        },
        sensors=(
            SensorHealth("nvml", "counter", True, {"gpu_is_lost": 2}, 1_764_004_999.5, 0.0125),
            SensorHealth("rapl", "counter", False),
        ),
        rejected={("slurm", "bad_owner"): 2},
        tick_s=0.0021,
        build=Build("0.1.0", "abc1234", "3.11.9"),
        history=tuple((1_764_004_100.0 + t, 600.0 + t % 7) for t in range(900)),
        today={BERT: 700_000_000_000, SWEEP: 61_000_000_000, Remainder.UNALLOCATED: 9_000_000_000},
        today_bills={
            BERT: bill_of(Amount(700_000_000_000, 0, 1_800 * NS_PER_S)),
            SWEEP: bill_of(Amount(61_000_000_000, 0, 120 * NS_PER_S)),
            Remainder.UNALLOCATED: {ELECTRICITY: Exact.of(9_000_000_000 * 312_500_000 * 1_250_000)},
        },
        rates=RATES,
        charges=CHARGES,
        budgets=(
            Allowance("nlp", "bert-base", "EUR", 2500.0),
            Allowance("vision", "", "kwh", 500.0),
        ),
        feeds=(
            RateFeed("price", "contract 2026", True, 1_764_004_100),
            RateFeed("carbon", "Energy-Charts DE", False, 1_764_000_800, {"timeout": 3}),
        ),
    )


_NAMES = (
    "bert-base", "vit-sweep", "llama-ft", "diffusion-xl", "protein-fold", "asr-whisper",
    "énergie", "rlhf-ppo", "segment-anything", "weather-gnn", "moe-router", "retrieval",
)  # fmt: skip
_USERS = ("ada", "grace", "katherine", "alan", "edsger", "barbara", "donald", "margaret")
_ACCOUNTS = ("nlp", "vision", "bio", "speech")


def busy_view(gpus: int = 8, workloads: int = 64, experiments: int = 50) -> Snapshot:
    """A node in the middle of its day; its books balance."""
    meters = [
        Meter(Component.GPU, f"GPU-{0x5EF3A1C0 + i:08x}-77aa-4b1c-9d3e-0123456789ab")
        for i in range(gpus)
    ]
    labels = [
        Labels(
            _USERS[i % len(_USERS)],
            _ACCOUNTS[i % len(_ACCOUNTS)],
            _NAMES[i % len(_NAMES)] + (f"-{i // len(_NAMES)}" if i >= len(_NAMES) else ""),
        )
        for i in range(experiments)
    ]
    states: dict[WorkloadId, WorkloadState] = {}
    balances: dict[Labels, Amount] = {}
    claims: list[Claim] = []
    holders: dict[Meter, tuple[Holder, ...]] = {}
    for i in range(workloads):
        id_ = WorkloadId("slurm", str(48_100 + i))
        whose = labels[i % experiments]
        live = i < gpus + 2
        amount = Amount(
            (i * 7919 % 97 + 3) * 31_415_926_535 + i,
            (i * 31 % 60) * 90_000_000_00,
            (i * 37 % 90 + 1) * 200 * NS_PER_S,
        )
        balances[whose] = balances.get(whose, Amount(0)).plus(amount)
        states[id_] = WorkloadState(
            WorkloadFacts(
                id_,
                name="train.sh",
                labels=whose,
                gpu_count=1,
                evidence="prolog",
                extra={"partition": "h100"},
            ),
            {Component.GPU: amount},
            0,
            whose,
            id_.workload if i % 5 else f"48000_{i}",
            ended_ns=None if live else NOW_NS - (i - gpus) * 13 * NS_PER_S,
        )
        if live:
            # All hold a card of their own, but for the last three, who share one.
            meter = meters[min(i, gpus - 2)]
            of = 1 if i < gpus - 2 else 4
            claims.append(Claim(id_, meter, NOW_NS // 2, None, Evidence.PROLOG, 1, of))
            held = holders.get(meter, ())
            holders[meter] = (*held, Holder(id_, Evidence.PROLOG, 1, of))
    for whose in labels[workloads:]:
        balances[whose] = Amount(10**12, 0, 3_600 * NS_PER_S)
    booked_uj = sum(amount.energy_uj for amount in balances.values())
    rest = {
        (Component.GPU, Remainder.UNALLOCATED): booked_uj // 9,
        (Component.GPU, Remainder.DAEMON_DOWN): booked_uj // 300,
    }
    total_uj = booked_uj + sum(rest.values())
    each_uj = total_uj // gpus
    edges = [each_uj] * (gpus - 1) + [total_uj - each_uj * (gpus - 1)]
    books = Books(
        meters={
            meter: meter_state(meter, edge_uj, edge_uj + 1_234_567_890 + i)
            for i, (meter, edge_uj) in enumerate(zip(meters, edges, strict=True))
        },
        claims=tuple(claims),
        workloads=states,
        experiments={
            who: ExperimentState({Component.GPU: a}, {}, 0, 0) for who, a in balances.items()
        },
        remainders=rest,
        evidence_uj={"prolog": booked_uj, "none": sum(rest.values())},
        method_uj={Method.COUNTER: total_uj * 96 // 100, Method.APPORTIONED: total_uj * 4 // 100},
        last_ns=NOW_NS,
    )
    statuses = tuple(
        device(
            meter,
            i,
            power_watts=72.0 if meter not in holders else 310.0 + 53.7 * (i * 5 % 7),
            utilization_ratio=0.0 if meter not in holders else (0.99, 0.87, 0.42, 0.95)[i % 4],
            memory_used_bytes=(1 if meter not in holders else 18 + 7 * i) * GIB,
            temperature_celsius=34.0 + i * 5 % 31,
        )
        for i, meter in enumerate(meters)
    )
    today: dict[Labels | Remainder, int] = {
        who: amount.energy_uj // 3 for who, amount in list(balances.items())[:11]
    }
    today[Remainder.UNALLOCATED] = rest[Component.GPU, Remainder.UNALLOCATED] // 20
    return Snapshot(
        "gpu-node-07",
        books,
        cluster="hpc-lab",
        statuses=statuses,
        now_ns=NOW_NS,
        utc_offset_ns=UTC_OFFSET_NS,
        holders=holders,
        sensors=(SensorHealth("nvml", "counter", True, {}, 1_764_004_999.5, 0.0125),),
        rejected={("slurm", "bad_owner"): 2},
        tick_s=0.0021,
        history=tuple(
            (1_764_004_100.0 + t, 2_600 + 500 * math.sin(t / 70) + 160 * math.sin(t * 1.7))
            for t in range(900)
            if not 380 < t < 420
        ),
        today=today,
    )
