"""The keys of `[sensors.*]` and `[host]`: what is measured, and who is charged for the rest of the
node.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from joulebook.config.load import AUTO, Enabled, Section, doc
from joulebook.core.energy.calibration import GAINS, MOST_OFFSET_W
from joulebook.core.energy.intervals import Calibration
from joulebook.core.report.footprint import SENSOR_PERCENT
from joulebook.units import MW_PER_W


class Nvml(Section, frozen=True):
    """NVIDIA GPUs."""

    enabled: Annotated[Enabled, doc(AUTO)] = "auto"


class Drm(Section, frozen=True):
    """AMD and Intel GPUs, read from the kernel's files."""

    enabled: Annotated[Enabled, doc(AUTO)] = "auto"
    root: Annotated[str, doc("Directory where the kernel lists graphics cards.")] = "/sys/class/drm"


class Rapl(Section, frozen=True):
    """Energy of CPU packages and DRAM, from powercap (RAPL)."""

    enabled: Annotated[Enabled, doc(AUTO)] = "auto"
    root: Annotated[str, doc("Directory of powercap.")] = "/sys/class/powercap"


class Hwmon(Section, frozen=True):
    """Energy and power of boards, sockets and power supplies, from hwmon."""

    enabled: Annotated[Enabled, doc(AUTO)] = "auto"
    root: Annotated[str, doc("Directory of hwmon.")] = "/sys/class/hwmon"
    includes_gpus: Annotated[
        bool,
        doc(
            "Whether a board's meter of the whole node or of its modules includes the GPUs. If "
            "joulebook_node_meter_omits reports that it does not, set this to false."
        ),
    ] = True


_EVERY = "Seconds between queries of the BMC. BMCs are slow and serve others, too."
_TIMEOUT = "Timeout of a query of the BMC, in seconds."
_GPUS = (
    "Whether the BMC's power reading includes the GPUs. Some leave them out: if "
    "joulebook_node_meter_omits reports that, set this to false."
)


class Ipmi(Section, frozen=True):
    """Power of the whole node, from its BMC over IPMI DCMI (ipmitool)."""

    enabled: Annotated[
        Enabled, doc('"auto": used where /dev/ipmi0 exists; true: required; false: off.')
    ] = False
    program: Annotated[str, doc("Path or name of ipmitool.")] = "ipmitool"
    every_s: Annotated[float, doc(_EVERY, ge=1, le=300)] = 10.0
    timeout_s: Annotated[float, doc(_TIMEOUT, gt=0, le=60)] = 5.0
    includes_gpus: Annotated[bool, doc(_GPUS)] = True


class Redfish(Section, frozen=True):
    """Power of the whole node, from its BMC over Redfish (HTTPS)."""

    enabled: Annotated[
        Enabled, doc('"auto": used if `url` is set; true: required; false: off.')
    ] = False
    url: Annotated[str, doc("URL of this node's BMC: https://HOST[:PORT].")] = ""
    credentials: Annotated[
        str,
        doc("Path of a file with two lines, user and password, readable only by the daemon."),
    ] = ""
    ca_file: Annotated[
        str, doc("Path of the CA certificates that sign the BMC's. Empty: the system's.")
    ] = ""
    chassis: Annotated[
        str,
        doc("Id of the chassis that is the whole node. Empty: the only one that reports power."),
    ] = ""
    every_s: Annotated[float, doc(_EVERY, ge=1, le=300)] = 10.0
    timeout_s: Annotated[float, doc(_TIMEOUT, gt=0, le=60)] = 5.0
    includes_gpus: Annotated[bool, doc(_GPUS)] = True


class Model(Section, frozen=True):
    """Power estimated from utilization where nothing measures it; marked `modelled` everywhere."""

    enabled: Annotated[
        bool, doc("Estimate CPU and DRAM. Off unless you turn it on: a model is a choice.")
    ] = False
    cpu_idle_w: Annotated[
        float, doc("Watts drawn by all CPUs of this machine when idle.", ge=0, le=10_000)
    ] = 0.0
    cpu_tdp_w: Annotated[
        float, doc("Watts drawn by all CPUs of this machine at full load.", ge=0, le=10_000)
    ] = 0.0
    dram_w_per_gib: Annotated[
        float, doc("Watts per GiB of installed memory. 0: DRAM is not estimated.", ge=0, le=10)
    ] = 0.0
    source: Annotated[
        str, doc("Source of these numbers, such as a data sheet or a paper. Required.")
    ] = ""


class Replay(Section, frozen=True):
    """Replay of a recorded trace instead of hardware."""

    enabled: Annotated[bool, doc("Play `trace` instead of reading GPUs.")] = False
    trace: Annotated[
        str,
        doc(
            'Path of a trace, or "a100" or "v100" (shipped). Several, separated by commas, play '
            "side by side."
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
    """The host that the GPUs are in."""

    other: Annotated[
        Literal["none", "held-gpus"],
        doc(
            "Who is charged for the node's consumption beyond CPU, DRAM and GPUs (needs a meter "
            'of the whole node). "none": nobody (remainder `system`); "held-gpus": those who '
            "hold GPUs, by share."
        ),
    ] = "none"
    proc: Annotated[
        str,
        doc(
            "Mount point of the host's /proc. A daemon in its own PID namespace (a container "
            "without hostPID) looks up the driver's PIDs there, and nowhere if that shows other "
            "PIDs."
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
    """Check what the types of single keys cannot."""
    redfish, model = sensors.redfish, sensors.model
    if redfish.enabled is True and not redfish.url:
        yield "sensors.redfish.url", "expected the URL of the BMC, since redfish is enabled"
    if redfish.url and not redfish.url.startswith("https://"):
        yield (
            "sensors.redfish.url",
            f"{redfish.url!r}: expected https://HOST (the password would be sent unencrypted)",
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
                "expected the source of the model's numbers, since it is enabled",
            )
