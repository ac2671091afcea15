"""The doctor of the host: each meter is read once, and what cannot be has its remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from tests.fakes.sysfs.machine import Machine
from tests.fakes.sysfs.shapes import SHAPES

from joulebook.clock import Anchor
from joulebook.commands.doctor import host
from joulebook.commands.doctor.checks import Check, Finding, Site, Status
from joulebook.config import Config
from joulebook.config.sensors import Drm, Hwmon, Ipmi, Model, Rapl
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.node_meter import NodeMeter
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.ledger.state import Books, Entry
from joulebook.ledger.sqlite import SqliteStore


def site_of(tmp_path: Path, shape: str, **sensors: object) -> tuple[Site, Machine]:
    machine = SHAPES[shape](tmp_path / "host")
    config = msgspec.structs.replace(
        Config(), sensors=msgspec.structs.replace(Config().sensors, **sensors)
    )
    site = Site(
        config, tmp_path / "none.toml", root=machine.root, sysfs=machine.root / "sys",
        proc=machine.proc,
    )  # fmt: skip
    return site, machine


def findings(site: Site, check: Check) -> list[Finding]:
    return list(check(site))


@pytest.mark.parametrize(
    ("shape", "check", "words"),
    [
        ("intel_two_sockets", host.packages, ("4 meters", "package-1", "dram-0", "counter")),
        ("amd_two_sockets", host.packages, ("2 meters", "package-0")),
        ("grace_hopper", host.boards, ("grace-0 (170 W now, integrated)", "modules")),
        ("mi300", host.cards, ("amd AMD Instinct MI300X AMD-a1b2", "2 meters")),
        ("xe", host.cards, ("intel Intel 0x0bda INTEL-0000:4d:00.0 (counter)",)),
    ],
)
def test_what_there_is_is_read(
    tmp_path: Path, shape: str, check: Check, words: tuple[str, ...]
) -> None:
    site, _ = site_of(tmp_path, shape)
    first = findings(site, check)[0]
    assert first.status is Status.OK
    for word in words:
        assert word in first.found


def test_psys_is_said_to_be_left_out(tmp_path: Path) -> None:
    site, _ = site_of(tmp_path, "intel_two_sockets")
    assert any("psys" in each.found for each in findings(site, host.packages))


def test_a_machine_without_anything_is_no_fault_unless_it_was_asked_for(tmp_path: Path) -> None:
    site, _ = site_of(tmp_path, "virtual_machine")
    everything = [f for check in host.CHECKS for f in check(site)]
    assert everything and {each.status for each in everything} == {Status.NONE}
    wanted, _ = site_of(
        tmp_path / "b", "virtual_machine",
        rapl=Rapl(enabled=True), hwmon=Hwmon(enabled=True), drm=Drm(enabled=True),
    )  # fmt: skip
    failed = [f for check in host.CHECKS for f in check(wanted)]
    assert [each.status for each in failed] == [Status.FAIL] * 3
    assert all(each.todo for each in failed)
    off, _ = site_of(
        tmp_path / "c", "mi300",
        rapl=Rapl(enabled=False), hwmon=Hwmon(enabled=False), drm=Drm(enabled=False),
    )  # fmt: skip
    assert {f.status for check in host.CHECKS for f in check(off)} == {Status.NONE}


def test_a_counter_that_cannot_be_read_names_the_remedy(tmp_path: Path) -> None:
    site, machine = site_of(tmp_path, "intel_two_sockets")
    file = machine.powercap / "intel-rapl:1/energy_uj"
    file.unlink()
    file.mkdir()
    failed = [f for f in findings(site, host.packages) if f.status is Status.FAIL]
    (finding,) = failed
    assert "package-1 cannot be read (unreadable)" in finding.found
    assert "CAP_DAC_READ_SEARCH" in finding.todo


def test_a_bmc_is_asked_once(tmp_path: Path) -> None:
    tool = tmp_path / "ipmitool"
    tool.write_text("#!/bin/sh\necho '  Instantaneous power reading:   640 Watts'\n")
    tool.chmod(0o755)
    site, _ = site_of(tmp_path, "virtual_machine", ipmi=Ipmi(enabled=True, program=str(tool)))
    (finding,) = findings(site, host.whole_node)
    assert finding.status is Status.OK and "ipmi (640 W now, integrated)" in finding.found
    tool.write_text("#!/bin/sh\nexit 1\n")
    (finding,) = findings(site, host.whole_node)
    assert finding.status is Status.FAIL and "ipmitool" in finding.todo


def test_a_bmc_that_leaves_the_gpus_out_is_said_from_the_ledger(tmp_path: Path) -> None:
    meter = Meter(Component.OTHER, "ipmi")
    state = MeterState(meter, Reading(meter, 1))
    omits = NodeMeter(state, (Component.GPU,), 1, 2, 10, 90, 0, 80, "gpu")
    ledger = tmp_path / "host/ledger.db"
    site, _ = site_of(tmp_path, "virtual_machine")
    store = SqliteStore(ledger, allow_volatile=True)
    store.load()
    store.commit(Books(), Books(node_meters={meter: omits}, last_ns=2), Entry(), Anchor("b", 0, 2))
    store.close()
    base = msgspec.structs.replace(site.config.ledger, path="/ledger.db")
    site = replace(site, config=msgspec.structs.replace(site.config, ledger=base))
    (finding,) = findings(site, host.whole_node)
    assert finding.status is Status.WARN and "leave out the gpu" in finding.found
    assert "sensors.ipmi.includes_gpus = false" in finding.todo


def test_a_model_is_said_with_where_its_numbers_are_from(tmp_path: Path) -> None:
    model = Model(enabled=True, cpu_idle_w=10, cpu_tdp_w=65, source="Intel ARK, 2021")
    site, _ = site_of(tmp_path, "virtual_machine", model=model)
    (finding,) = findings(site, host.model)
    assert finding.status is Status.WARN
    assert "65 W at full load" in finding.found and "Intel ARK, 2021" in finding.found
