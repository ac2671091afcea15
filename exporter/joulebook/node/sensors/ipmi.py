"""Power of the whole node from its BMC: IPMI DCMI, by `ipmitool dcmi power reading`.

The program is run in the sensor's own thread, seldom, and killed when it takes too long. A BMC may
leave the GPUs out of its reading: `core.energy.node_meter` notices.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence

from joulebook.clock import Clock
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.sanitize import one_line
from joulebook.errors import SensorDenied, SensorError, SensorMissing, SensorRetry
from joulebook.node.sensors.contract import Pace, PollResult
from joulebook.units import MW_PER_W, ns_from_s

METER = Meter(Component.OTHER, "ipmi")

HOLES = 3
"""So many looks may fail in a row before the power between is not known."""

_NOW = re.compile(r"^\s*Instantaneous power reading:\s*(\d{1,6}) Watts\s*$", re.MULTILINE)
_ACTIVE = re.compile(r"^\s*Power reading state is:\s*(\S+)", re.MULTILINE)

REMEDY = (
    "Install ipmitool and load ipmi_devintf and ipmi_si; the daemon needs root for /dev/ipmi0. "
    "`ipmitool dcmi power reading` must work"
)


def parse(text: str) -> int:
    """Milliwatts out of what ipmitool prints. Raises `SensorRetry`."""
    state = _ACTIVE.search(text)
    if state is not None and state[1].lower() != "activated":
        raise SensorRetry(
            f"the BMC does not measure power (state {state[1][:20]!r})",
            reason="inactive",
            remedy="Switch power measurement on in the BMC",
        )
    found = _NOW.search(text)
    if found is None or int(found[1]) == 0:
        raise SensorRetry("ipmitool tells no power", reason="unreadable", remedy=REMEDY)
    return int(found[1]) * MW_PER_W


class IpmiSensor:
    """The power that the BMC of this machine tells, asked each `every_s`."""

    name = "ipmi"
    kind = "power"
    components = frozenset({Component.OTHER})

    def __init__(
        self,
        clock: Clock,
        *,
        program: str = "ipmitool",
        every_s: float = 10.0,
        timeout_s: float = 5.0,
        covers: tuple[Component, ...] = (Component.CPU, Component.DRAM, Component.GPU),
    ) -> None:
        self._clock = clock
        self._program = program
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._covers = covers

    @property
    def pace(self) -> Pace:
        """A BMC is slow, and answers others too."""
        return Pace(most_s=self._every_s, least_s=self._every_s)

    def owns(self, meter: Meter) -> bool:
        """The node, as IPMI tells it."""
        return meter == METER

    def open(self) -> None:
        """Nothing is held open."""

    def close(self) -> None:
        """Nothing is held open."""

    def look(self, *, processes: bool) -> PollResult:
        """Ask once. Raises `SensorError`."""
        asked_ns = self._clock.now_ns()
        power_mw = parse(self._answer())
        # It spoke some time between the question and the answer.
        t_ns = (asked_ns + self._clock.now_ns()) // 2
        hole_ns = ns_from_s(HOLES * self._every_s + 2 * self._timeout_s)
        return PollResult(
            (Reading(METER, t_ns, power_mw=power_mw, covers=self._covers, hole_ns=hole_ns),)
        )

    def poll_energy(self, meters: Iterable[Meter]) -> Sequence[Reading]:
        """Too slow for a burst."""
        return ()

    def _answer(self) -> str:
        try:
            done = subprocess.run(
                [self._program, "dcmi", "power", "reading"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, "LC_ALL": "C"},
                timeout=self._timeout_s,
                check=False,
            )
        except FileNotFoundError:
            raise SensorMissing(
                f"{self._program} is not there", reason="missing", remedy=REMEDY
            ) from None
        except PermissionError:
            raise SensorDenied(
                f"{self._program} may not be run", reason="denied", remedy=REMEDY
            ) from None
        except subprocess.TimeoutExpired:
            raise SensorRetry(
                f"{self._program} took more than {self._timeout_s:g} s",
                reason="timeout",
                remedy="The BMC is slow or hangs: `ipmitool mc info` shows; reset it if need be",
            ) from None
        except OSError as error:
            raise SensorError(
                f"{self._program} cannot be run: {error.strerror}",
                reason="unreadable",
                remedy=REMEDY,
            ) from None
        text = done.stdout[:65_536].decode("utf-8", "replace")
        if done.returncode != 0:
            said = one_line(done.stderr.decode("utf-8", "replace"))
            raise SensorRetry(
                f"{self._program} failed ({done.returncode}): {said}",
                reason="unreadable",
                remedy=REMEDY,
            )
        return text
