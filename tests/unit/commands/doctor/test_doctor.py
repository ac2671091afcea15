"""The doctor over made-up nodes: what it finds, what it says to do, and how it ends."""

from __future__ import annotations

import ctypes
import io
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from tests.unit.commands.ledger_sample import HOSTILE

from joulebook.commands.daemon.client import DaemonUrl, Unreachable
from joulebook.commands.doctor import checks, daemon, host, ledger
from joulebook.commands.doctor import gpu as gpu_checks
from joulebook.commands.doctor import slurm as slurm_checks
from joulebook.commands.doctor.checks import (
    Answer,
    Check,
    Finding,
    GpuSurvey,
    Site,
    Status,
    Survey,
    fail,
    ok,
    warn,
)
from joulebook.commands.doctor.doctor import SECTIONS, CheckGroup, show
from joulebook.config import Config
from joulebook.config.node import Ledger, Slurm, Tenants
from joulebook.config.sensors import Drm, Hwmon, Nvml, Rapl, Sensors
from joulebook.config.workloads import Kubernetes
from joulebook.http_client import HttpAnswer
from joulebook.ledger.location import LedgerLock
from joulebook.node.release import ask
from joulebook.terminal import Screen, columns

NO_DRIVER = Survey(
    problem=Answer("", "nvmlInit: library not found", "library_not_found", "Get it.")
)


def gpu(index: int, **given: object) -> GpuSurvey:
    known: dict[str, object] = {
        "index": index,
        "uuid": f"GPU-{index}",
        "model": "NVIDIA A100",
        "pci": "",
        "minor": index,
        "mig": False,
        "energy": Answer("1,388.889 kWh since the driver was loaded"),
        "power": Answer("50 W"),
        "processes": Answer("2 processes"),
        "samples": Answer("100"),
        "fields": ("average power",),
        "uptime_s": 86_400,
    }
    return GpuSurvey(**{**known, **given})  # type: ignore[arg-type]


def config(
    slurm: Slurm | None = None, ledger: Ledger | None = None, nvml: Nvml | None = None
) -> Config:
    return msgspec.structs.replace(
        Config(),
        tenants=Tenants(slurm=slurm or Slurm()),
        ledger=ledger or Ledger(),
        sensors=Sensors(nvml=nvml or Nvml()),
    )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A node with nothing on it."""
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.setattr(checks, "survey", lambda _patience_s: NO_DRIVER)
    monkeypatch.setattr(slurm_checks, "find_slurm_conf", lambda: Path("/etc/slurm/slurm.conf"))
    monkeypatch.setattr(slurm_checks, "find_program", lambda _name: "")
    monkeypatch.setattr(DaemonUrl, "get", nobody_answers)
    root = tmp_path / "node"
    for folder in ("sys/bus/pci/devices", "proc/self", "etc/slurm", "run", "var/lib/joulebook"):
        (root / folder).mkdir(parents=True)
    return Site(
        Config(),
        root / "joulebook.toml",
        environ={},
        root=root,
        sysfs=root / "sys",
        proc=root / "proc",
        hostname="n1",
        patience_s=5,
    )


def with_gpus(monkeypatch: pytest.MonkeyPatch, *gpus: GpuSurvey, **given: object) -> None:
    known = msgspec.structs.replace(Survey(driver="550.54.15", gpus=gpus), **given)
    monkeypatch.setattr(checks, "survey", lambda _patience_s: known)


def card(site: Site, address: str, driver: str = "nvidia", vendor: str = "0x10de") -> None:
    device = site.sysfs / "bus/pci/devices" / address
    device.mkdir()
    (device / "vendor").write_text(vendor + "\n")
    (device / "class").write_text("0x030200\n")
    if driver:
        home = site.sysfs / "bus/pci/drivers" / driver
        home.mkdir(parents=True, exist_ok=True)
        (device / "driver").symlink_to(home)


def found(site: Site, *which: Check) -> list[Finding]:
    return [finding for check in which for finding in check(site)]


def one(site: Site, check: Check, status: Status, pattern: str) -> Finding:
    """The only finding of that status, which must match."""
    matching = [each for each in check(site) if each.status is status]
    assert len(matching) == 1, list(check(site))
    assert re.search(pattern, matching[0].found), matching[0]
    return matching[0]


# The doctor as a whole


def test_the_exit_status_tells_whether_anything_failed(site: Site) -> None:
    def reported(*findings: Finding) -> tuple[int, str]:
        stream = io.StringIO()
        section = CheckGroup("Part", (lambda _site: iter(findings),))
        return show(site, Screen(stream, {}), [section]), stream.getvalue()

    assert reported(ok("a"))[0] == 0
    assert reported(ok("a"), warn("b", "do c"))[0] == 0
    status, said = reported(ok("a"), warn("b"), fail("d", "do e"))
    assert status == 1
    assert "FAIL  d\n        -> do e\n" in said
    assert "1 failed, 1 warning." in said


def test_a_check_that_breaks_hides_no_other(site: Site) -> None:
    def broken(_site: Site) -> Iterator[Finding]:
        yield ok("first")
        raise RuntimeError("boom")

    def denied(_site: Site) -> Iterator[Finding]:
        raise PermissionError(13, "Permission denied")
        yield

    stream = io.StringIO()
    section = CheckGroup("Part", (broken, denied, lambda _site: [ok("last")]))
    assert show(site, Screen(stream, {}), [section]) == 1
    said = stream.getvalue()
    assert "first" in said and "last" in said
    assert "broken itself failed: RuntimeError('boom')" in said
    assert "Permission denied" in said


@pytest.mark.parametrize("width", ["40", "60", "120"])
def test_it_fits_the_terminal_and_paints_nothing_of_others(site: Site, width: str) -> None:
    (site.root / "etc/slurm/slurm.conf").write_text(
        f"NodeName=n1 Gres=gpu:1\nProlog=/opt/{HOSTILE}/prolog\n".replace("\n\x00", "")
    )
    stream = io.StringIO()
    show(site, Screen(stream, {"COLUMNS": width}), SECTIONS)
    for line in stream.getvalue().splitlines():
        assert columns(line) <= int(width)
        assert "\x1b" not in line and "\x07" not in line


def test_where_run_would_be_refused_the_doctor_fails(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    none = Sensors(rapl=Rapl(enabled=False), hwmon=Hwmon(enabled=False), drm=Drm(enabled=False))
    site = replace(site, config=msgspec.structs.replace(site.config, sensors=none))
    refused = one(site, daemon.process, Status.FAIL, "`joulebook run` would not start: nothing")
    assert "systemctl" not in refused.todo
    card(site, "0000:17:00.0")
    could = one(site, daemon.process, Status.WARN, "no daemon is running on")
    assert "systemctl" not in could.todo and "`joulebook run`" in could.todo
    broken = replace(site, config_problem="a.toml: node.nam: unknown key")
    one(broken, daemon.process, Status.WARN, "no daemon is running on")


def nobody_answers(_daemon: object, path: str) -> HttpAnswer:
    raise Unreachable(f"no daemon answers at {path}")


def test_a_daemon_with_another_ledger_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a demo is below the folder it was started in."""
    monkeypatch.setattr(DaemonUrl, "get", lambda *_: HttpAnswer(200, b"ok"))
    one(site, daemon.process, Status.OK, r"the daemon at http://127.0.0.1:9816 uses a ledger other")


def no_library(_name: str) -> None:
    raise OSError("cannot open shared object file")


def test_the_daemon_is_named_by_its_command_line(site: Site) -> None:
    lock = LedgerLock(site.ledger)
    try:
        here = replace(site, proc=Path("/proc"))
        one(here, daemon.process, Status.OK, rf"pid {os.getpid()} \(.*python.* holds the")
    finally:
        lock.release()


# Whose a process is


def test_a_container_without_the_hosts_pids_is_told_so_whatever_runs_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not found(site, gpu_checks.pids), "there is no GPU here, so it does not matter"
    with_gpus(monkeypatch, gpu(0))
    blind = replace(site)  # a site remembers its survey
    said = one(blind, gpu_checks.pids, Status.WARN, "split by held share")
    for remedy in ("--pid=host", "hostPID: true", "host.proc", "hostProc.enabled"):
        assert remedy in said.todo
    (site.proc / "2").mkdir()
    (site.proc / "2/comm").write_text("kthreadd\n")
    one(blind, gpu_checks.pids, Status.OK, "/proc has the PIDs")


# Node


def test_the_configuration(site: Site) -> None:
    one(site, host.configuration, Status.OK, r"defaults \(.* does not exist\)")
    named = replace(site, environ={"JOULEBOOK_NODE_NAME": "x", "JOULEBOOK_EXPERIMENT": "y"})
    finding = one(named, host.configuration, Status.OK, "JOULEBOOK_NODE_NAME from the")
    assert "EXPERIMENT" not in finding.found
    wrong = replace(site, config_problem="a.toml: node.nam: unknown key\na.toml: b: wrong")
    assert [each.status for each in found(wrong, host.configuration)] == [Status.FAIL] * 2


def test_rights_are_those_of_the_process(site: Site) -> None:
    status = site.proc / "self/status"
    status.write_text("Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n")
    one(site, host.rights, Status.WARN, r"uid 1000\) lacks CAP_DAC_READ_SEARCH and CAP_SYS")
    status.write_text(f"Uid:\t0\t0\t0\t0\nCapEff:\t{1 << 19 | 1 << 2:016x}\n")
    one(site, host.rights, Status.OK, "may read the environment")
    status.unlink()
    one(site, host.rights, Status.WARN, "cannot be read")


def test_a_daemon_of_pods_needs_no_capability(site: Site) -> None:
    (site.proc / "self/status").write_text("Uid:\t0\t0\t0\t0\nCapEff:\t0000000000000000\n")
    tenants = Tenants(kubernetes=Kubernetes(enabled=True), slurm=Slurm(enabled=False))
    pods = replace(site, config=msgspec.structs.replace(site.config, tenants=tenants))
    one(pods, host.rights, Status.OK, r"uid 0\) needs no capability")
    both = Tenants(kubernetes=Kubernetes(enabled=True), slurm=Slurm(enabled=True))
    pods = replace(site, config=msgspec.structs.replace(site.config, tenants=both))
    one(pods, host.rights, Status.WARN, "lacks CAP_DAC_READ_SEARCH")


@pytest.mark.parametrize(
    ("state", "status", "pattern"),
    [
        (None, Status.WARN, "does not report"),
        (host.KernelClock(False, 16.0), Status.WARN, "not synchronized"),
        (host.KernelClock(True, 2.0), Status.WARN, r"only to within 2\.0 s"),
        (host.KernelClock(True, 0.012), Status.OK, "to within 12 ms"),
    ],
)
def test_the_clock(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    state: host.KernelClock | None,
    status: Status,
    pattern: str,
) -> None:
    monkeypatch.setattr(host, "_kernel_clock", lambda: state)
    one(site, host.clock, status, pattern)


def test_the_kernel_answers_about_its_clock() -> None:
    state = host._kernel_clock()
    assert state is None or 0 <= state.max_error_s < 1e6


# GPUs


def test_no_card_and_no_driver_are_nothing(site: Site) -> None:
    card(site, "0000:00:02.0", driver="i915", vendor="0x8086")
    said = found(site, gpu_checks.cards, gpu_checks.driver, gpu_checks.gpus)
    assert [each.status for each in said] == [Status.NONE, Status.NONE]


def test_a_card_without_a_driver_is_said_aloud(site: Site) -> None:
    card(site, "0000:17:00.0", driver="nouveau")
    card(site, "0000:18:00.0", driver="")
    card(site, "0000:19:00.0", driver="vfio-pci")
    said = found(site, gpu_checks.cards)
    assert [each.status for each in said] == [Status.FAIL, Status.FAIL, Status.WARN]
    assert "driver nouveau" in said[0].found and "no driver" in said[1].found
    one(site, gpu_checks.driver, Status.FAIL, "library not found")


def test_required_and_missing_fails(site: Site) -> None:
    required = replace(site, config=config(nvml=Nvml(enabled=True)))
    assert one(required, gpu_checks.driver, Status.FAIL, "library not found").todo == "Get it."
    off = replace(site, config=config(nvml=Nvml(enabled=False)))
    assert [each.status for each in found(off, *gpu_checks.CHECKS)] == [Status.NONE]


def test_a_driver_that_hangs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "survey", lambda _patience_s: Survey(hung=True))
    one(site, gpu_checks.driver, Status.FAIL, "does not answer within 5 s")


def test_module_and_library_of_two_versions(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, gpu(0))
    card(site, "0000:17:00.0")
    version = site.proc / "driver/nvidia/version"
    version.parent.mkdir(parents=True)
    line = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu Mar 14 UTC 2024\n"
    version.write_text(line.format("550.54.15"))
    one(site, gpu_checks.driver, Status.OK, r"driver 550\.54\.15")
    version.write_text(line.format("535.161.07"))
    one(site, gpu_checks.driver, Status.FAIL, r"kernel module 535\.161\.07, library 550\.54\.15")


def test_a_card_that_fell_off_the_bus(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    card(site, "0000:17:00.0")
    card(site, "0000:18:00.0")
    with_gpus(monkeypatch, gpu(0))
    one(site, gpu_checks.driver, Status.FAIL, "the bus has 2 cards .* NVML shows 1")
    lost = Answer("", "GPU 1: nvmlDeviceGetHandleByIndex: gpu is lost", "gpu_is_lost", "Reset it.")
    with_gpus(monkeypatch, gpu(0), failed=(lost,))
    fresh = replace(site)
    assert one(fresh, gpu_checks.driver, Status.FAIL, "GPU 1: .*gpu is lost").todo == "Reset it."


def test_what_each_gpu_answers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    never = Answer("", "not supported", "not_supported", "Nothing to do.")
    broken = Answer("", "unknown error", "unknown", "See dmesg.")
    with_gpus(
        monkeypatch,
        gpu(0),
        gpu(1, energy=never, uptime_s=None, mig=True),
        gpu(2, energy=broken, processes=Answer()),
        gpu(3, energy=never, power=never, processes=broken),
    )
    said = found(site, gpu_checks.gpus)

    def of(index: int) -> list[tuple[Status, str]]:
        return [(each.status, each.found) for each in said if each.found.startswith(f"GPU {index}")]

    assert [status for status, _ in of(0)] == [Status.OK]
    assert "energy counter" in of(0)[0][1] and "uptime 24.0 h" in of(0)[0][1]
    assert [status for status, _ in of(1)] == [Status.OK, Status.WARN, Status.WARN]
    assert "no energy counter" in of(1)[1][1] and "MIG is on" in of(1)[2][1]
    assert [status for status, _ in of(2)] == [Status.OK, Status.FAIL, Status.WARN]
    assert [status for status, _ in of(3)] == [Status.OK, Status.FAIL, Status.WARN]


# SLURM

CONF = """
ClusterName=lab
NodeName=n[1-2] Gres=gpu:2 State=UNKNOWN   # the GPUs
Include more.conf
PrologFlags=Alloc,Contain
ProctrackType=proctrack/cgroup
"""


@pytest.fixture
def slurm(site: Site) -> Site:
    """A node of a cluster that is set up as it should be."""
    etc = site.root / "etc/slurm"
    (etc / "slurm.conf").write_text(CONF)
    hooks = site.root / "usr/lib/joulebook/hooks"
    hooks.mkdir(parents=True)
    for name in ("prolog.sh", "epilog.sh"):
        (hooks / name).write_text("#!/bin/sh\nexit 0\n")
        (hooks / name).chmod(0o755)
    (etc / "more.conf").write_text(f"Prolog={hooks}/prolog.sh\nepilog={hooks}/epilog.sh\n")
    (etc / "gres.conf").write_text(
        "NodeName=n1 Name=gpu File=/dev/nvidia1\nNodeName=n1 Name=gpu File=/dev/nvidia0\n"
    )
    events = site.root / "run/joulebook/jobs"
    events.mkdir(parents=True)
    events.chmod(0o755)
    (events / "101.0.json").write_text("{}")
    scopes = site.root / "sys/fs/cgroup/system.slice/n1_slurmstepd.scope"
    scopes.mkdir(parents=True)
    (site.root / "sys/fs/cgroup/cgroup.controllers").write_text("cpu\n")
    return site


def test_no_slurm_is_one_line(site: Site) -> None:
    assert [each.status for each in found(site, *slurm_checks.CHECKS)] == [Status.NONE]


def test_slurm_as_it_should_be(slurm: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, gpu(0, uuid="GPU-zero"), gpu(1, uuid="GPU-one"))
    monkeypatch.setattr(slurm_checks, "find_program", lambda name: "/bin/true" * (name != "slurmd"))
    said = found(slurm, *slurm_checks.CHECKS)
    assert {each.status for each in said} == {Status.OK}, said
    text = "\n".join(each.found for each in said)
    assert "this host is node n1" in text
    assert "index 0 is /dev/nvidia1, GPU-one" in text
    assert "index 1 is /dev/nvidia0, GPU-zero" in text
    assert "1 job running, 0 to be booked" in text
    assert "cgroup v2 at" in text and "n1_slurmstepd.scope" in text


def test_the_node_is_not_in_slurm_conf(slurm: Site) -> None:
    other = replace(slurm, hostname="login")
    one(other, slurm_checks.configuration, Status.WARN, "no NodeName login")
    named = replace(other, config=config(Slurm(node_name="n2")))
    assert [e.status for e in found(named, slurm_checks.configuration)] == [Status.OK] * 2


def test_slurm_conf_elsewhere(slurm: Site) -> None:
    lost = replace(slurm, config=config(Slurm(enabled=True, slurm_conf="/opt/slurm.conf")))
    assert (
        "tenants.slurm.slurm_conf"
        in one(lost, slurm_checks.configuration, Status.WARN, "cannot be read").todo
    )


def test_hooks_of_others_and_hooks_that_cannot_run(slurm: Site) -> None:
    more = slurm.root / "etc/slurm/more.conf"
    site_hook = slurm.root / "etc/slurm/prolog.d/10-site.sh"
    site_hook.parent.mkdir()
    site_hook.write_text("#!/bin/sh\nexit 0\n")
    site_hook.chmod(0o755)
    more.write_text(f"Prolog={site_hook.parent}/*\nEpilog=/nowhere/joulebook/epilog.sh\n")
    said = found(slurm, slurm_checks.hooks)
    assert [each.status for each in said] == [Status.WARN, Status.FAIL]
    assert "10-site.sh" in said[0].found and "prolog.sh" in said[0].todo
    # A site's own script that calls ours is as good.
    site_hook.write_text("#!/bin/sh\n/usr/lib/joulebook/hooks/prolog.sh\n")
    assert found(slurm, slurm_checks.hooks)[0].status is Status.OK
    site_hook.chmod(0o644)
    one_ = found(slurm, slurm_checks.hooks)[0]
    assert one_.status is Status.FAIL and "not executable" in one_.found


def test_prolog_flags(slurm: Site) -> None:
    conf = slurm.root / "etc/slurm/slurm.conf"
    conf.write_text(CONF.replace("PrologFlags=Alloc,Contain\n", ""))
    one(slurm, slurm_checks.hooks, Status.WARN, "PrologFlags has no Alloc")


def test_without_our_prolog_a_waiting_allocation_is_not_seen(slurm: Site) -> None:
    conf = slurm.root / "etc/slurm/slurm.conf"
    conf.write_text(CONF.replace("Alloc,Contain", "Alloc,NoHold"))
    assert not [f for f in found(slurm, slurm_checks.hooks) if "PrologFlags" in f.found]
    (slurm.root / "etc/slurm/more.conf").write_text("Prolog=/site.sh\nEpilog=/site.sh\n")
    said = found(slurm, slurm_checks.hooks)
    assert [f.status for f in said if "PrologFlags has no Contain" in f.found] == [Status.FAIL]


def test_private_data_hides_jobs(slurm: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_checks, "find_program", lambda _name: "/bin/true")
    conf = slurm.root / "etc/slurm/slurm.conf"
    conf.write_text(CONF + "PrivateData=accounts,jobs\n")
    said = found(slurm, slurm_checks.controller)
    assert [f.status for f in said if "PrivateData" in f.found] == [Status.WARN]
    assert "operator" in said[-1].todo


def test_an_events_directory_open_to_others(slurm: Site) -> None:
    events = slurm.root / "run/joulebook/jobs"
    events.chmod(0o777)
    assert "chmod 755" in one(slurm, slurm_checks.events, Status.FAIL, "others may write").todo
    for file in events.iterdir():
        file.unlink()
    events.rmdir()
    one(slurm, slurm_checks.events, Status.NONE, "does not exist yet")
    events.symlink_to("/tmp")
    one(slurm, slurm_checks.events, Status.FAIL, "symbolic link")


def test_the_events_directory_of_the_daemons_own_user(slurm: Site) -> None:
    events = slurm.root / "run/joulebook/jobs"
    slurm.ledger.parent.mkdir(parents=True, exist_ok=True)
    os.chown(events, 990, 990)
    one(slurm, slurm_checks.events, Status.FAIL, "belongs to uid 990")
    os.chown(slurm.ledger.parent, 990, 990)
    one(slurm, slurm_checks.events, Status.OK, "events_dir")


def test_whether_people_can_name_what_they_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(host.names(site)), "no GPU, no names"
    with_gpus(monkeypatch, gpu(0, uuid="GPU-zero"))
    card(site, "0000:01:00.0")
    monkeypatch.setattr(host, "reads_environments", lambda pid, proc: True)
    one(site, host.names, Status.OK, "can be read")
    assert "-v /run/joulebook/marks" in one(site, host.names, Status.WARN, "does not exist").todo
    marks = site.root / "run/joulebook/marks"
    marks.mkdir(parents=True)
    marks.chmod(0o1777)
    assert {each.status for each in host.names(site)} == {Status.OK}
    monkeypatch.setattr(host, "reads_environments", lambda pid, proc: False)
    assert "SYS_PTRACE" in one(site, host.names, Status.WARN, "environment").todo


def test_events_that_nobody_books(slurm: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    (slurm.root / "run/joulebook/jobs/7.0.end").write_text("{}")
    assert {each.status for each in found(slurm, slurm_checks.events)} == {Status.OK}
    monkeypatch.setattr(slurm_checks, "_OLD_S", -1.0)
    one(slurm, slurm_checks.events, Status.WARN, r"1 ended job not booked .*7\.0\.end")


def test_positions_that_mean_nothing(slurm: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, gpu(0, uuid="GPU-zero"))
    one(slurm, slurm_checks.gpu_order, Status.FAIL, "index 0 is /dev/nvidia1, but NVML shows no")
    position = "Name=gpu MultipleFiles=/dev/nvidia0,/dev/nvidia-caps/nvidia-cap21\n"
    (slurm.root / "etc/slurm/gres.conf").write_text(position)
    one(slurm, slurm_checks.gpu_order, Status.WARN, "an instance of GPU-.*, but unknown")
    (slurm.root / "etc/slurm/gres.conf").write_text("NodeName=n2 Name=gpu File=/dev/nvidia0\n")
    one(slurm, slurm_checks.gpu_order, Status.WARN, "no GPUs, but NVML shows some")
    (slurm.root / "etc/slurm/gres.conf").write_text("AutoDetect=nvml\n")
    one(slurm, slurm_checks.gpu_order, Status.FAIL, "neither gres.conf nor")
    by_uuid = replace(slurm, config=config(Slurm(gpu_ids="uuid")))
    one(by_uuid, slurm_checks.gpu_order, Status.OK, "are uuids")


def test_slurm_without_cgroups(slurm: Site) -> None:
    conf = slurm.root / "etc/slurm/slurm.conf"
    conf.write_text(CONF.replace("proctrack/cgroup", "proctrack/linuxproc"))
    one(slurm, slurm_checks.cgroups, Status.WARN, "linuxproc")
    conf.write_text(CONF)
    none = replace(slurm, config=config(Slurm(cgroup_root="/sys/fs/none")))
    one(none, slurm_checks.cgroups, Status.FAIL, "no cgroup file system")
    v1 = slurm.root / "cg/cpuacct/slurm_n1"
    v1.mkdir(parents=True)
    first = replace(slurm, config=config(Slurm(cgroup_root="/cg")))
    one(first, slurm_checks.cgroups, Status.OK, "cgroup v1 at .*: slurm_n1")


def test_scontrol_matters_more_without_hooks(slurm: Site) -> None:
    one(slurm, slurm_checks.controller, Status.WARN, "scontrol: not found")
    (slurm.root / "etc/slurm/more.conf").write_text("")
    one(slurm, slurm_checks.controller, Status.FAIL, "so do the holders")
    never = replace(slurm, config=config(Slurm(scontrol="")))
    one(never, slurm_checks.controller, Status.FAIL, "never called")


# Ledger


def test_a_ledger_on_a_volatile_file_system(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = iter(["ext4", "tmpfs", "tmpfs", "nfs4", "fuse.sshfs"])
    monkeypatch.setattr(ledger, "filesystem", lambda _path: next(kinds))
    one(site, ledger.place, Status.OK, "is on ext4")
    one(site, ledger.place, Status.FAIL, "does not survive a reboot")
    meant = replace(site, config=config(ledger=Ledger(allow_volatile=True)))
    one(meant, ledger.place, Status.WARN, "tmpfs")
    assert "local disk" in one(site, ledger.place, Status.FAIL, "nfs4, which cannot").todo
    one(site, ledger.place, Status.FAIL, "sshfs")


def test_no_room(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    one(site, ledger.space, Status.OK, "free under")
    monkeypatch.setattr(ledger, "_TIGHT_BYTES", 1 << 60)
    one(site, ledger.space, Status.WARN, "only")
    monkeypatch.setattr(ledger, "_FULL_BYTES", 1 << 60)
    one(site, ledger.space, Status.FAIL, "only")


def test_a_ledger_that_is_none(site: Site) -> None:
    one(site, ledger.contents, Status.NONE, "no ledger at .* yet")
    site.ledger.write_text("this is not a database, but long enough to be taken for one" * 20)
    one(site, ledger.contents, Status.FAIL, str(site.ledger))


def test_a_release_is_not_forgotten(site: Site) -> None:
    assert found(site, ledger.released) == []
    ask(site.ledger, 4e9)
    one(site, ledger.released, Status.WARN, "released until 2096-10-02")
    ask(site.ledger, 1.0)
    assert found(site, ledger.released) == []
    site.ledger.with_name("ledger.db.release").write_text("{")
    one(site, ledger.released, Status.WARN, "cannot be read")


def test_says_who_can_reach_the_figures(tmp_path: Path) -> None:
    def found(**server: str) -> list[Finding]:
        section = msgspec.structs.replace(Config().server, **server)
        here = Site(msgspec.structs.replace(Config(), server=section), tmp_path / "none.toml")
        return list(daemon.reach(here))

    (loopback,) = found(listen="127.0.0.1:9816")
    assert loopback.status is Status.NONE
    assert 'listen = ":9816"' in loopback.found
    (open_,) = found(listen=":9816")
    assert open_.status is Status.WARN
    assert "server.web_config" in open_.todo
    assert found(listen=":9816", web_config="/etc/joulebook/web.yml") == []


def test_files_of_root_in_the_services_ledger_are_found(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        tmp_path.chmod(0o700)  # files of another owner need root: then there is nothing to find
    path = tmp_path / "ledger.db"
    path.touch()
    here = Site(config(ledger=Ledger(path=str(path))), tmp_path / "none.toml")
    assert list(ledger.owner(here)) == []
    if os.geteuid() == 0:
        os.chown(tmp_path, 997, 997)
        (finding,) = ledger.owner(here)
        assert finding.status is Status.FAIL
        assert "ledger.db" in finding.found
        assert finding.todo.startswith("chown --reference=")
