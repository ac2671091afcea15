"""Cards that are cut up: what the driver says of instances, whatever it does meanwhile."""

from __future__ import annotations

import ctypes
import logging

import pynvml
import pytest
from tests.fakes.nvml.scenario import Architecture, Gpu, Instance, Process, Scenario
from tests.unit.node.sensors.nvidia.nvml_bench import MS, SECOND, Bench, MakeBench

from joulebook.commands.doctor.checks import survey
from joulebook.core.energy import readings
from joulebook.core.energy.idle import is_at_rest
from joulebook.core.energy.readings import InstanceUse, Reading
from joulebook.node.sensors.nvidia import gpm, mig
from joulebook.node.sensors.nvidia.sensor import NvmlSensor

A100 = Gpu(architecture=Architecture.AMPERE)
H100 = Gpu(name="NVIDIA H100 80GB HBM3", architecture=Architecture.HOPPER)
SMALL = Instance(uuid="MIG-small", gpu_instance=7, profile="1g.10gb")
LARGE = Instance(
    uuid="MIG-large", gpu_instance=1, gpu_slices=3, compute_slices=3, profile="3g.40gb"
)


def cut(bench: MakeBench, gpu: Gpu = H100, *instances: Instance) -> tuple[Bench, NvmlSensor]:
    """A card cut into these, and a sensor that has looked at it once."""
    place = bench([gpu])
    place.scenario.set_mig_mode(0, True)
    for each in instances or (LARGE, SMALL):
        place.scenario.create_instance(0, each)
    sensor = place.sensor()
    sensor.poll(processes=True)
    return place, sensor


def poll(place: Bench, sensor: NvmlSensor, after_ns: int = SECOND) -> Reading:
    place.scenario.advance(after_ns)
    (reading,) = sensor.poll(processes=True).readings
    return reading


def active(reading: Reading) -> dict[str, int | None]:
    return {each.uuid: each.active_ppm for each in reading.instances or ()}


def held_samples(scenario: Scenario) -> int:
    calls = scenario.calls()
    return calls.get("nvmlGpmSampleAlloc", 0) - calls.get("nvmlGpmSampleFree", 0)


def test_layouts_are_those_of_the_binding() -> None:
    theirs, ours = pynvml.c_nvmlGpmMetricsGet_t, gpm._request(1)
    assert ctypes.sizeof(gpm.GpmMetric) == ctypes.sizeof(pynvml.c_nvmlGpmMetric_t) == 40
    assert ours.metrics.offset == theirs.metrics.offset == 24
    assert (ours.first.offset, ours.second.offset) == (
        theirs.sample1.offset,
        theirs.sample2.offset,
    )
    assert gpm.GpmMetric.value.offset == pynvml.c_nvmlGpmMetric_t.value.offset
    assert mig.SM_UTIL == pynvml.NVML_GPM_METRIC_SM_UTIL
    assert pynvml.NVML_GPM_METRICS_GET_VERSION == 1
    assert ctypes.sizeof(pynvml.c_nvmlDeviceAttributes) == 40


def test_a_card_says_what_it_is_cut_into(bench: MakeBench) -> None:
    place, sensor = cut(bench)
    (status,) = sensor.poll(processes=False).statuses
    assert status.mig is True
    assert status.slices == 7
    assert status.instances == (
        readings.Instance("MIG-large", 1, 0, 3, "3g.40gb"),
        readings.Instance("MIG-small", 7, 0, 1, "1g.10gb"),
    )
    assert status.rooms == {"MIG-large": pytest.approx(3 / 7), "MIG-small": pytest.approx(1 / 7)}
    assert sensor.poll(processes=False).readings[0].instances is None, "only the slow look asks"
    # Energy is the card's, once.
    assert len(sensor.poll(processes=True).readings) == 1
    place.scenario.set_mig_mode(0, False)
    (status,) = sensor.poll(processes=True).statuses
    assert (status.mig, status.slices, status.instances) == (False, 0, ())


@pytest.mark.parametrize(
    "uuid", ["MIG-fbbb1fbf-5ad6-5d35-b14d-c4f0e5e0d4b5", "MIG-GPU-b6e7-00/7/0"]
)
def test_uuids_old_and_new(bench: MakeBench, uuid: str) -> None:
    instance = Instance(uuid=uuid, gpu_instance=7)
    _, sensor = cut(bench, H100, instance)
    (status,) = sensor.poll(processes=False).statuses
    assert [each.uuid for each in status.instances] == [uuid]
    assert status.instance(uuid) == status.instances[0]
    # The old form says which instance it is, whatever the driver calls it.
    assert status.instance(f"MIG-{status.meter.name}/7/0") == status.instances[0]
    assert status.instance(f"MIG-{status.meter.name}/8/0") is None
    assert status.instance("MIG-other") is None


def test_gpm_tells_how_busy_each_instance_was_between_two_looks(bench: MakeBench) -> None:
    place, sensor = cut(bench)
    place.scenario.set_instance_activity(0, 0, 80)
    place.scenario.set_instance_activity(0, 1, 15)
    assert poll(place, sensor).instances == (
        InstanceUse("MIG-large", 3, 7, 800_000),
        InstanceUse("MIG-small", 1, 7, 150_000),
    )
    place.scenario.set_instance_activity(0, 1, 0)
    assert active(poll(place, sensor)) == {"MIG-large": 800_000, "MIG-small": 0}


def test_samples_are_further_apart_than_100_ms(bench: MakeBench) -> None:
    place, sensor = cut(bench)
    place.scenario.set_instance_activity(0, 0, 80)
    poll(place, sensor)
    place.scenario.set_instance_activity(0, 0, 20)
    assert active(poll(place, sensor, 60 * MS))["MIG-large"] == 800_000, "the last figure stands"
    assert active(poll(place, sensor, 60 * MS))["MIG-large"] == 200_000, "120 ms after the last"


def test_before_hopper_nobody_knows(bench: MakeBench) -> None:
    place, sensor = cut(bench, A100)
    assert active(poll(place, sensor)) == {"MIG-large": None, "MIG-small": None}
    assert "nvmlGpmSampleAlloc" not in place.scenario.calls()


def test_instances_come_and_go_at_run_time(
    bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place, sensor = cut(bench)
    place.scenario.set_instance_activity(0, 0, 80)
    poll(place, sensor)
    place.scenario.destroy_instance(0, 0)
    half = Instance(uuid="MIG-half", gpu_instance=1, gpu_slices=2, compute_slices=2)
    place.scenario.create_instance(0, half)
    reading = poll(place, sensor)
    assert {each.uuid: each.slices for each in reading.instances or ()} == {
        "MIG-half": 2,
        "MIG-small": 1,
    }
    assert "MIG-half" in caplog.text
    assert held_samples(place.scenario) == 5, "two for each, one for the card"
    place.scenario.destroy_instance(0, 0)
    place.scenario.destroy_instance(0, 1)
    assert poll(place, sensor).instances == ()


def test_samples_are_freed(bench: MakeBench) -> None:
    place, sensor = cut(bench)
    for _ in range(20):
        poll(place, sensor)
    sensor.close()
    assert place.scenario.calls()["nvmlGpmSampleAlloc"] == 5, "two for each, one for the card"
    assert held_samples(place.scenario) == 0


def test_an_instance_that_dies_while_it_is_asked_about_is_left_out(bench: MakeBench) -> None:
    place, sensor = cut(bench)
    place.scenario.inject("nvmlDeviceGetAttributes_v2", pynvml.NVML_ERROR_INVALID_ARGUMENT, count=1)
    assert set(active(poll(place, sensor))) == {"MIG-small"}
    assert set(active(poll(place, sensor))) == {"MIG-large", "MIG-small"}


def test_a_list_of_instances_that_fails_is_no_empty_one(bench: MakeBench) -> None:
    place, sensor = cut(bench)
    place.scenario.inject("nvmlDeviceGetMigDeviceHandleByIndex", pynvml.NVML_ERROR_UNKNOWN)
    assert poll(place, sensor).instances is None
    (status,) = sensor.poll(processes=False).statuses
    assert len(status.instances) == 2, "what is known of the card stays"


@pytest.mark.parametrize("function", ["nvmlGpmMigSampleGet", "nvmlGpmMetricsGet"])
def test_gpm_that_fails_is_not_known_and_recovers(bench: MakeBench, function: str) -> None:
    place, sensor = cut(bench)
    place.scenario.set_instance_activity(0, 0, 50)
    poll(place, sensor)
    fault = place.scenario.inject(function, pynvml.NVML_ERROR_UNKNOWN)
    assert active(poll(place, sensor)) == {"MIG-large": None, "MIG-small": None}
    place.scenario.clear(fault)
    assert active(poll(place, sensor))["MIG-large"] == 500_000
    sensor.close()
    assert held_samples(place.scenario) == 0


def test_more_than_everything_is_refused_and_counted(bench: MakeBench) -> None:
    place, sensor = cut(bench)
    place.scenario.set_instance_activity(0, 0, 5_000)
    place.scenario.advance(SECOND)
    seen = sensor.poll(processes=True)
    assert active(seen.readings[0])["MIG-large"] is None
    assert seen.rejected == {gpm.IMPLAUSIBLE: 1}


def test_slices_of_no_compute_instance_did_no_work(bench: MakeBench) -> None:
    """A GPU instance of three slices with a compute instance on one: a third busy is all of it."""
    part = Instance(uuid="MIG-1c.3g", gpu_instance=1, gpu_slices=3, compute_slices=1)
    place, sensor = cut(bench, H100, part)
    place.scenario.set_instance_activity(0, 0, 33)
    assert poll(place, sensor).instances == (InstanceUse("MIG-1c.3g", 1, 7, 990_000),)
    place.scenario.set_instance_activity(0, 0, 50)
    assert active(poll(place, sensor)) == {"MIG-1c.3g": 1_000_000}, "no more than all of it"


def test_a_process_says_on_which_instance_it_runs(bench: MakeBench) -> None:
    place, sensor = cut(bench)
    place.start_process(11, 100)
    place.scenario.set_process(
        0, Process(pid=11, gpu_instance=7, compute_instance=0, memory_bytes=5)
    )
    place.scenario.set_process(0, Process(pid=12, gpu_instance=9, compute_instance=0))
    uses = poll(place, sensor).processes or ()
    assert {(use.pid, use.instance, use.memory_bytes, use.sm_time_ns) for use in uses} == {
        (11, "MIG-small", 5, None),
        (12, "", 0, None),  # of an instance that was made since the list of instances
    }


def test_a_cut_card_is_idle_when_nothing_runs_on_it(bench: MakeBench) -> None:
    place, sensor = cut(bench, A100)
    place.scenario.inject("nvmlDeviceGetUtilizationRates", pynvml.NVML_ERROR_NOT_SUPPORTED)
    idle = poll(place, sensor)
    place.scenario.set_process(0, Process(pid=11, gpu_instance=7, compute_instance=0))
    used = poll(place, sensor)
    assert (idle.busy, used.busy) == (None, None)  # before Hopper no card tells
    assert is_at_rest(idle, idle) and not is_at_rest(idle, used)


def test_a_cut_card_is_busy_when_an_instance_is(bench: MakeBench) -> None:
    place, sensor = cut(bench)
    poll(place, sensor)
    assert poll(place, sensor).busy is False
    place.scenario.set_instance_activity(0, 0, 50)
    assert poll(place, sensor).busy is True


def test_a_driver_reload_frees_nothing_twice_and_goes_on(bench: MakeBench) -> None:
    place, sensor = cut(bench)
    poll(place, sensor)
    place.scenario.reload()
    place.scenario.set_instance_activity(0, 0, 40)
    poll(place, sensor)
    assert active(poll(place, sensor))["MIG-large"] == 400_000


def test_the_doctor_sees_what_a_card_is_cut_into(bench: MakeBench) -> None:
    cut(bench)
    (gpu,) = survey(20).gpus
    assert [(each.uuid, each.slices) for each in gpu.instances] == [
        ("MIG-large", 3),
        ("MIG-small", 1),
    ]
    assert (gpu.mig, gpu.slices) == (True, 7)
