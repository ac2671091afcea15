"""Which node, device and pod a series of another exporter's is of."""

from __future__ import annotations

import pytest

from joulebook.core.energy.readings import Component
from joulebook.core.report.past import KINDS, Device
from joulebook.lab.report.past_labels import device_of, holder_of, homes, short, target_of

UUID = "GPU-5ef3a1c0-0000-4000-8000-00000000000a"
DCGM = {"gpu": "0", "UUID": UUID, "Hostname": "n1", "instance": "10.0.0.1:9400", "job": "dcgm"}


def of(metric: str, **labels: str) -> Device | None:
    return device_of(labels, KINDS[metric])


def test_one_card_is_one_device_by_whatever_name() -> None:
    by_dcgm = of("DCGM_FI_DEV_POWER_USAGE", **DCGM)
    bare = UUID.removeprefix("GPU-").upper()
    by_smi = of("nvidia_smi_power_draw_watts", uuid=bare, instance="10.0.0.1:9835")
    assert by_dcgm is not None and by_smi is not None
    assert by_dcgm.name == by_smi.name == UUID
    assert (by_dcgm.node, by_smi.node) == ("n1", "10.0.0.1")
    assert homes([(by_smi, {}), (by_dcgm, DCGM)]) == {UUID: "n1"}


@pytest.mark.parametrize(
    ("labels", "holder"),
    [
        ({"exported_pod": "a", "exported_namespace": "x", "pod": "p", "namespace": "o"}, "x/a"),
        ({"pod": "nvidia-dcgm-exporter-abcde", "namespace": "gpu-operator"}, ""),
        ({"pod": "a", "namespace": "x", "container": "c"}, "x/a"),
        ({"pod_name": "a", "container_namespace": "x", "pod": "kepler-1", "namespace": "k"}, "x/a"),
        ({"pod_name": "a", "pod_namespace": "x"}, "x/a"),
        ({"pod": "", "namespace": ""}, ""),
        ({}, ""),
    ],
)  # fmt: skip
def test_the_pod_is_the_workloads_not_the_exporters(labels: dict[str, str], holder: str) -> None:
    assert holder_of(labels) == holder


def test_a_zone_of_kepler_is_a_component_and_a_part_of_one_is_none() -> None:
    metric, node = "kepler_node_cpu_joules_total", {"node_name": "n4", "path": "p"}
    package, dram = of(metric, zone="package-0", **node), of(metric, zone="dram-0", **node)
    assert package is not None and package.component is Component.CPU
    assert dram is not None and dram.component is Component.DRAM
    assert of(metric, zone="core-0", **node) is None
    old = [of("kepler_node_package_joules_total", mode=m, **node) for m in ("idle", "dynamic")]
    assert len({*old}) == 2, "two series that add up"


def test_targets_differ_by_what_scraped_not_by_what_was_scraped() -> None:
    other = {
        **DCGM,
        "gpu": "1",
        "exported_pod": "a",
        "modelName": "x",
        "DCGM_FI_DRIVER_VERSION": "1",
    }
    assert target_of(DCGM) == target_of(other)
    assert target_of(DCGM) != target_of({**DCGM, "prometheus_replica": "b"})


def test_a_node_is_named_for_slurm_without_domain_and_cluster() -> None:
    assert [short(name) for name in ("east/n1.example.org", "n1", "10.0.0.1")] == [
        "n1", "n1", "10.0.0.1",
    ]  # fmt: skip
