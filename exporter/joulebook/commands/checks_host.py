"""Checks of what measures the host, and of other makers' GPUs: each meter, read once."""

from __future__ import annotations

from collections.abc import Iterator

from joulebook.clock import NodeClock
from joulebook.commands.checks import Check, Finding, Site, fail, nothing, ok, warn
from joulebook.commands.text import several
from joulebook.core.readings import Reading
from joulebook.errors import SensorError
from joulebook.sensors import drm, hwmon, rapl
from joulebook.sensors.contract import Sensor
from joulebook.sensors.sysfs import text_or
from joulebook.store.reader import LedgerReader
from joulebook.units import MW_PER_W
from joulebook.wiring_sensors import SENSORS


def packages(site: Site) -> Iterator[Finding]:
    """CPU packages and DRAM by RAPL."""
    root = site.config.sensors.rapl.root
    if site.config.sensors.rapl.enabled is False:
        yield nothing("CPU and DRAM are not read by RAPL: sensors.rapl.enabled = false")
        return
    found = rapl.zones(site.at(root))
    if not found:
        say = fail if site.config.sensors.rapl.enabled is True else _absent
        yield say(f"no RAPL below {root}: no energy of CPU and DRAM from there", rapl.REMEDY)
        return
    sensor = rapl.RaplSensor(NodeClock(), site.at(root))
    yield from _read(sensor)
    skipped = [
        path.name for path in sorted(site.at(root).iterdir()) if text_or(path / "name") == "psys"
    ]
    if skipped:
        yield nothing(f"{', '.join(skipped)} is psys, the whole platform: never added to packages")


def boards(site: Site) -> Iterator[Finding]:
    """Sockets, modules and supplies by hwmon."""
    root = site.config.sensors.hwmon.root
    if site.config.sensors.hwmon.enabled is False:
        return
    found = hwmon.sources(site.at(root))
    if not found:
        say = fail if site.config.sensors.hwmon.enabled is True else _absent
        yield say(f"no power meter of boards or sockets below {root}", hwmon.REMEDY)
        return
    sensor = hwmon.HwmonSensor(NodeClock(), site.at(root))
    yield from _read(sensor)


def cards(site: Site) -> Iterator[Finding]:
    """GPUs of AMD and Intel."""
    root = site.config.sensors.drm.root
    if site.config.sensors.drm.enabled is False:
        return
    found = drm.metered(site.at(root))
    if not found:
        say = fail if site.config.sensors.drm.enabled is True else _absent
        yield say(f"no GPU of AMD or Intel with a meter below {root}", drm.REMEDY)
        return
    sensor = drm.DrmSensor(NodeClock(), site.at(root), proc=site.proc)
    yield from _read(sensor)


def whole_node(site: Site) -> Iterator[Finding]:
    """The BMC, asked once; and whether it was seen to leave something out."""
    for name in ("ipmi", "redfish"):
        if getattr(site.config.sensors, name).enabled is False:
            continue
        if not SENSORS[name].wanted(site.config, site.sysfs):
            continue
        yield from _read(SENSORS[name].make(site.config, NodeClock()))
    yield from _omissions(site)


def model(site: Site) -> Iterator[Finding]:
    """Whether figures are a model's."""
    asked = site.config.sensors.model
    if asked.enabled:
        yield warn(
            f"CPU and DRAM are reckoned, not measured: {asked.cpu_idle_w:g} W idle, "
            f"{asked.cpu_tdp_w:g} W at full load, {asked.dram_w_per_gib:g} W per GiB "
            f"({asked.source})",
            "Nothing to do: such energy is marked 'modelled' everywhere.",
        )


def _omissions(site: Site) -> Iterator[Finding]:
    try:
        with LedgerReader(site.ledger) as reader:
            supplies = reader.supplies()
    except Exception:  # no ledger yet, or not readable: the ledger's own checks say so
        return
    for meter, supply in supplies.items():
        if supply.omits:
            yield warn(
                f"the meter of the whole node ({meter.name}) tells less than {supply.omits} alone: "
                f"it seems to leave the {supply.omits} out",
                f"Set sensors.{meter.name}.includes_gpus = false, if it is the GPUs that are left "
                "out; until then nothing is booked as 'other'.",
            )


def _read(sensor: Sensor) -> Iterator[Finding]:
    try:
        sensor.open()
        look = sensor.look(processes=False)
    except SensorError as error:
        yield fail(f"{sensor.name}: {error}", error.remedy)
        return
    finally:
        sensor.close()
    names = {status.meter: f"{status.vendor} {status.model} " for status in look.statuses}
    good = [
        f"{names.get(reading.meter, '')}{reading.meter.name} ({_counts(reading)})"
        for reading in look.readings
    ]
    if good:
        yield ok(f"{sensor.name}: {several(len(good), 'meter')}: {', '.join(good)}")
    remedy = {"rapl": rapl.REMEDY, "hwmon": hwmon.REMEDY, "drm": drm.REMEDY}.get(sensor.name, "")
    for failure in look.failures:
        yield fail(f"{sensor.name}: {failure.meter.name} cannot be read ({failure.reason})", remedy)


def _counts(reading: Reading) -> str:
    if reading.energy_uj is not None:
        return "counter"
    watts = (reading.power_mw or 0) / MW_PER_W
    return f"{watts:,.0f} W now, integrated"


def _absent(found: str, _todo: str = "") -> Finding:
    return nothing(found)


CHECKS: tuple[Check, ...] = (packages, boards, cards, whole_node, model)
