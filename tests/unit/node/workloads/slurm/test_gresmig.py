"""MIG instances in SLURM: proven which, or somebody's."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from joulebook.core.energy.readings import Component, DeviceStatus, Instance, Meter
from joulebook.node.workloads.slurm.gres import (
    GresMap,
    GresPart,
    Position,
    Unmappable,
    find_part,
    parse_minors,
    read_minors,
)
from joulebook.node.workloads.slurm.gres_conf import load_gres, parse_gres_conf, parse_slurmd_g

MINORS = """gpu0/gi1/access 21
gpu0/gi1/ci0/access 22
gpu0/gi2/access 30
gpu0/gi2/ci0/access 31
gpu0/gi2/ci1/access 32
gpu1/gi1/access 201
config 1
monitor 2
"""
CARD = DeviceStatus(
    Meter(Component.GPU, "GPU-a"),
    3,
    1,
    minor=0,
    mig=True,
    instances=(
        Instance("MIG-x", 1, 0, 3, "3g.20gb"),
        Instance("MIG-y", 2, 0, 1, "1c.2g.10gb"),
        Instance("MIG-z", 2, 1, 1, "1c.2g.10gb"),
    ),
    slices=7,
)
OTHER = DeviceStatus(Meter(Component.GPU, "GPU-b"), 0, 1, minor=1)
CONF = """
Name=gpu Type=3g.20gb MultipleFiles=/dev/nvidia0,/dev/nvidia-caps/nvidia-cap21,/dev/nvidia-caps/nvidia-cap22
Name=gpu Type=1c MultipleFiles=/dev/nvidia0,/dev/nvidia-caps/nvidia-cap30,/dev/nvidia-caps/nvidia-cap31
Name=gpu Type=1c MultipleFiles=/dev/nvidia0,/dev/nvidia-caps/nvidia-cap30,/dev/nvidia-caps/nvidia-cap32
Name=gpu Type=a100 File=/dev/nvidia1
"""  # noqa: E501 (lines of gres.conf are as long as they are)


@pytest.fixture
def gres(tmp_path: Path) -> GresMap:
    (tmp_path / "gres.conf").write_text(CONF)
    (tmp_path / "slurm.conf").write_text("NodeName=n1 Gres=gpu:3g.20gb:1,gpu:1c:2,gpu:a100:1\n")
    (tmp_path / "mig-minors").write_text(MINORS)
    found = load_gres("n1", tmp_path / "slurm.conf", mig_minors=tmp_path / "mig-minors")
    assert found is not None
    return found


def part(gpu: str, gres: GresMap | None, gpu_ids: str = "gres") -> GresPart | None:
    return find_part(gpu, gpu_ids, gres, [OTHER, CARD])


def test_the_table_of_the_driver() -> None:
    table = parse_minors(MINORS)
    assert table[21] == (0, 1, None)
    assert table[32] == (0, 2, 1)
    assert len(table) == 6
    assert read_minors(Path("/nonexistent")) == {}


def test_positions_are_the_instances_whose_capabilities_they_need(gres: GresMap) -> None:
    assert [part(str(n), gres) for n in range(4)] == [
        GresPart(CARD.meter, 3, 7, "MIG-x"),
        GresPart(CARD.meter, 1, 7, "MIG-y"),
        GresPart(CARD.meter, 1, 7, "MIG-z"),
        GresPart(OTHER.meter),
    ]


def test_a_capability_file_alone_tells_it_too(gres: GresMap) -> None:
    alone = parse_gres_conf("Name=gpu File=/dev/nvidia-caps/nvidia-cap22\n", "n1")
    assert alone is not None
    alone = msgspec.structs.replace(alone, minors=gres.minors)
    assert part("0", alone) == GresPart(CARD.meter, 3, 7, "MIG-x")


def test_what_slurmd_finds_by_itself(gres: GresMap) -> None:
    text = (
        "slurmd: Gres Name=gpu Type=3g.20gb Count=1 Index=0 ID=7696487 "
        "File=/dev/nvidia0,/dev/nvidia-caps/nvidia-cap21,/dev/nvidia-caps/nvidia-cap22 (null)\n"
    )
    found = parse_slurmd_g(text)
    assert found is not None
    found = msgspec.structs.replace(found, minors=gres.minors)
    assert part("0", found) == GresPart(CARD.meter, 3, 7, "MIG-x")


@pytest.mark.parametrize(
    ("caps", "why"),
    [
        ((99,), "a capability that the driver does not list"),
        ((21, 30), "capabilities of two instances"),
        ((30,), "a GPU instance with two compute instances"),
        ((201,), "an instance that is not there"),
    ],
)
def test_what_is_not_proven_is_somebodys_on_that_card(caps: tuple[int, ...], why: str) -> None:
    position = Position("/dev/nvidia0", 0, caps)
    with pytest.raises(Unmappable) as caught:
        part("0", GresMap((position,), parse_minors(MINORS)))
    assert caught.value.meter == CARD.meter, why


def test_positions_of_one_file_that_nothing_tells_apart_are_somebodys() -> None:
    same = Position("/dev/nvidia0")
    with pytest.raises(Unmappable) as caught:
        part("0", GresMap((same, same)))
    assert caught.value.meter == CARD.meter


@pytest.mark.parametrize("uuid", ["MIG-y", "MIG-GPU-a/2/0"])
def test_uuids_old_and_new(uuid: str) -> None:
    for gpu_ids in ("gres", "uuid", "nvml"):
        assert part(uuid, None, gpu_ids) == GresPart(CARD.meter, 1, 7, "MIG-y")


def test_indexes_of_nvml_with_a_gpu_instance() -> None:
    assert part("3.1", None, "nvml") == GresPart(CARD.meter, 3, 7, "MIG-x")
    assert part("3", None, "nvml") == GresPart(CARD.meter)
    assert part("0", None, "nvml") == GresPart(OTHER.meter)
    assert part("9", None, "nvml") is None
    for gpu in ("3.2", "3.7", "0.1"):  # two of them; none; a card that is not cut up
        with pytest.raises(Unmappable):
            part(gpu, None, "nvml")
