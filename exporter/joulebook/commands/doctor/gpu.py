"""Checks of NVIDIA GPUs: cards on the bus, driver, library, and what each GPU reports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from joulebook.commands.doctor.checks import (
    Check,
    Finding,
    GpuSurvey,
    Site,
    Status,
    fail,
    nothing,
    ok,
    warn,
)
from joulebook.commands.shared.text import seconds, several
from joulebook.core.energy.audit import Verdict
from joulebook.ledger.query import LedgerReader
from joulebook.node.sensors.drm import sensor
from joulebook.node.workloads.host.procfs import shows_pids_of_host

_NVIDIA = "0x10de"
_DISPLAY = "0x03"
_MODULE_VERSION = re.compile(r"\b(\d{3,4}\.\d{1,4}(?:\.\d{1,4})?)\b")


class PciCard(NamedTuple):
    """An NVIDIA display controller on the bus; `driver` is empty if none is bound to it."""

    address: str
    driver: str


def pci_cards(site: Site) -> list[PciCard]:
    """Return the NVIDIA cards in sysfs."""
    cards = []
    for device in sorted((site.sysfs / "bus/pci/devices").glob("*")):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == _NVIDIA and kind.startswith(_DISPLAY):
            driver = device / "driver"
            cards.append(PciCard(device.name, driver.resolve().name if driver.exists() else ""))
    return cards


def wanted(site: Site) -> bool:
    """Return whether NVIDIA GPUs should be read here: configured, or present."""
    enabled = site.config.sensors.nvml.enabled
    return enabled is True or (enabled == "auto" and bool(pci_cards(site) or site.survey.gpus))


def cards(site: Site) -> Iterator[Finding]:
    """Check the cards on the PCI bus and their kernel drivers."""
    if site.config.sensors.nvml.enabled is False:
        yield nothing("NVIDIA GPUs are not read: sensors.nvml.enabled = false")
        return
    found = pci_cards(site)
    if not found:
        # Some virtual machines pass a GPU through without a PCI bus.
        yield nothing("no NVIDIA card on the PCI bus")
        return
    others = [card for card in found if card.driver != "nvidia"]
    if not others:
        yield ok(f"{several(len(found), 'NVIDIA card')} on the PCI bus, all with the nvidia driver")
    for card in others:
        if card.driver.startswith("vfio"):
            yield warn(
                f"card {card.address} is passed through to a virtual machine ({card.driver})",
                "Its energy can only be read in that machine.",
            )
        else:
            yield fail(
                f"card {card.address} has "
                + (f"the driver {card.driver}" if card.driver else "no driver")
                + ", not nvidia: NVML cannot read it",
                "Install NVIDIA's driver and load it (modprobe nvidia).",
            )


def driver(site: Site) -> Iterator[Finding]:
    """Check that NVML opens, and that kernel module and library have the same version."""
    if site.config.sensors.nvml.enabled is False:
        return
    known = site.survey
    if known.hung:
        yield fail(
            f"NVML does not answer within {site.patience_s:.0f} s: the driver hangs",
            "See `dmesg` for NVRM and Xid lines; a reset or reboot of the node is likely needed.",
        )
        return
    if known.problem is not None:
        say = fail if wanted(site) else _absent
        yield say(f"NVML cannot be used: {known.problem.problem}", known.problem.remedy)
        return
    module = _module_version(site)
    if module and known.driver and module != known.driver:
        yield fail(
            f"kernel module {module}, library {known.driver}",
            "Reload the module or reboot, as after every driver upgrade.",
        )
    else:
        yield ok(f"NVML opens, driver {known.driver or 'of unknown version'}")
    here = len(known.gpus) + len(known.failed)
    on_bus = sum(card.driver == "nvidia" for card in pci_cards(site))
    if on_bus > here:
        yield fail(
            f"the bus has {on_bus} cards with the nvidia driver, NVML shows {here}",
            "A card has fallen off or is hidden (container, MIG?): see `dmesg` and nvidia-smi.",
        )
    for answer in known.failed:
        yield fail(answer.problem, answer.remedy)


def _absent(found: str, _todo: str = "") -> Finding:
    return nothing(found)


def gpus(site: Site) -> Iterator[Finding]:
    """Check what each GPU reports."""
    if site.config.sensors.nvml.enabled is False:
        return
    for gpu in site.survey.gpus:
        name = f"GPU {gpu.index} {gpu.model} ({gpu.uuid})"
        findings = [*_energy(gpu), *_processes(gpu), *_extras(gpu)]
        good = "; ".join(each.found for each in findings if each.status is Status.OK)
        if good:
            yield ok(f"{name}: {good}")
        for each in findings:
            if each.status is not Status.OK:
                yield each._replace(found=f"{name}: {each.found}")


def pids(site: Site) -> Iterator[Finding]:
    """Check that the drivers' PIDs can be looked up (not in a container's own PID namespace)."""
    if not wanted(site) and not sensor.metered(site.at(site.config.sensors.drm.root)):
        return
    proc = Path(site.config.host.proc)
    said = site.config.tenants.processes.pid_namespace == "host"
    if said or shows_pids_of_host(site.proc if proc == Path("/proc") else proc):
        yield ok(f"processes: {proc} has the PIDs that drivers report")
        return
    yield warn(
        f"processes: {proc} does not have the PIDs of this machine, as in a container: shared "
        "GPUs are split by held share instead of use, and use without an allocation is not "
        "detected",
        "Run the daemon with the host's PIDs (docker run --pid=host, hostPID: true), or mount "
        "the host's /proc (read-only) and set host.proc to its path, as the Helm chart does with "
        "hostProc.enabled.",
    )


def _energy(gpu: GpuSurvey) -> Iterator[Finding]:
    counter, power = gpu.energy, gpu.power
    draws = f", {power.text} now" if power.text else ""
    if counter.text:
        yield ok(f"energy counter ({counter.text}){draws}")
    elif counter.reason not in {"not_supported", "function_not_found"}:
        yield fail(f"energy counter: {counter.problem}", counter.remedy)
    elif power.text:
        buffered = "the driver's power samples" if gpu.samples.text else "power at each poll"
        yield warn(
            f"no energy counter (older than Volta?){draws}",
            f"Energy is integrated from {buffered} (method 'integrated'); time while the daemon "
            "is down is a gap.",
        )
    else:
        yield fail(f"neither energy nor power: {power.problem}", power.remedy)
    if counter.text and not power.text:
        yield warn(f"no power: {power.problem}", power.remedy)


def _processes(gpu: GpuSurvey) -> Iterator[Finding]:
    if gpu.processes.problem:
        yield warn(f"processes: {gpu.processes.problem}", gpu.processes.remedy)
    elif not gpu.processes.text:
        yield warn(
            "the driver lists no processes",
            "If several jobs share it, it is split by held share, not by use.",
        )
    else:
        yield ok(gpu.processes.text)


def _extras(gpu: GpuSurvey) -> Iterator[Finding]:
    fields = f"field values: {', '.join(gpu.fields) or 'none'}"
    if gpu.uptime_s is None:
        # A reset then shows by the counter's drop and by the boot id.
        yield ok(f"{fields}; no uptime")
    else:
        yield ok(f"{fields}; uptime {seconds(gpu.uptime_s)}")
    if gpu.mig:
        yield warn(
            "MIG is on: the energy of the whole card is split over its slices",
            "Nothing to do: such shares are marked 'apportioned'.",
        )


def _module_version(site: Site) -> str:
    try:
        text = (site.proc / "driver/nvidia/version").read_text()
    except OSError:
        return ""
    found = _MODULE_VERSION.search(text)
    return found[1] if found else ""


def counters(site: Site) -> Iterator[Finding]:
    """Check the energy counters against power, as audited by the daemon."""
    for state in site.from_ledger(LedgerReader.meters) or ():
        name, audit = f"{state.meter.component} {state.meter.name}", state.audit
        if state.stalled:
            yield warn(
                f"{name}: its energy counter does not advance while power is drawn, or far too "
                "fast",
                "Its energy is integrated from power instead (method 'integrated'). See the "
                "known issues of its driver and firmware; a reboot may help.",
            )
        elif audit.verdict is Verdict.WRONG:
            yield warn(
                f"{name}: its energy counter shows {audit.ratio:.0%} of the energy integrated "
                "from power",
                "Its figures are off by as much. See the known issues of its driver and "
                "firmware, and joulebook_counter_power_ratio.",
            )
        elif audit.in_question is not None:
            yield warn(
                f"{name}: its energy counter shows {audit.in_question:.0%} of the energy "
                "integrated from power at full load",
                "It is off, or the load is in step with the power sensor: half a minute at rest, "
                "or under three other loads, may tell which.",
            )
        elif audit.ratio or (state.newest.energy_uj is not None and state.newest.by_power):
            yield ok(f"{name}: energy counter against power: {audit.said}")


CHECKS: tuple[Check, ...] = (cards, driver, gpus, pids, counters)
