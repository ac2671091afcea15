"""A card that is there and cannot be read is held all the same: a gap, and its hardware's cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.fakes.nvml.scenario import Gpu
from tests.unit.core.audit import Auditor
from tests.unit.core.money.test_accrual import HARDWARE, WANTED
from tests.unit.core.world import Run, job_id
from tests.unit.node.sensors.nvidia.nvml_bench import SECOND, Bench, MakeBench

from joulebook import cli
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import ZERO
from joulebook.core.ledger.advance import BookingPolicy, Tick, advance
from joulebook.core.money.rates import NANO, HardwareRate, RateSet
from joulebook.core.workloads import Labels, WorkloadFacts
from joulebook.ledger.sqlite import SqliteStore
from joulebook.node.sensors.nvidia.sensor import REOPEN_MOST_NS, NvmlSensor

JOB = job_id("1")
READ = Meter(Component.GPU, "GPU-00000000-0000-0000-0000-000000000000")
LOST = Meter(Component.GPU, "GPU-00000000-0000-0000-0000-000000000001")
A100 = "NVIDIA A100-SXM4-40GB"


def known_to_the_kernel(place: Bench, *meters: Meter) -> None:
    for number, meter in enumerate(meters):
        folder = place.proc / f"driver/nvidia/gpus/0000:{0x10 + number:02x}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(
            f"Model: \t\t {A100}\nIRQ:   \t\t 42\nGPU UUID: \t {meter.name}\n"
            f"Bus Location: \t {folder.name}\nDevice Minor: \t {number}\n"
        )


def ticks(place: Bench, sensor: NvmlSensor, seconds: int, each: int = 1) -> Iterator[Tick]:
    """The job holds both cards from the first second on."""
    rates = RateSet("EUR", hardware=(HardwareRate("*", NANO, "test"),))
    begun_ns = place.clock.now_ns()
    facts = (
        WorkloadFacts(JOB, labels=Labels("ada", "nlp", "bert"), started_ns=begun_ns, complete=True),
    )
    for _ in range(0, seconds, each):
        place.scenario.advance(each * SECOND)
        poll = sensor.poll(processes=True)
        models = {status.meter: status.model for status in poll.statuses}
        yield Tick(
            place.clock.now_ns(),
            utc_offset_ns=place.clock.utc_offset_ns(),
            readings=poll.readings,
            failures=poll.failures,
            claims=tuple(Claim(JOB, m, begun_ns, None, Evidence.PROLOG) for m in (READ, LOST)),
            complete=frozenset(Evidence),
            facts=facts,
            rates=rates,
            wanted=WANTED,
            models=models,
        )


def hours(run: Run) -> float:
    """GPU-hours that were charged, at 1 EUR each."""
    charged = [a for e in run.entries for k, a in e.charges.items() if k.charge == HARDWARE]
    return sum(amount.floor for amount in charged) / NANO


def played(run: Run, audit: Auditor, ticks: Iterator[Tick]) -> None:
    for tick in ticks:
        before = run.books
        run.take(tick, BookingPolicy())
        audit(before, run.books, run.entries[-1])


@pytest.mark.parametrize("code", [15, 999])
@pytest.mark.parametrize("later", [0, 30])
def test_its_held_time_is_a_gap_and_costs_its_hardware(
    bench: MakeBench, code: int, later: int
) -> None:
    place = bench([Gpu(idle_mw=300_000), Gpu(idle_mw=300_000)])
    known_to_the_kernel(place, READ, LOST)
    fault = None if later else place.scenario.inject("*", code, gpu=1)
    sensor = NvmlSensor(place.clock, sysfs=place.sysfs, proc=place.proc)
    sensor.open()
    run, audit = Run(), Auditor()
    played(run, audit, ticks(place, sensor, later))
    fault = fault or place.scenario.inject("*", code, gpu=1)
    played(run, audit, ticks(place, sensor, 400))
    held = {
        m: sum(a.held_ns for k, a in run.postings.items() if k.meter == m) for m in (READ, LOST)
    }
    assert held[LOST] <= later * SECOND < held[READ]
    assert any(k.meter == LOST and k.subject == JOB for k in run.postings)  # it had two GPUs
    assert later or {a for k, a in run.postings.items() if k.meter == LOST} == {ZERO}
    gaps = {reason: ns for (m, reason), ns in run.books.gaps_ns.items() if m == LOST}
    assert sum(gaps.values()) >= 390 * SECOND
    # Both cards cost their hardware, the one that cannot be read up to the last minute.
    assert hours(run) == pytest.approx(2 * (400 + later) / 3600, rel=0.1)
    # And nothing twice once it is read again.
    place.scenario.clear(fault)
    sought_s = REOPEN_MOST_NS // SECOND
    played(run, audit, ticks(place, sensor, sought_s, each=10))
    played(run, audit, ticks(place, sensor, 60))
    total_s = 460 + later + sought_s
    assert hours(run) == pytest.approx(2 * total_s / 3600, rel=0.02)


@pytest.mark.parametrize("code", [15, 999])
@pytest.mark.parametrize("later", [0, 30])
def test_the_jobs_statement_has_both_cards_and_says_what_it_does_not_know(
    bench: MakeBench, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int, later: int
) -> None:
    place = bench([Gpu(idle_mw=300_000), Gpu(idle_mw=300_000)])
    known_to_the_kernel(place, READ, LOST)
    if not later:
        place.scenario.inject("*", code, gpu=1)
    sensor = NvmlSensor(place.clock, sysfs=place.sysfs, proc=place.proc)
    sensor.open()
    ledger = tmp_path / "ledger.db"
    with closing(SqliteStore(ledger, allow_volatile=True)) as store:
        books, _ = store.load()
        for second, tick in enumerate(ticks(place, sensor, 600)):
            if second == later - 1:
                place.scenario.inject("*", code, gpu=1)
            after, entry = advance(books, tick, BookingPolicy())
            store.commit(books, after, entry, place.clock.anchor(tick.now_ns))
            books = after
    arguments = ["report", "--ledger", str(ledger), "--experiment", "bert", "--format", "json"]
    assert cli.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["inventory"]["gpu_count"]["value"] == 2
    measured = 600 + later
    assert found["quality"]["coverage"]["value"] == pytest.approx(100 * measured / 1200, abs=1)
    assert "a lower bound" in found["energy"]["gpu"]["note"]
    # Both cost their hardware, at 1 EUR an hour, up to the last minute.
    assert found["runs"][0]["cost"]["hardware_EUR"] == pytest.approx(1200 / 3600, rel=0.06)


def test_without_the_kernels_files_it_is_known_by_its_index(bench: MakeBench) -> None:
    place = bench([Gpu(), Gpu()])
    place.scenario.inject("*", 15, gpu=1)
    poll = place.sensor().poll(processes=False)
    (silent,) = [status for status in poll.statuses if not status.values]
    assert (silent.index, silent.minor, silent.meter.name) == (1, 1, "GPU-unread-1")
    assert [failure.meter for failure in poll.failures] == [silent.meter]


def test_garbage_in_the_kernels_files_is_left_alone(bench: MakeBench, tmp_path: Path) -> None:
    place = bench([Gpu(), Gpu()])
    for number, text in enumerate(("GPU UUID: GPU-????????-????\n", "\0\xff" * 50, "")):
        folder = place.proc / f"driver/nvidia/gpus/{number}"
        folder.mkdir(parents=True)
        (folder / "information").write_text(text)
    place.scenario.inject("*", 15, gpu=1)
    poll = place.sensor().poll(processes=False)
    assert [failure.meter.name for failure in poll.failures] == ["GPU-unread-1"]
