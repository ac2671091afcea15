"""The keys of `[sensors.*]` and `[host]`: what is measured, and what is made of the whole node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from joulebook.config.base import AUTO, Enabled, Section, doc
from joulebook.core.energy.calibration import GAINS, MOST_OFFSET_W
from joulebook.core.energy.intervals import Calibration
from joulebook.core.report.footprint import SENSOR_PERCENT
from joulebook.units import MW_PER_W


class Nvml(Section, frozen=True):
    """NVIDIA GPUs."""

    enabled: Annotated[Enabled, doc(AUTO)] = "auto"


class Drm(Section, frozen=True):
    """AMD's and Intel's GPUs, from the kernel's own files."""

    enabled: Annotated[Enabled, doc(AUTO)] = "auto"
    root: Annotated[str, doc("Where the kernel lists graphics cards.")] = "/sys/class/drm"


class Rapl(Section, frozen=True):
    """Energy of CPU packages and DRAM, from powercap."""

    enabled: Annotated[Enabled, doc(AUTO)] = "auto"
    root: Annotated[str, doc("Where powercap is mounted.")] = "/sys/class/powercap"


class Hwmon(Section, frozen=True):
    """Energy and power of boards, sockets and supplies, from hwmon."""

    enabled: Annotated[Enabled, doc(AUTO)] = "auto"
    root: Annotated[str, doc("Where hwmon is mounted.")] = "/sys/class/hwmon"
    includes_gpus: Annotated[
        bool,
        doc(
            "Whether a board's meter of the whole node, or of its modules, includes the GPUs. "
            "Where it leaves them out, joulebook_node_meter_omits says so, and this must be false."
        ),
    ] = True


_EVERY = "Seconds from one question to the BMC to the next; they are slow, and serve others too."
_TIMEOUT = "Seconds after which an answer of the BMC is no longer waited for."
_GPUS = (
    "Whether the BMC's power includes the GPUs. Some leave them out: then "
    "joulebook_node_meter_omits says so, and this must be false."
)


class Ipmi(Section, frozen=True):
    """Power of the whole node, from its BMC by IPMI DCMI (ipmitool)."""

    enabled: Annotated[
        Enabled, doc('"auto": where there is a /dev/ipmi0; true: must work; false: not used.')
    ] = False
    program: Annotated[str, doc("Path or name of ipmitool.")] = "ipmitool"
    every_s: Annotated[float, doc(_EVERY, ge=1, le=300)] = 10.0
    timeout_s: Annotated[float, doc(_TIMEOUT, gt=0, le=60)] = 5.0
    includes_gpus: Annotated[bool, doc(_GPUS)] = True


class Redfish(Section, frozen=True):
    """Power of the whole node, from its BMC by Redfish (HTTPS)."""

    enabled: Annotated[
        Enabled, doc('"auto": if `url` is set; true: must work; false: not used.')
    ] = False
    url: Annotated[str, doc("Address of the BMC of this node: https://HOST[:PORT].")] = ""
    credentials: Annotated[
        str,
        doc("Path of a file of two lines, user and password; readable by the daemon alone."),
    ] = ""
    ca_file: Annotated[
        str, doc("Path of the certificates that the BMC's must be signed by. Empty: the system's.")
    ] = ""
    chassis: Annotated[
        str, doc("Id of the chassis that is the whole node. Empty: the only one that tells power.")
    ] = ""
    every_s: Annotated[float, doc(_EVERY, ge=1, le=300)] = 10.0
    timeout_s: Annotated[float, doc(_TIMEOUT, gt=0, le=60)] = 5.0
    includes_gpus: Annotated[bool, doc(_GPUS)] = True


class Model(Section, frozen=True):
    """Power reckoned from utilization, where nothing measures it; stays marked `modelled`."""

    enabled: Annotated[bool, doc("Reckon CPU and DRAM. Never by itself: a model is a choice.")] = (
        False
    )
    cpu_idle_w: Annotated[
        float, doc("Watts of all CPUs of this machine while idle.", ge=0, le=10_000)
    ] = 0.0
    cpu_tdp_w: Annotated[
        float, doc("Watts of all CPUs of this machine at full load.", ge=0, le=10_000)
    ] = 0.0
    dram_w_per_gib: Annotated[
        float, doc("Watts per GiB of installed memory. 0: no DRAM.", ge=0, le=10)
    ] = 0.0
    source: Annotated[
        str, doc("Where these numbers are from: a data sheet, a paper. Must be given.")
    ] = ""


class Replay(Section, frozen=True):
    """A recorded trace in the place of hardware."""

    enabled: Annotated[bool, doc("Play `trace` instead of reading GPUs.")] = False
    trace: Annotated[
        str,
        doc(
            'Path of a trace, or "a100", "v100" (shipped); several, comma-separated, side by side.'
        ),
    ] = ""


class CalibrationSection(Section, frozen=True):
    """How what one GPU, or every one of a model, reads is put right: gain x power + offset."""

    gain: Annotated[float, doc("Factor of the power that is read.", ge=GAINS[0], le=GAINS[1])] = 1.0
    offset_w: Annotated[
        float, doc("Watts to be added to it.", ge=-MOST_OFFSET_W, le=MOST_OFFSET_W)
    ] = 0.0
    uncertainty_ratio: Annotated[
        float,
        doc("The error that is left, as a part of the energy; statements show it.", ge=0, le=1),
    ] = SENSOR_PERCENT / 100
    source: Annotated[
        str, doc("Who measured it, with what and when; needed, since statements show it.")
    ] = ""

    def values(self) -> Calibration:
        """It as booking needs it."""
        return Calibration(
            round(self.gain * 1_000_000),
            round(self.offset_w * MW_PER_W),
            round(self.uncertainty_ratio * 1_000_000),
            f"{self.source} (gain {self.gain:g}, offset {self.offset_w:g} W)",
        )


class Sensors(Section, frozen=True):
    """What is measured."""

    nvml: Nvml = Nvml()
    drm: Drm = Drm()
    rapl: Rapl = Rapl()
    hwmon: Hwmon = Hwmon()
    ipmi: Ipmi = Ipmi()
    redfish: Redfish = Redfish()
    model: Model = Model()
    replay: Replay = Replay()


class Host(Section, frozen=True):
    """The host around the GPUs."""

    other: Annotated[
        Literal["none", "held-gpus"],
        doc(
            "Who gets what the node consumes beside CPU, DRAM and GPUs (it needs a meter of "
            "the whole "
            "node): nobody (remainder `system`), or who holds GPUs, by the share held."
        ),
    ] = "none"
    proc: Annotated[
        str,
        doc(
            "Where the host's /proc is mounted. A daemon in a pid namespace of its own (a "
            "container without hostPID) looks pids of the driver up there, and nowhere if that "
            "shows other pids."
        ),
    ] = "/proc"


def calibration_conflicts(known: Mapping[str, CalibrationSection]) -> Iterator[tuple[str, str]]:
    """What is not allowed in `[calibration]`, by key."""
    for name, each in known.items():
        if not each.source.strip():
            yield f'calibration."{name}".source', "expected who measured it, with what and when"
        elif not name.strip("*"):
            yield f'calibration."{name}"', "expected the UUID of a GPU or the name of a model"


def conflicts(sensors: Sensors) -> Iterator[tuple[str, str]]:
    """What the type of each key alone cannot tell."""
    redfish, model = sensors.redfish, sensors.model
    if redfish.enabled is True and not redfish.url:
        yield "sensors.redfish.url", "expected the address of the BMC, since redfish is enabled"
    if redfish.url and not redfish.url.startswith("https://"):
        yield (
            "sensors.redfish.url",
            f"{redfish.url!r}: expected https://HOST (a password would go over the wire unhidden)",
        )
    if redfish.enabled and sensors.ipmi.enabled:
        yield "sensors.ipmi.enabled", "expected false, since redfish already measures the node"
    if model.enabled:
        if model.cpu_tdp_w <= model.cpu_idle_w:
            yield (
                "sensors.model.cpu_tdp_w",
                f"{model.cpu_tdp_w}: expected more than cpu_idle_w, since the model is enabled",
            )
        if not model.source.strip():
            yield (
                "sensors.model.source",
                "expected where the model's numbers are from, since it is enabled",
            )
