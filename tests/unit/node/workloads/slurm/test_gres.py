from __future__ import annotations

import os
from pathlib import Path

import pytest

from joulebook.core.energy.readings import Component, DeviceStatus, Meter
from joulebook.node.workloads.slurm.gres import (
    GresMap,
    GresPart,
    Position,
    Unmappable,
    find_part,
    minor_of,
)
from joulebook.node.workloads.slurm.gres_conf import (
    Promise,
    load_gres,
    parse_gres_conf,
    parse_slurmd_g,
    promised_gpus,
)
from joulebook.node.workloads.slurm.hostlist import expand


def device(uuid: str, index: int, minor: int | None, mig: bool = False) -> DeviceStatus:
    return DeviceStatus(Meter(Component.GPU, uuid), index, 0, minor=minor, mig=mig)


def files(gres: GresMap | None) -> list[str]:
    assert gres is not None
    return [p.file for p in gres.positions]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("n[1-3,07],login", ["n1", "n2", "n3", "n07", "login"]),
        ("n[08-11]x", ["n08x", "n09x", "n10x", "n11x"]),
        ("/dev/nvidia[0-1],/dev/nvidia7", ["/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia7"]),
        ("", []),
        ("n[x-y]", ["n[x-y]"]),
        ("r[1-2]n[3-4]", ["r1n3", "r1n4", "r2n3", "r2n4"]),
    ],
)
def test_host_lists(text: str, names: list[str]) -> None:
    assert list(expand(text)) == names


def test_a_huge_range_does_not_eat_the_memory() -> None:
    assert len(expand("n[0-99999999999]")) < 10_000
    assert len(expand("a[0-999]b[0-999]c[0-999],d[0-9999]")) < 10_000
    assert expand(f"n[{'1' * 5000}]") == ()


def test_gres_conf_in_the_order_of_its_lines() -> None:
    text = """
        # our nodes
        NodeName=n[1-2] Name=gpu Type=a100 File=/dev/nvidia[2-3] Cores=0-15   # first socket
        NodeName=n[1-2] Name=gpu Type=a100 \\
            File=/dev/nvidia0
        NodeName=n3 name=GPU file=/dev/nvidia9
        Name=nic File=/dev/mlx0
    """
    assert files(parse_gres_conf(text, "n1")) == ["/dev/nvidia2", "/dev/nvidia3", "/dev/nvidia0"]
    assert files(parse_gres_conf(text, "n3")) == ["/dev/nvidia9"]
    assert files(parse_gres_conf(text, "n4")) == []


def test_shards_with_and_without_files() -> None:
    gpus = "Name=gpu File=/dev/nvidia[0-1]\n"
    gres = parse_gres_conf(gpus + "Name=shard Count=8\n", "n1")
    assert gres is not None and gres.sharded
    assert [p.shards for p in gres.positions] == [4, 4]
    gres = parse_gres_conf(gpus + "Name=shard Count=2 File=/dev/nvidia1\n", "n1")
    assert gres is not None
    assert (gres.shards("0"), gres.shards("1"), gres.shards("2"), gres.shards("x")) == (0, 2, 0, 0)
    assert parse_gres_conf(gpus + "Name=shard Count=5\n", "n1") is None


@pytest.mark.parametrize(
    "text",
    [
        "AutoDetect=nvml\n",
        "AutoDetect=nvidia\nName=gpu File=/dev/nvidia0",
        "Name=gpu Count=4",
        "Include /etc/more",
        "NodeName=n1 AutoDetect=nvml Name=gpu Type=a100",
    ],
)
def test_where_gres_conf_alone_does_not_tell(text: str) -> None:
    assert parse_gres_conf(text, "n1") is None


def test_autodetect_of_the_node_goes_before_the_general_one() -> None:
    text = "AutoDetect=nvml\nNodeName=n1 AutoDetect=off Name=gpu File=/dev/nvidia0\n"
    assert files(parse_gres_conf(text, "n1")) == ["/dev/nvidia0"]
    assert parse_gres_conf(text, "n2") is None


def test_multiple_files_begin_with_the_card() -> None:
    text = "Name=gpu MultipleFiles=/dev/nvidia1,/dev/nvidia-caps/nvidia-cap21\n" * 2
    gres = parse_gres_conf(text, "n1")
    assert files(gres) == ["/dev/nvidia1", "/dev/nvidia1"]
    assert gres is not None and [p.caps for p in gres.positions] == [(21,), (21,)]


def test_what_slurmd_prints() -> None:
    text = """slurmd: gpu/nvml: _get_system_gpu_list_nvml: 2 GPU system device(s) detected
slurmd: Gres Name=gpu Type=a100 Count=1 Index=3 ID=7696487 File=/dev/nvidia3 (null)
slurmd: Gres Name=gpu Type=a100 Count=1 Index=1 ID=7696487 File=/dev/nvidia1 Cores=0-3 Links=-1,0
slurmd: Gres Name=shard Type=a100 Count=2 Index=3 ID=1918986455 File=/dev/nvidia3 (null)
"""
    gres = parse_slurmd_g(text)
    assert files(gres) == ["/dev/nvidia3", "/dev/nvidia1"]
    assert gres is not None and gres.shards("0") == 2
    ranged = parse_slurmd_g("Gres Name=gpu Count=2 Index=0 ID=1 File=/dev/nvidia[4-5] (null)")
    assert files(ranged) == ["/dev/nvidia4", "/dev/nvidia5"]
    loud = "Gres Name=GPU Type=a100 Count=1 Index=0 ID=7696487 File=/dev/nvidia2 (null)"
    assert files(parse_slurmd_g(loud)) == ["/dev/nvidia2"]
    assert parse_slurmd_g("slurmd: error: nothing") is None
    assert parse_slurmd_g("Gres Name=gpu Count=2 ID=1 (null)") is None


def test_what_slurm_conf_promises() -> None:
    conf = (
        "NodeName=DEFAULT Gres=gpu:1\n"
        "NodeName=r[1-2]n[1-2] Gres=gpu:A100:4(S:0-1),gpu:v100:2,shard:8 CPUs=2\n"
        "NodeName=n3 CPUs=1 # Gres=gpu:9\nNodeName=n4 Gres=nic:1\n"
        "NodeName=n6 Gres=nic:2,gpu:4090:2,gpu:tesla\n"
    )
    assert promised_gpus(conf, "r2n2") == (Promise("a100", 4), Promise("v100", 2))
    assert promised_gpus(conf, "n3") == (Promise("", 1),)
    assert promised_gpus(conf, "n4") == ()
    assert promised_gpus(conf, "n6") == (Promise("4090", 2), Promise("tesla", 1))
    assert promised_gpus(conf, "n5") is None


V100_FIRST = "Name=gpu Type=v100 File=/dev/nvidia[0-1]\nName=gpu Type=a100 File=/dev/nvidia[2-3]\n"
BY_TURNS = "".join(
    f"Name=gpu Type={kind} File=/dev/nvidia{n}\n"
    for n, kind in enumerate(("v100", "a100", "v100", "a100"))
)


@pytest.mark.parametrize(
    ("promised", "listed", "order"),
    [  # as slurmd -G of 22.05 says
        ("gpu:a100:2,gpu:v100:2", V100_FIRST, [2, 3, 0, 1]),
        ("gpu:v100:2,gpu:a100:2", V100_FIRST, [0, 1, 2, 3]),
        ("gpu:A100:2,gpu:v100:2", V100_FIRST, [2, 3, 0, 1]),
        ("gpu:a100:2,gpu:v100:2", BY_TURNS, [1, 3, 0, 2]),
        ("gpu:a100:2", BY_TURNS, [1, 3]),
        ("gpu:v100:1,gpu:a100:2,gpu:v100:1", BY_TURNS, [0, 2, 1, 3]),
        ("gpu:a100:1,gpu:v100:2", V100_FIRST, [2, 0, 1]),
        ("gpu:4", BY_TURNS, [0, 1, 2, 3]),
        ("gpu:2", V100_FIRST, [0, 1]),
        ("gpu:a100:2,gpu:v100:2,shard:8", V100_FIRST + "Name=shard Count=8\n", [2, 3, 0, 1]),
        ("gpu:a100:4", "Name=gpu File=/dev/nvidia[0-3]\n", None),
        ("gpu:h100:2", V100_FIRST, None),
        ("nic:1", V100_FIRST, []),
        (None, V100_FIRST, None),
        (None, "Name=gpu Type=a100 File=/dev/nvidia[3,1]\n", [3, 1]),
    ],
)
def test_types_are_counted_in_the_order_of_slurm_conf(
    tmp_path: Path, promised: str | None, listed: str, order: list[int] | None
) -> None:
    conf = tmp_path / "slurm.conf"
    if promised is not None:
        conf.write_text("Include nodes.conf\n")
        (tmp_path / "nodes.conf").write_text(f"NodeName=n1 Gres={promised}\n")
    (tmp_path / "gres.conf").write_text(listed)
    gres = load_gres("n1", conf)
    if order is None:
        assert gres is None, "rather nobody than somebody else"
    else:
        assert files(gres) == [f"/dev/nvidia{n}" for n in order]
        assert gres is not None and gres.sharded == ("shard" in listed)


def test_of_several_types_slurmd_has_the_last_word(tmp_path: Path) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("NodeName=n1 Gres=gpu:a:1,gpu:b:1\n")
    (tmp_path / "gres.conf").write_text(
        "Name=gpu Type=b File=/dev/x\nName=gpu Type=a File=/dev/y\n"
    )
    line = "Gres Name=gpu Count=1 ID=1 File=/dev"
    slurmd = script(tmp_path / "slurmd", f"echo {line}/x; echo {line}/y")
    assert files(load_gres("n1", conf, slurmd=slurmd)) == ["/dev/x", "/dev/y"]
    assert files(load_gres("n1", conf, slurmd="/none")) == ["/dev/y", "/dev/x"]


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    for minor in range(4):
        os.mknod(tmp_path / f"nvidia{minor}", 0o20666, os.makedev(195, minor))
    return tmp_path


def test_scrambled_order_and_a_name_that_lies(dev: Path) -> None:
    os.mknod(dev / "nvidia9", 0o20666, os.makedev(195, 2))
    gres = GresMap(tuple(Position(f"{dev}/nvidia{n}") for n in (3, 9, 0)))
    devices = [device("GPU-c", 0, 2), device("GPU-a", 1, 0), device("GPU-d", 2, 3)]
    found = [find_part(str(p), "gres", gres, devices) for p in range(3)]
    assert [f.meter.name for f in found if f] == ["GPU-d", "GPU-c", "GPU-a"]


def test_a_pulled_card_is_nobodys_and_shifts_no_other(dev: Path) -> None:
    gres = GresMap(tuple(Position(f"{dev}/nvidia{n}") for n in range(4)))
    (dev / "nvidia1").unlink()
    devices = [device("GPU-a", 0, 0), device("GPU-c", 1, 2), device("GPU-d", 2, 3)]
    found = [find_part(str(p), "gres", gres, devices) for p in range(4)]
    assert [f and f.meter.name for f in found] == ["GPU-a", None, "GPU-c", "GPU-d"]


def test_ids_of_other_kinds() -> None:
    devices = [device("GPU-a", 0, 5), device("GPU-b", 1, 6)]
    assert find_part("6", "minor", None, devices) == GresPart(devices[1].meter)
    assert find_part("GPU-a", "gres", None, devices) == GresPart(devices[0].meter)
    assert find_part("GPU-gone", "uuid", None, devices) is None
    for gpu, gres in (("0", None), ("2", GresMap(())), ("MIG-x", None)):
        with pytest.raises(Unmappable):
            find_part(gpu, "gres", gres, devices)


def test_minor_numbers(dev: Path) -> None:
    assert minor_of(f"{dev}/nvidia3") == 3
    assert minor_of("/nowhere/nvidia7") == 7
    assert minor_of("/nowhere/nothing") is None
    (dev / "nvidia8").touch()
    assert minor_of(f"{dev}/nvidia8") is None


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_slurmd_is_asked_only_where_gres_conf_does_not_tell(tmp_path: Path) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("NodeName=n1 Gres=gpu:2\n")
    log = tmp_path / "log"
    line = "Gres Name=gpu Type=a Count=1 Index=0 ID=1 File=/dev/nvidia"
    slurmd = script(tmp_path / "slurmd", f'echo "$*" >> {log}; echo "{line}1"; echo "{line}0"')
    (tmp_path / "gres.conf").write_text("Name=gpu File=/dev/nvidia[0-1]\n")
    assert files(load_gres("n1", conf, slurmd=slurmd)) == ["/dev/nvidia0", "/dev/nvidia1"]
    assert not log.exists()
    (tmp_path / "gres.conf").write_text("AutoDetect=nvml\n")
    assert load_gres("n1", conf) is None
    assert files(load_gres("n1", conf, slurmd=slurmd)) == ["/dev/nvidia1", "/dev/nvidia0"]
    assert log.read_text() == "-G -N n1\n"


def test_autodetect_with_a_card_missing_is_not_believed(tmp_path: Path) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("NodeName=n1 Gres=gpu:a100:2\n")
    slurmd = script(tmp_path / "slurmd", "echo Gres Name=gpu Count=1 ID=1 File=/dev/nvidia1")
    assert load_gres("n1", conf, slurmd=slurmd) is None


def test_a_slurmd_that_hangs_or_is_none(tmp_path: Path) -> None:
    conf = tmp_path / "slurm.conf"
    slurmd = script(tmp_path / "slurmd", "exec sleep 60")
    assert load_gres("n1", conf, slurmd=slurmd, timeout_s=0.2) is None
    assert load_gres("n1", conf, slurmd=str(tmp_path / "none")) is None


def test_cards_of_amd_and_intel_are_told_by_their_device_files() -> None:
    def drm(name: str, *files: str) -> DeviceStatus:
        return DeviceStatus(Meter(Component.GPU, name), 0, 0, files=files)

    devices = [
        device("GPU-nvidia", 0, 0),
        drm("AMD-a", "dri/renderD129", "dri/card1"),
        drm("INTEL-b", "dri/renderD128", "dri/card0"),
    ]
    gres = parse_gres_conf(
        "Name=gpu Type=mi300x File=/dev/dri/renderD129\n"
        "Name=gpu Type=max File=/dev/dri/card0\n"
        "Name=gpu Type=both MultipleFiles=/dev/kfd,/dev/dri/renderD129\n",
        "n1",
        (Promise("mi300x", 1), Promise("max", 1), Promise("both", 1)),
    )
    assert gres is not None
    found = [find_part(str(p), "gres", gres, devices) for p in range(3)]
    assert [part and part.meter.name for part in found] == ["AMD-a", "INTEL-b", "AMD-a"]
    found_by_slurmd = parse_slurmd_g(
        "slurmd: Gres Name=gpu Type=mi300x Count=1 Index=0 ID=7696487 File=/dev/dri/renderD129 "
        "Links=(null) Flags=HAS_FILE,ENV_RSMI"
    )
    assert found_by_slurmd is not None
    part = find_part("0", "gres", found_by_slurmd, devices)
    assert part is not None and part.meter.name == "AMD-a"
