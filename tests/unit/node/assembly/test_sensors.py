"""Which sensors run on which machine, and which meters each answers for."""

from __future__ import annotations

import ctypes
from pathlib import Path

import msgspec
import pytest
from tests.fakes.sysfs.machine import Machine
from tests.fakes.sysfs.shapes import SHAPES

from joulebook.clock import NodeClock
from joulebook.config import Config, load
from joulebook.config.sensors import Drm, Host, Hwmon, Ipmi, Model, Rapl, Redfish, Replay
from joulebook.core.energy.readings import Component, Meter
from joulebook.errors import ConfigError
from joulebook.node.assembly import sensors
from joulebook.node.assembly.node import assemble
from joulebook.node.assembly.sensors import SENSORS, chosen, conflict, reader_of
from joulebook.node.sensors import hwmon, ipmi


def config_of(machine: Machine, **sensors: object) -> Config:
    base = msgspec.structs.replace(
        Config().sensors,
        rapl=Rapl(root=str(machine.powercap)),
        hwmon=Hwmon(root=str(machine.hwmon)),
        drm=Drm(root=str(machine.drm)),
    )
    return msgspec.structs.replace(
        Config(),
        sensors=msgspec.structs.replace(base, **sensors),
        host=Host(proc=str(machine.proc)),
    )


@pytest.fixture(autouse=True)
def no_nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_name: str) -> None:
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", absent)
    monkeypatch.setattr(sensors, "IPMI_DEVICES", ())


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ("intel_two_sockets", {"rapl"}),
        ("amd_two_sockets", {"rapl"}),
        ("grace", {"hwmon"}),
        ("grace_hopper", {"hwmon"}),
        ("mi300", {"drm", "rapl"}),
        ("xe", {"drm", "rapl"}),
        ("i915", {"drm"}),
        ("virtual_machine", set()),
    ],
)
def test_what_a_machine_has_is_found(tmp_path: Path, shape: str, names: set[str]) -> None:
    machine = SHAPES[shape](tmp_path)
    config = config_of(machine)
    nowhere = tmp_path / "pci"
    assert chosen(config, nowhere).keys() == names
    clock = NodeClock()
    for name, choice in chosen(config, nowhere).items():
        sensor = choice.make(config, clock)
        sensor.open()
        poll = sensor.poll(processes=True)
        assert poll.readings and not poll.failures
        for reading in poll.readings:
            owners = [
                n
                for n, each in SENSORS.items()
                if n != "replay" and each.make(config, clock).owns(reading.meter)
            ]
            assert owners == [name], "each meter is one sensor's"
        sensor.close()


def test_nothing_is_found_beside_a_replay(tmp_path: Path) -> None:
    machine = SHAPES["mi300"](tmp_path)
    replay = config_of(machine, replay=Replay(enabled=True, trace="a100"))
    assert chosen(replay, tmp_path).keys() == {"replay"}


def test_a_bmc_takes_the_place_of_the_boards_supply(tmp_path: Path) -> None:
    machine = SHAPES["grace_hopper"](tmp_path)
    config = config_of(machine, ipmi=Ipmi(enabled=True, includes_gpus=False))
    found = chosen(config, tmp_path)
    assert found.keys() == {"hwmon", "ipmi"}
    boards = found["hwmon"].make(config, NodeClock())
    boards.open()
    assert {r.meter.name for r in boards.poll(processes=False).readings} == {"grace-0"}
    redfish = config_of(machine, redfish=Redfish(enabled="auto", url="https://bmc"))
    assert "redfish" in chosen(redfish, tmp_path)
    assert reader_of(Meter(Component.OTHER, "redfish")) == "redfish"
    assert [reader_of(m) for m in (ipmi.METER, hwmon.NODE, hwmon.MODULES)] == [
        "ipmi", "hwmon", "hwmon",
    ]  # fmt: skip


def test_a_model_beside_rapl_is_refused(tmp_path: Path) -> None:
    machine = SHAPES["intel_two_sockets"](tmp_path)
    model = Model(enabled=True, cpu_tdp_w=100, source="a data sheet")
    config = config_of(machine, model=model)
    assert "count it twice" in conflict(chosen(config, tmp_path))
    ledger = msgspec.structs.replace(config.ledger, path=str(tmp_path / "ledger.db"))
    with pytest.raises(ConfigError, match=r"sensors\.model\.enabled"):
        assemble(msgspec.structs.replace(config, ledger=ledger))
    alone = config_of(SHAPES["virtual_machine"](tmp_path / "vm"), model=model)
    assert chosen(alone, tmp_path).keys() == {"model"} and not conflict(["model"])


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[sensors.redfish]\nenabled = true", "sensors.redfish.url"),
        ("[sensors.redfish]\nurl = 'http://bmc'", "sensors.redfish.url"),
        (
            "[sensors]\nredfish = {enabled = true, url = 'https://bmc'}\nipmi = {enabled = true}",
            "sensors.ipmi.enabled",
        ),
        ("[host]\nother = 'all'", "host.other"),
        ("[sensors.ipmi]\nevery_s = 0.1", "sensors.ipmi.every_s"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(tmp_path: Path, text: str, key: str) -> None:
    file = tmp_path / "joulebook.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=key):
        load(file, {})
