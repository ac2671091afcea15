"""AMD's and Intel's cards held by pods: by the names of their plugins and DRA drivers."""

from __future__ import annotations

import pytest

from joulebook.config import Config
from joulebook.core.energy.readings import Component, DeviceStatus, Meter
from joulebook.node.workloads.kubernetes.device_ids import (
    AllocatableDevices,
    Described,
    DevicePart,
    KubeletDevice,
    UnknownDevice,
    base,
    find_part,
    is_replica,
)


def card(name: str, pci: str, *files: str) -> DeviceStatus:
    return DeviceStatus(Meter(Component.GPU, name), 0, 0, pci=pci, files=files)


AMD = card("AMD-a1", "0000:05:00.0", "dri/renderD129", "dri/card1")
AMD_2 = card("AMD-b2", "0000:26:00.0", "dri/renderD130", "dri/card2")
INTEL = card("INTEL-0000:4D:00.0", "0000:4d:00.0", "dri/renderD128", "dri/card0")
PARTITION = card("AMD-a1-1", "amdgpu_xcp_30", "dri/renderD137", "dri/card9")
NVIDIA = card("GPU-1", "0000:17:00.0")
CARDS = (AMD, AMD_2, INTEL, PARTITION, NVIDIA)

NOBODY = AllocatableDevices(frozenset())


def part(
    resource: str, id_: str, offer: AllocatableDevices = NOBODY, said: Described | None = None
) -> DevicePart:
    return find_part(KubeletDevice(resource, id_), CARDS, offer, {id_: said} if said else {})


@pytest.mark.parametrize("address", ["0000:05:00.0", "0000:05:00.0".upper()])
def test_amd_s_plugin_names_pci_addresses(address: str) -> None:
    assert part("amd.com/gpu", address) == DevicePart(AMD.meter)


def test_amd_s_plugin_names_partitions_by_their_platform_devices() -> None:
    assert part("amd.com/cpx_nps4", "amdgpu_xcp_30") == DevicePart(PARTITION.meter)
    assert part("", "gpu.amd.com/n1/gpu-9-137") == DevicePart(PARTITION.meter)


def test_intel_s_plugin_names_cards_and_their_replicas() -> None:
    assert base("card0-1") == "card0" and is_replica("card0-1")
    assert not is_replica("GPU-6d5aa8a2-5a1f-4c6e-9d1e-446655440000")
    advertised = [KubeletDevice("gpu.intel.com/xe", f"card0-{n}") for n in range(4)]
    shared = AllocatableDevices.of(advertised)
    assert part("gpu.intel.com/xe", "card0-3", shared) == DevicePart(INTEL.meter, 1, 4)
    alone = AllocatableDevices.of(advertised[:1])
    assert part("gpu.intel.com/i915", "card0-0", alone) == DevicePart(INTEL.meter, 1, 1)


@pytest.mark.parametrize(
    ("device", "meter"),
    [
        ("gpu.amd.com/n1/gpu-2-130", AMD_2.meter),
        ("gpu.intel.com/n1/0000-4d-00-0-0x0bda", INTEL.meter),
        ("gpu.intel.com/n1/0000-4d-00-0", INTEL.meter),
    ],
)
def test_dra_drivers_name_devices_by_where_they_are(device: str, meter: Meter) -> None:
    assert part("", device) == DevicePart(meter)


def test_a_slice_that_tells_the_address_counts_before_the_name() -> None:
    said = Described(pci="0000:26:00.0")
    assert part("", "gpu.amd.com/n1/gpu-1-129", said=said) == DevicePart(AMD_2.meter)


@pytest.mark.parametrize(
    ("resource", "id_"),
    [
        ("amd.com/gpu", "0000:99:00.0"),
        ("amd.com/gpu", "0000:17:00.0"),  # NVIDIA's: no plugin of AMD's gives it
        ("", "gpu.amd.com/n1/gpu-1-130"),  # card 1 is not renderD130: somebody is wrong
        ("", "gpu.intel.com/n1/whatever"),
        ("gpu.intel.com/xe", "card7-0"),
        ("gpu.intel.com/xe", "card0-x"),
    ],
)
def test_what_is_not_here_is_not_guessed(resource: str, id_: str) -> None:
    with pytest.raises(UnknownDevice):
        part(resource, id_)


def test_their_resources_are_gpus_by_default() -> None:
    kubernetes = Config().tenants.kubernetes
    assert {"amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe"} <= set(kubernetes.resources)
    assert {"gpu.amd.com", "gpu.intel.com"} <= set(kubernetes.drivers)
