"""Checks of the node (configuration, rights, clock), host meters and GPUs other than NVIDIA's."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from joulebook.clock import NodeClock
from joulebook.commands.doctor import gpu, kubernetes, slurm
from joulebook.commands.doctor.checks import Check, Finding, Site, fail, nothing, ok, warn
from joulebook.commands.shared.text import several
from joulebook.config import env_names
from joulebook.config.load import Enabled
from joulebook.core.energy.readings import Reading
from joulebook.errors import SensorError
from joulebook.ledger.query import LedgerReader
from joulebook.node.assembly.sensors import SENSORS, reader_of
from joulebook.node.sensors import hwmon, rapl
from joulebook.node.sensors.contract import Sensor
from joulebook.node.sensors.drm import sensor as drm
from joulebook.node.sensors.sysfs import text_or
from joulebook.node.workloads.host.procfs import reads_environments
from joulebook.units import MW_PER_W


def packages(site: Site) -> Iterator[Finding]:
    """Check RAPL: CPU packages and DRAM."""
    asked = site.config.sensors.rapl
    root = site.at(asked.root)
    if asked.enabled is False:
        yield nothing("CPU and DRAM are not read by RAPL: sensors.rapl.enabled = false")
        return
    absent = f"no RAPL below {asked.root}: no CPU and DRAM energy from there"
    sensor = rapl.RaplSensor(NodeClock(), root)
    yield from _meters(asked.enabled, rapl.zones(root), sensor, absent, rapl.REMEDY)
    skipped = [path.name for path in sorted(root.glob("*")) if text_or(path / "name") == "psys"]
    if skipped:
        yield nothing(
            f"{', '.join(skipped)} is psys (the whole platform) and never added to packages"
        )


def boards(site: Site) -> Iterator[Finding]:
    """Check hwmon: sockets, modules and power supplies."""
    asked = site.config.sensors.hwmon
    root = site.at(asked.root)
    absent = f"no power meter of boards or sockets below {asked.root}"
    sensor = hwmon.HwmonSensor(NodeClock(), root)
    yield from _meters(asked.enabled, hwmon.sources(root), sensor, absent, hwmon.REMEDY)


def cards(site: Site) -> Iterator[Finding]:
    """Check AMD and Intel GPUs."""
    asked = site.config.sensors.drm
    root = site.at(asked.root)
    absent = f"no AMD or Intel GPU with a meter below {asked.root}"
    sensor = drm.DrmSensor(NodeClock(), root, proc=site.proc)
    yield from _meters(asked.enabled, drm.metered(root), sensor, absent, drm.REMEDY)


def _meters(
    enabled: Enabled, found: Sequence[object], sensor: Sensor, absent: str, remedy: str
) -> Iterator[Finding]:
    """Check what a sensor reads, unless it is off; finding nothing may be fine."""
    if enabled is False:
        return
    if found:
        yield from _read(sensor)
    elif enabled is True:
        yield fail(absent, remedy)
    else:
        yield nothing(absent)


def whole_node(site: Site) -> Iterator[Finding]:
    """Check the BMC with one query, and whether it was seen to leave something out."""
    for name in ("ipmi", "redfish"):
        if getattr(site.config.sensors, name).enabled is False:
            continue
        if not SENSORS[name].wanted(site.config, site.sysfs):
            continue
        yield from _read(SENSORS[name].make(site.config, NodeClock()))
    yield from _omissions(site)


def model(site: Site) -> Iterator[Finding]:
    """Check whether figures come from a model."""
    asked = site.config.sensors.model
    if asked.enabled:
        yield warn(
            f"CPU and DRAM are estimated, not measured: {asked.cpu_idle_w:g} W idle, "
            f"{asked.cpu_tdp_w:g} W at full load, {asked.dram_w_per_gib:g} W per GiB "
            f"({asked.source})",
            "Nothing to do: such energy is marked 'modelled' everywhere.",
        )


def names(site: Site) -> Iterator[Finding]:
    """Check that users can name experiments on a machine without a scheduler."""
    scheduled = slurm.is_here(site) or kubernetes.is_here(site)
    off = site.config.tenants.processes.enabled is False
    if off or scheduled or not gpu.wanted(site):
        return
    pid = site.daemon or "self"
    if reads_environments(pid, site.proc):
        yield ok("names: experiments in the environment of processes can be read")
    else:
        yield warn(
            "names: the environment of other users' processes cannot be read: they are booked to "
            "'sessions' and 'containers', unless users run joulebook mark",
            "Give the daemon CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (the package's unit has them; "
            "docker run --user 0 --cap-add SYS_PTRACE --cap-add DAC_READ_SEARCH).",
        )
    marks = site.config.marks
    path = site.at(marks.dir)
    if marks.enabled is False:
        return
    if path.is_dir() and path.stat().st_mode & 0o1777 == 0o1777:
        yield ok(f"names: programs may name experiments in {marks.dir}")
    else:
        yield warn(
            f"names: {marks.dir} does not exist or lacks mode 1777: no `joulebook mark`, no "
            "`with joulebook.experiment(...)`",
            f"install -d -m 1777 {marks.dir}; in a container mount it from the host "
            f"(-v {marks.dir}:{marks.dir}).",
        )


def _omissions(site: Site) -> Iterator[Finding]:
    for meter, found in (site.from_ledger(LedgerReader.node_meters) or {}).items():
        if found.omits:
            yield warn(
                f"the meter of the whole node ({meter.name}) reports less than the {found.omits} "
                f"meters: it appears to leave out the {found.omits}",
                f"Set sensors.{reader_of(meter)}.includes_gpus = false, if it leaves out the "
                "GPUs. Until then, nothing is booked as 'other'.",
            )


def _read(sensor: Sensor) -> Iterator[Finding]:
    try:
        sensor.open()
        poll = sensor.poll(processes=False)
    except SensorError as error:
        yield fail(f"{sensor.name}: {error}", error.remedy)
        return
    finally:
        sensor.close()
    names = {status.meter: f"{status.vendor} {status.model} " for status in poll.statuses}
    good = [
        f"{names.get(reading.meter, '')}{reading.meter.name} ({_counts(reading)})"
        for reading in poll.readings
    ]
    if good:
        yield ok(f"{sensor.name}: {several(len(good), 'meter')}: {', '.join(good)}")
    remedy = {"rapl": rapl.REMEDY, "hwmon": hwmon.REMEDY, "drm": drm.REMEDY}.get(sensor.name, "")
    for failure in poll.failures:
        yield fail(f"{sensor.name}: {failure.meter.name} cannot be read ({failure.reason})", remedy)


def _counts(reading: Reading) -> str:
    if reading.energy_uj is not None:
        return "counter"
    watts = (reading.power_mw or 0) / MW_PER_W
    return f"{watts:,.0f} W now, integrated"


CHECKS: tuple[Check, ...] = (packages, boards, cards, whole_node, model, names)


_TIME_ERROR = 5
_CAPABILITIES = {2: "CAP_DAC_READ_SEARCH", 19: "CAP_SYS_PTRACE"}
_LOOSE_S = 0.5


def configuration(site: Site) -> Iterator[Finding]:
    """Check that the configuration is valid."""
    if site.config_problem:
        for line in site.config_problem.splitlines():
            yield fail(
                f"configuration: {line}",
                "The daemon will not start with it. The checks use defaults.",
            )
        return
    there = site.config_file.exists()
    names = sorted(name for name in env_names() if name in site.environ)
    where = str(site.config_file) if there else f"defaults ({site.config_file} does not exist)"
    also = f", and {', '.join(names)} from the environment" if names else ""
    yield ok(f"configuration: {where}{also}")


def rights(site: Site) -> Iterator[Finding]:
    """Check that the daemon may read the environment of jobs."""
    pid = site.daemon
    who = f"the daemon (pid {pid})" if pid else "this user"
    try:
        status = (site.proc / (str(pid) if pid else "self") / "status").read_text()
    except OSError as error:
        yield warn(f"privileges of {who} cannot be read: {error.strerror}")
        return
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    uid = fields.get("Uid", "?").split()[1:2]
    effective = int(fields.get("CapEff", "0").strip() or "0", 16)
    missing = [name for bit, name in _CAPABILITIES.items() if not effective >> bit & 1]
    if missing and kubernetes.is_here(site) and not slurm.is_here(site):
        yield ok(
            f"privileges: {who} (uid {''.join(uid)}) needs no capability: names of pods come "
            "from the API server"
        )
    elif missing:
        yield warn(
            f"privileges: {who} (uid {''.join(uid)}) lacks {' and '.join(missing)}: the "
            "environment of jobs cannot be read, so experiments named there (WANDB_PROJECT, "
            "...) are unknown",
            "Run the daemon as root with both capabilities, or let SLURM's TaskProlog write a "
            "label file (hooks/task_prolog.sh). Energy is not affected.",
        )
    else:
        yield ok(f"privileges: {who} (uid {''.join(uid)}) may read the environment of jobs")


def clock(_site: Site) -> Iterator[Finding]:
    """Check the wall clock; energy does not depend on it, but quarter hours do."""
    state = _kernel_clock()
    if state is None:
        yield warn(
            "clock: the kernel does not report whether it is synchronized",
            "Check that chrony or ntpd is running on the host (not in a container).",
        )
    elif not state.synchronised:
        yield warn(
            "clock: not synchronized, offset unknown; energies are exact nevertheless, but their "
            "quarter hours and the times of jobs may be off",
            "Start chrony, systemd-timesyncd or ntpd.",
        )
    elif state.max_error_s > _LOOSE_S:
        yield warn(f"clock: synchronized, but only to within {state.max_error_s:.1f} s")
    else:
        yield ok(f"clock: synchronized to within {state.max_error_s * 1000:.0f} ms")


class KernelClock(NamedTuple):
    """The result of adjtimex(2); the error is the kernel's own upper bound."""

    synchronised: bool
    max_error_s: float


class _Timex(ctypes.Structure):
    # The head of struct timex; the kernel writes 208 bytes.
    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("max_error_us", ctypes.c_long),
        ("rest", ctypes.c_char * 208),
    ]


def _kernel_clock() -> KernelClock | None:
    timex = _Timex()  # modes 0: query only
    libc = ctypes.CDLL(None, use_errno=True)
    adjtimex = getattr(libc, "adjtimex", None)
    state = -1 if adjtimex is None else adjtimex(ctypes.byref(timex))
    if state < 0:
        return None
    return KernelClock(state != _TIME_ERROR, timex.max_error_us / 1e6)


def user(_site: Site) -> Iterator[Finding]:
    """Check who is running the doctor: much is visible to root only."""
    if os.geteuid() != 0:
        yield warn(
            f"running as uid {os.geteuid()}: some findings may be wrong",
            "Run it as root.",
        )


NODE_CHECKS: tuple[Check, ...] = (user, configuration, rights, clock)
