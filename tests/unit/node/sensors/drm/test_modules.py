"""MI250: one meter for a module of two dies, shared by what each of them does."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.sysfs.machine import Machine, gpu_metrics
from tests.unit.core.audit import Auditor
from tests.unit.core.world import Run, job_id
from tests.unit.node.sensors.still_clock import StillClock

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Remainder
from joulebook.core.ledger.advance import BookingPolicy, Tick
from joulebook.node.sensors.drm.sensor import DrmSensor
from joulebook.units import NS_PER_S

FIRST, SECOND = Meter(Component.GPU, "AMD-die0"), Meter(Component.GPU, "AMD-die1")
UNITS_PER_J = 65_536  # of the accumulator: 15.259 uJ
A, B = job_id("a"), job_id("b")
WATTS = 400


class Mi250:
    def __init__(self, root: Path) -> None:
        self.machine, self.clock, self.joules = Machine(root), StillClock(), 1_000.0
        self.devices = [
            self.machine.amd(
                die,
                f"0000:{0x20 + die:02x}:00.0",
                metrics=None,
                watts=0 if die else WATTS,
                model="AMD Instinct MI250X",
                unique_id=f"die{die}",
            )
            for die in range(2)
        ]

    def show(self, *busy: int) -> None:
        for die, device in enumerate(self.devices):
            energy, power_w = (0, 0) if die else (round(self.joules * UNITS_PER_J), WATTS)
            table = gpu_metrics(2, energy, power_w=power_w, gfx=busy[die])
            (device / "gpu_metrics").write_bytes(table)
            (device / "gpu_busy_percent").write_text(str(busy[die]))


def test_the_module_is_one_meter_and_its_dies_are_its_parts(tmp_path: Path) -> None:
    board = Mi250(tmp_path)
    board.show(100, 0)
    sensor = DrmSensor(board.clock, board.machine.drm, proc=board.machine.proc)
    sensor.open()
    poll = sensor.poll(processes=True)
    (reading,) = poll.readings
    assert (reading.meter, reading.power_mw, reading.busy) == (FIRST, 400_000, True)
    assert [tuple(each) for each in reading.instances or ()] == [
        ("AMD-die0", 1, 2, 1_000_000), ("AMD-die1", 1, 2, 0),
    ]  # fmt: skip
    assert poll.failures == ()
    first, second = poll.statuses
    assert first.module == second.module == FIRST
    assert first.values["power_watts"] == WATTS and "power_watts" not in second.values
    assert second.values["utilization_ratio"] == 0


@pytest.mark.parametrize(
    ("busy", "shares"), [((100, 0), (1, 0)), ((0, 100), (0, 1)), ((50, 50), (0.5, 0.5))]
)
def test_a_busy_die_is_never_0_joules(
    tmp_path: Path, busy: tuple[int, int], shares: tuple[float, float]
) -> None:
    board = Mi250(tmp_path)
    board.show(*busy)
    sensor = DrmSensor(board.clock, board.machine.drm, proc=board.machine.proc)
    sensor.open()
    run, audit = Run(), Auditor()
    claims = tuple(
        Claim(who, FIRST, 1, None, Evidence.PROLOG, 1, 2, die.name)
        for who, die in ((A, FIRST), (B, SECOND))
    )
    for _ in range(20):
        board.clock.t_ns += NS_PER_S
        board.joules += WATTS
        board.show(*busy)
        before = run.books
        run.take(
            Tick(board.clock.now_ns(), readings=sensor.poll(processes=True).readings,
                 claims=claims, complete=frozenset(Evidence)),
            BookingPolicy(),
        )  # fmt: skip
        audit(before, run.books, run.entries[-1])
    got, total = run.by_subject(), run.booked_uj(FIRST)
    assert total == pytest.approx(16 * WATTS * 1e6, rel=0.01)
    for who, share in zip((A, B), shares, strict=True):
        assert got.get(who, 0) == pytest.approx(share * total, abs=2)
    assert Remainder.UNALLOCATED not in got


def test_cards_that_tell_power_each_are_left_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for number in range(2):
        machine.amd(number, f"0000:{number:02x}:00.0", metrics=None, watts=30 + number,
                    unique_id=f"card{number}")  # fmt: skip
    sensor = DrmSensor(StillClock(), machine.drm, proc=machine.proc)
    sensor.open()
    poll = sensor.poll(processes=False)
    assert len(poll.readings) == 2
    assert all(r.instances is None for r in poll.readings)
    assert all(status.module is None for status in poll.statuses)
