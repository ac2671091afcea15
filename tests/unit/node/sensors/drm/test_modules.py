"""MI250 and the partitions of an MI300: one meter for the module, shared by what each part does."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.fakes.sysfs.machine import Machine, gpu_metrics, put
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

    def show(self, busy: Sequence[int]) -> None:
        for die, device in enumerate(self.devices):
            energy, power_w = (0, 0) if die else (round(self.joules * UNITS_PER_J), WATTS)
            table = gpu_metrics(2, energy, power_w=power_w, gfx=busy[die])
            (device / "gpu_metrics").write_bytes(table)
            (device / "gpu_busy_percent").write_text(str(busy[die]))


def booked(
    board: Mi250 | Mi300, sensor: DrmSensor, busy: Sequence[int], claims: tuple[Claim, ...]
) -> Run:
    """Twenty seconds of a board whose parts are so busy, audited."""
    run, audit = Run(), Auditor()
    for _ in range(20):
        board.clock.t_ns += NS_PER_S
        board.joules += WATTS
        board.show(busy)
        before = run.books
        run.take(
            Tick(board.clock.now_ns(), readings=sensor.poll(processes=True).readings,
                 claims=claims, complete=frozenset(Evidence)),
            BookingPolicy(),
        )  # fmt: skip
        audit(before, run.books, run.entries[-1])
    return run


def test_the_module_is_one_meter_and_its_dies_are_its_parts(tmp_path: Path) -> None:
    board = Mi250(tmp_path)
    board.show([100, 0])
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
    board.show(busy)
    sensor = DrmSensor(board.clock, board.machine.drm, proc=board.machine.proc)
    sensor.open()
    claims = tuple(
        Claim(who, FIRST, 1, None, Evidence.PROLOG, 1, 2, die.name)
        for who, die in ((A, FIRST), (B, SECOND))
    )
    run = booked(board, sensor, busy, claims)
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


def test_a_die_alone_is_no_meter_while_its_module_fails(tmp_path: Path) -> None:
    board = Mi250(tmp_path)
    board.show([100, 100])
    sensor = DrmSensor(board.clock, board.machine.drm, proc=board.machine.proc)
    sensor.open()
    for name in ("gpu_metrics", "hwmon/*/power1_input"):
        next(board.devices[0].glob(name)).unlink()
    poll = sensor.poll(processes=True)
    assert (poll.readings, [failure.meter for failure in poll.failures]) == ((), [FIRST])


PCI = "0000:05:00.0"
MODES = {"SPX": 1, "DPX": 2, "QPX": 4, "CPX": 8}


class Mi300:
    """One card, in a mode; `busy` is the percentage of each of its partitions."""

    def __init__(self, root: Path, mode: str, *, revision: int = 6, function: bool = False) -> None:
        self.machine, self.clock, self.revision = Machine(root), StillClock(), revision
        self.joules, self.parts = 1_000.0, MODES[mode]
        self.device = self.machine.amd(0, PCI, metrics=None, watts=WATTS, unique_id="x")
        put(self.device / "current_compute_partition", mode)
        self.machine.partition(PCI, range(128, 128 + self.parts), function=function)
        self.show([0] * self.parts)

    @property
    def names(self) -> list[str]:
        return ["AMD-x", *(f"AMD-x-{n}" for n in range(1, self.parts))]

    def show(self, busy: Sequence[int]) -> None:
        dies = 8 // self.parts
        known = [[percent] * dies for percent in busy] if self.revision >= 6 else ()
        table = gpu_metrics(
            self.revision, round(self.joules * UNITS_PER_J), power_w=WATTS,
            gfx=sum(busy) // len(busy), parts=known if self.parts > 1 else (),
        )  # fmt: skip
        (self.device / "gpu_metrics").write_bytes(table)
        put(self.device / "gpu_busy_percent", str(sum(busy) // len(busy)))

    def sensor(self) -> DrmSensor:
        sensor = DrmSensor(self.clock, self.machine.drm, proc=self.machine.proc)
        sensor.open()
        return sensor


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("revision", "function"), [(6, False), (7, True), (8, False)])
def test_the_partitions_of_a_card_share_its_meter(
    tmp_path: Path, mode: str, revision: int, function: bool
) -> None:
    card = Mi300(tmp_path, mode, revision=revision, function=function)
    busy = [90 - 10 * n for n in range(card.parts)]
    card.show(busy)
    poll = card.sensor().poll(processes=True)
    (reading,) = poll.readings
    assert (reading.meter.name, reading.power_mw, reading.busy) == ("AMD-x", 400_000, True)
    assert reading.energy_uj is not None
    assert [(s.meter.name, s.files[0]) for s in poll.statuses] == [
        (name, f"dri/renderD{128 + n}") for n, name in enumerate(card.names)
    ]
    if card.parts == 1:
        assert reading.instances is None and poll.statuses[0].module is None
        return
    assert [tuple(each) for each in reading.instances or ()] == [
        (name, 1, card.parts, 10_000 * percent)
        for name, percent in zip(card.names, busy, strict=True)
    ]
    assert {status.module for status in poll.statuses} == {reading.meter}
    assert [s.pci for s in poll.statuses[1:]] == [
        f"amdgpu_xcp_{128 + n}" for n in range(1, card.parts)
    ]
    assert [s.values.get("utilization_ratio") for s in poll.statuses] == [p / 100 for p in busy]
    assert ["power_watts" in status.values for status in poll.statuses] == [
        n == 0 for n in range(card.parts)
    ]


@pytest.mark.parametrize("mode", ["DPX", "QPX", "CPX"])
@pytest.mark.parametrize("revision", [4, 6, 8])
def test_a_busy_partition_is_never_0_joules(tmp_path: Path, mode: str, revision: int) -> None:
    """Without activity of each, they share by what is held."""
    card = Mi300(tmp_path, mode, revision=revision)
    meter = Meter(Component.GPU, "AMD-x")
    holders = {name: job_id(name) for name in card.names}
    claims = tuple(
        Claim(who, meter, 1, None, Evidence.PROLOG, 1, card.parts, name)
        for name, who in holders.items()
    )
    run = booked(card, card.sensor(), [0] * (card.parts - 1) + [100], claims)
    got, total = run.by_subject(), run.booked_uj(meter)
    assert total == pytest.approx(16 * WATTS * 1e6, rel=0.01)
    assert sum(got.values()) == total
    last = got[holders[card.names[-1]]]
    assert last == pytest.approx(total if revision >= 6 else total / card.parts, rel=1e-3)


def test_who_uses_a_partition_is_known_by_its_file(tmp_path: Path) -> None:
    card = Mi300(tmp_path, "DPX")
    for pid, render in ((11, 128), (12, 129)):
        card.machine.client(pid, PCI, 1, "gfx", 5_000, "vram: 12 MiB")
        link = card.machine.proc / f"{pid}/fd/4"
        link.unlink()
        link.symlink_to(f"/dev/dri/renderD{render}")
    (reading,) = card.sensor().poll(processes=True).readings
    assert {(p.pid, p.instance) for p in reading.processes or ()} == {
        (11, "AMD-x"), (12, "AMD-x-1"),
    }  # fmt: skip


def test_a_card_that_is_cut_while_it_is_open_is_seen_anew(tmp_path: Path) -> None:
    card = Mi300(tmp_path, "SPX")
    sensor = card.sensor()
    assert sensor.poll(processes=True).readings[0].instances is None
    card.machine.partition(PCI, [128, 129])
    card.parts = 2
    put(card.device / "current_compute_partition", "DPX")
    card.show([0, 50])
    (reading,) = sensor.poll(processes=True).readings
    assert [each.active_ppm for each in reading.instances or ()] == [0, 500_000]


def test_cards_without_the_compute_drivers_topology_are_whole(tmp_path: Path) -> None:
    card = Mi300(tmp_path, "CPX")
    shutil.rmtree(card.machine.root / "sys/class/kfd")
    poll = card.sensor().poll(processes=True)
    assert [r.meter.name for r in poll.readings] == ["AMD-x"]
    assert len(poll.statuses) == 1
