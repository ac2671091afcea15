"""A superchip, whose counter is that of its module: GPU and CPU socket, each booked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest
from tests.fakes.nvml.scenario import Gpu
from tests.fakes.sysfs.machine import Machine, put
from tests.unit.core.audit import Auditor
from tests.unit.core.world import Run, job_id
from tests.unit.node.sensors.nvidia.nvml_bench import SECOND, Bench, MakeBench

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Method, Remainder
from joulebook.core.ledger.advance import BookingPolicy, Tick
from joulebook.node.sensors.hwmon import JETSON_BOARD, JETSON_CPU, JETSON_GPU, HwmonSensor
from joulebook.node.sensors.nvidia.sensor import NvmlSensor

GPU_W, SOCKET_W = 450, 170
CPU = Meter(Component.CPU, "grace-0")
JOB = job_id("1")
GH200 = Gpu(
    name="NVIDIA GH200 480GB", counts_module=True, module_extra_mw=SOCKET_W * 1000,
    enforced_limit_mw=900_000, power_limit_mw=900_000, idle_mw=GPU_W * 1000,
)  # fmt: skip


def board(root: Path, sockets: int = 1) -> Machine:
    machine = Machine(root)
    for number in range(sockets):
        machine.acpi_meter(GPU_W + SOCKET_W, f"Module Power Socket {number}")
        machine.acpi_meter(SOCKET_W, f"Grace Power Socket {number}")
        machine.acpi_meter(100, f"CPU Power Socket {number}")
    return machine


def played(place: Bench, hwmon: Path | None, seconds: int = 30) -> Run:
    """The books of so many seconds in which a job holds GPU 0."""
    gpus = NvmlSensor(place.clock, sysfs=place.sysfs, proc=place.proc, hwmon=hwmon)
    gpus.open()
    boards = None
    if hwmon is not None:
        boards = HwmonSensor(place.clock, hwmon, supply=False)
        boards.open()
    run, audit = Run(), Auditor()
    claim = None
    for _ in range(seconds):
        place.scenario.advance(SECOND)
        poll = gpus.poll(processes=True)
        readings = (*poll.readings, *(boards.poll(processes=False).readings if boards else ()))
        claim = claim or Claim(JOB, poll.readings[0].meter, place.clock.now_ns(), None,
                               Evidence.PROLOG)  # fmt: skip
        before = run.books
        run.take(Tick(place.clock.now_ns(), readings=readings, claims=(claim,),
                      complete=frozenset(Evidence)), BookingPolicy())  # fmt: skip
        audit(before, run.books, run.entries[-1])
    return run


def test_gpu_and_socket_come_to_the_module_to_the_microjoule(
    bench: MakeBench, tmp_path: Path
) -> None:
    place = bench([GH200])
    run = played(place, board(tmp_path / "board").hwmon)
    ((gpu, module),) = run.books.node_meters.items()
    socket_uj = run.books.meters[CPU].booked_uj
    gpu_uj = run.books.meters[gpu].booked_uj
    assert module.node_uj == module.children_uj + gpu_uj - module.deficit_uj
    assert module.deficit_uj == 0
    assert gpu_uj + module.children_uj == module.node_uj
    assert gpu_uj == pytest.approx(run.by_subject()[JOB])
    seconds = gpu_uj / 1e6 / GPU_W
    assert seconds > 20
    assert socket_uj == pytest.approx(SOCKET_W * seconds * 1e6, rel=0.01)
    told = {(key.method, key.evidence) for key in run.postings if key.meter == gpu}
    assert (Method.INTEGRATED, "derived") in told
    assert {method for method, _ in told} == {Method.INTEGRATED}


def test_the_gauge_is_the_gpus_own_power(bench: MakeBench, tmp_path: Path) -> None:
    place = bench([GH200])
    sensor = NvmlSensor(place.clock, sysfs=place.sysfs, hwmon=board(tmp_path / "board").hwmon)
    sensor.open()
    place.scenario.advance(2 * SECOND)
    (status,) = sensor.poll(processes=False).statuses
    assert status.values["power_watts"] == GPU_W


def test_without_the_boards_meters_the_module_goes_to_the_holder(bench: MakeBench) -> None:
    place = bench([GH200])
    run = played(place, None)
    assert not run.books.node_meters
    (state,) = run.books.meters.values()
    assert run.by_subject()[JOB] == pytest.approx(state.booked_uj, rel=0.01)
    assert state.booked_uj / 1e6 / (GPU_W + SOCKET_W) > 20


def test_four_modules_have_a_socket_each(bench: MakeBench, tmp_path: Path) -> None:
    place = bench([GH200] * 4)
    run = played(place, board(tmp_path / "board", sockets=4).hwmon)
    parts = {node.state.meter: node.parts for node in run.books.node_meters.values()}
    assert sorted(part.name for (part,) in parts.values()) == [f"grace-{n}" for n in range(4)]
    for meter, module in run.books.node_meters.items():
        assert run.books.meters[meter].booked_uj + module.children_uj == module.node_uj
        assert module.children_uj == pytest.approx(module.node_uj * SOCKET_W / 620, rel=0.02)
    assert set(run.by_subject()) <= {JOB, Remainder.UNALLOCATED, Remainder.SYSTEM}


def topology(sysfs: Path, packages: Sequence[int], node_of: Mapping[str, int]) -> None:
    """CPUs of such packages, one node each; and which node each PCI device is next to."""
    for number, package in enumerate(packages):
        put(sysfs / f"devices/system/cpu/cpu{number}/topology/physical_package_id", str(package))
        put(sysfs / f"devices/system/node/node{number}/cpulist", f"{number}-{number}")
    for pci, node in node_of.items():
        put(sysfs / f"bus/pci/devices/{pci}/numa_node", str(node))


@pytest.mark.parametrize("packages", [(0, 1, 2, 3), (36, 258, 512, 1024)])
@pytest.mark.parametrize("nodes", [(3, 2, 1, 0), (1, 3, 0, 2)])
def test_a_module_has_the_socket_on_whose_bus_it_is(
    bench: MakeBench, tmp_path: Path, packages: Sequence[int], nodes: Sequence[int]
) -> None:
    place = bench([replace(GH200, pci_bus_id=f"0000000{n}:01:00.0") for n in range(4)])
    topology(place.sysfs, packages, {f"000{n}:01:00.0": node for n, node in enumerate(nodes)})
    run = played(place, board(tmp_path / "board", sockets=4).hwmon)
    parts = {meter.name: node.parts for meter, node in run.books.node_meters.items()}
    assert [parts[uuid][0].name for uuid in sorted(parts)] == [f"grace-{node}" for node in nodes]
    for meter, module in run.books.node_meters.items():
        assert run.books.meters[meter].booked_uj + module.children_uj == module.node_uj


@pytest.mark.parametrize(
    "node_of",
    [
        {},
        {f"000{n}:01:00.0": -1 for n in range(4)},
        {f"000{n}:01:00.0": 0 for n in range(4)},
        {f"000{n}:01:00.0": 9 for n in range(4)},
    ],
)
def test_without_a_usable_topology_the_order_of_the_bus_decides(
    bench: MakeBench, tmp_path: Path, node_of: Mapping[str, int]
) -> None:
    place = bench([replace(GH200, pci_bus_id=f"0000000{n}:01:00.0") for n in range(4)])
    topology(place.sysfs, range(4), node_of)
    run = played(place, board(tmp_path / "board", sockets=4).hwmon, seconds=10)
    parts = {meter.name: node.parts for meter, node in run.books.node_meters.items()}
    assert [parts[uuid][0].name for uuid in sorted(parts)] == [f"grace-{n}" for n in range(4)]


def test_no_socket_is_booked_beside_a_module_that_cannot_be_paired(
    bench: MakeBench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    within = []
    for name, sockets in (("one", 1), ("two", 2)):
        place = bench([GH200])
        hwmon = board(tmp_path / name, sockets=sockets).hwmon
        sensor = NvmlSensor(place.clock, sysfs=place.sysfs, proc=place.proc, hwmon=hwmon)
        sensor.open()
        for _ in range(2):
            place.scenario.advance(SECOND)
            poll = sensor.poll(processes=False)
        within.append({meter.name for meter in poll.within})
    assert within == [set(), {"grace-0", "grace-1"}]
    assert caplog.text.count("which CPU socket is in it is not known") == 1


def test_a_module_that_does_not_answer_takes_no_other_ones_socket(
    bench: MakeBench, tmp_path: Path
) -> None:
    place = bench([replace(GH200, pci_bus_id=f"0000000{n}:01:00.0") for n in range(2)])
    for n in range(2):
        uuid = f"GPU-00000000-0000-0000-0000-00000000000{n}"
        put(place.proc / f"driver/nvidia/gpus/000{n}:01:00.0/information", f"GPU UUID: {uuid}")
    place.scenario.inject("*", 15, gpu=0)
    run = played(place, board(tmp_path / "board", sockets=2).hwmon)
    ((_, module),) = run.books.node_meters.items()
    assert [part.name for part in module.parts] == ["grace-1"]


def jetson(root: Path, *labels: str) -> Machine:
    machine = Machine(root)
    files: dict[str, object] = {}
    for number, label in enumerate(labels, start=1):
        files |= {f"in{number}_label": label, f"in{number}_input": 5000,
                  f"curr{number}_input": 1000 * number}  # fmt: skip
    machine.chip("ina3221", **files)
    return machine


def test_a_jetson_is_read_by_its_rails(bench: MakeBench, tmp_path: Path) -> None:
    machine = jetson(tmp_path / "jetson", "VDD_GPU_SOC", "VDD_CPU_CV", "VDD_IN", "NC")
    place = bench([Gpu(name="Orin", has_energy_counter=False)])
    for call in ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetSamples", "nvmlDeviceGetFieldValues"):
        place.scenario.inject(call, pynvml.NVML_ERROR_NOT_SUPPORTED)
    sensor = NvmlSensor(place.clock, sysfs=place.sysfs, hwmon=machine.hwmon)
    sensor.open()
    poll = sensor.poll(processes=False)
    assert [(r.energy_uj, r.power_mw) for r in poll.readings] == [(None, 5_000)]
    boards = HwmonSensor(place.clock, machine.hwmon, gpu=False)
    boards.open()
    reported = {r.meter: r.power_mw for r in boards.poll(processes=False).readings}
    assert reported == {JETSON_CPU: 10_000, JETSON_BOARD: 15_000}
    alone = HwmonSensor(place.clock, machine.hwmon)
    alone.open()
    assert JETSON_GPU in {r.meter for r in alone.poll(processes=False).readings}


def test_a_gpu_of_which_nothing_is_told_is_a_gap_and_never_0_joules(bench: MakeBench) -> None:
    place = bench([Gpu(name="Orin", has_energy_counter=False)])
    for call in ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetSamples", "nvmlDeviceGetFieldValues"):
        place.scenario.inject(call, pynvml.NVML_ERROR_NOT_SUPPORTED)
    poll = place.sensor().poll(processes=False)
    assert poll.readings == ()
    assert [failure.reason for failure in poll.failures] == ["not_supported"]


def test_a_board_whose_gpu_tells_its_own_power_is_left_as_it_is(
    bench: MakeBench, tmp_path: Path
) -> None:
    gb10 = Gpu(name="NVIDIA GB10", module_extra_mw=SOCKET_W * 1000, idle_mw=GPU_W * 1000)
    place = bench([gb10])
    run = played(place, board(tmp_path / "board").hwmon)
    assert not run.books.node_meters
    gpu_uj = next(s.booked_uj for m, s in run.books.meters.items() if m != CPU)
    assert gpu_uj / 1e6 / GPU_W > 20
