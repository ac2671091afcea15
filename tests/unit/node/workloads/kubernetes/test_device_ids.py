"""Device ids in all their forms, and those that nobody can map."""

from __future__ import annotations

import pytest
from tests.unit.node.workloads.kubernetes.pod_world import CARDS, GPU, MIG

from joulebook.core.energy.readings import Component, Meter
from joulebook.node.workloads.kubernetes.device_ids import (
    AllocatableDevices,
    Described,
    DevicePart,
    KubeletDevice,
    UnknownDevice,
    find_part,
)

OFFER = AllocatableDevices.of(
    KubeletDevice("nvidia.com/gpu.shared", each)
    for each in (
        *(f"GPU-1::{n}" for n in range(4)),
        *(f"MIG-a::{n}" for n in range(2)),
        *(f"nvidia2/vgpu{n}" for n in range(3)),
        *(f"nvidia3/gi1/vgpu{n}" for n in range(2)),
        *(f"GPU-3-_-{n}" for n in range(2)),
        "GPU-0",
    )
)
DESCRIBED = {
    "gpu.nvidia.com/n1/gpu-2": Described("GPU-2"),
    "gpu.nvidia.com/n1/gpu-0-mig-3g": Described("MIG-b", "GPU-0", "3g.20gb"),
    "gpu.nvidia.com/n1/gpu-0-mig-1g": Described("", "GPU-0", "1g.5gb"),
    "gpu.nvidia.com/n1/gpu-0-mig-dynamic": Described("", "GPU-0", "3g.20gb"),
    "gpu.nvidia.com/n1/nameless": Described(),
}
CUT = (MIG, *CARDS[1:])


def meter(index: int) -> Meter:
    return Meter(Component.GPU, f"GPU-{index}")


def part(device: KubeletDevice) -> DevicePart:
    return find_part(device, CUT, OFFER, DESCRIBED)


@pytest.mark.parametrize(
    ("device_id", "expected"),
    [
        ("GPU-1", DevicePart(meter(1))),
        ("GPU-1::3", DevicePart(meter(1), 1, 4)),
        ("GPU-3-_-0", DevicePart(meter(3), 1, 2)),
        ("MIG-a", DevicePart(meter(0), 3, 7, "MIG-a")),
        ("MIG-a::1", DevicePart(meter(0), 3, 14, "MIG-a")),
        ("MIG-GPU-0/7/0", DevicePart(meter(0), 1, 7, "MIG-GPU-0/7/0")),
        ("MIG-GPU-0/2/0", DevicePart(meter(0), 3, 7, "MIG-b")),
        ("nvidia0", DevicePart(meter(3))),
        ("nvidia3/gi1", DevicePart(meter(0), 3, 7, "MIG-a")),
        ("nvidia2/vgpu1", DevicePart(meter(1), 1, 3)),
        ("nvidia3/gi1/vgpu0", DevicePart(meter(0), 3, 14, "MIG-a")),
    ],
)
def test_ids_of_device_plugins(device_id: str, expected: DevicePart) -> None:
    assert part(KubeletDevice(GPU, device_id)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpu-2", DevicePart(meter(2))),
        ("gpu-0-mig-3g", DevicePart(meter(0), 3, 7, "MIG-b")),
        ("gpu-0-mig-1g", DevicePart(meter(0), 1, 7, "MIG-GPU-0/7/0")),
    ],
)
def test_devices_of_dra(name: str, expected: DevicePart) -> None:
    assert part(KubeletDevice("", f"gpu.nvidia.com/n1/{name}")) == expected


@pytest.mark.parametrize(
    ("device", "absent"),
    [
        (KubeletDevice(GPU, "GPU-9"), True),
        (KubeletDevice(GPU, "nvidia7"), True),
        (KubeletDevice(GPU, "GPU-9::0"), True),
        (KubeletDevice(GPU, "MIG-GPU-9/1/0"), True),
        (KubeletDevice(GPU, "MIG-zz"), False),
        (KubeletDevice(GPU, "MIG-GPU-0/5/0"), False),
        (KubeletDevice(GPU, "nvidia3/gi9"), False),
        (KubeletDevice(GPU, "GPU-2::0"), False),  # nobody offers replicas of it
        (KubeletDevice("example.org/card", "card-7"), False),
        (KubeletDevice("", "gpu.nvidia.com/n1/gpu-9"), False),
        (KubeletDevice("", "gpu.nvidia.com/n1/nameless"), False),
        (KubeletDevice("", "gpu.nvidia.com/n1/gpu-0-mig-dynamic"), False),  # two are alike
    ],
)
def test_what_nobody_can_map_is_not_guessed(device: KubeletDevice, absent: bool) -> None:
    with pytest.raises(UnknownDevice) as caught:
        part(device)
    assert caught.value.absent is absent


def test_a_mig_device_of_a_node_without_mig_is_absent() -> None:
    with pytest.raises(UnknownDevice) as caught:
        find_part(KubeletDevice(GPU, "MIG-a"), CARDS, OFFER, {})
    assert caught.value.absent
