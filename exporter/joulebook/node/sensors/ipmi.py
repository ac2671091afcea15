"""Power of the whole node from its BMC: IPMI DCMI, by `ipmitool dcmi power reading`.

The program is run in the sensor's own thread, seldom, and killed when it takes too long. A BMC may
leave the GPUs out of its reading: `core.energy.node_meter` notices.
"""

from __future__ import annotations

import os
import re
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass

from joulebook.clock import Clock
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.sanitize import one_line
from joulebook.errors import SensorDenied, SensorError, SensorMissing, SensorRetry
from joulebook.node.sensors.contract import Pace, PollResult
from joulebook.units import MW_PER_W, ns_from_s

METER = Meter(Component.OTHER, "ipmi")

_HOLES = 3
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
            remedy="Turn on power measurement in the BMC",
        )
    found = _NOW.search(text)
    if found is None or int(found[1]) == 0:
        raise SensorRetry("ipmitool reports no power", reason="unreadable", remedy=REMEDY)
    return int(found[1]) * MW_PER_W


@dataclass(eq=False)
class BmcSensor(ABC):
    """The power of the whole node as a BMC tells it, which is slow, and answers others too.

    It is asked each `every_s`; what it tells has the energy of `covers` in it.
    """

    kind = "power"
    components = frozenset({Component.OTHER})
    meter = METER

    clock: Clock
    _: KW_ONLY
    every_s: float = 10.0
    timeout_s: float = 5.0
    covers: tuple[Component, ...] = (Component.CPU, Component.DRAM, Component.GPU)

    @property
    def pace(self) -> Pace:
        """As often as is asked for, and no more."""
        return Pace(most_s=self.every_s, least_s=self.every_s)

    def owns(self, meter: Meter) -> bool:
        """The node, as this BMC tells it."""
        return meter == self.meter

    def poll(self, *, processes: bool) -> PollResult:
        """Ask once. Raises `SensorError`."""
        asked_ns = self.clock.now_ns()
        power_mw = self._power_mw()
        # It spoke some time between the question and the answer.
        t_ns = (asked_ns + self.clock.now_ns()) // 2
        hole_ns = ns_from_s(_HOLES * self.every_s + 2 * self.timeout_s)
        return PollResult(
            (Reading(self.meter, t_ns, power_mw=power_mw, covers=self.covers, hole_ns=hole_ns),)
        )

    def poll_energy(self, meters: Iterable[Meter]) -> Sequence[Reading]:
        """Too slow for a burst."""
        return ()

    @abstractmethod
    def _power_mw(self) -> int:
        """What it draws now. Raises `SensorError`."""


@dataclass(eq=False, kw_only=True)
class IpmiSensor(BmcSensor):
    """The power that `program` prints."""

    name = "ipmi"

    program: str = "ipmitool"

    def open(self) -> None:
        """Nothing is held open."""

    def close(self) -> None:
        """Nothing is held open."""

    def _power_mw(self) -> int:
        return parse(self._answer())

    def _answer(self) -> str:
        try:
            done = subprocess.run(
                [self.program, "dcmi", "power", "reading"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, "LC_ALL": "C"},
                timeout=self.timeout_s,
                check=False,
            )
        except FileNotFoundError:
            raise SensorMissing(
                f"{self.program} does not exist", reason="missing", remedy=REMEDY
            ) from None
        except PermissionError:
            raise SensorDenied(
                f"{self.program} is not executable", reason="denied", remedy=REMEDY
            ) from None
        except subprocess.TimeoutExpired:
            raise SensorRetry(
                f"{self.program} took more than {self.timeout_s:g} s",
                reason="timeout",
                remedy="The BMC is slow or hangs: check `ipmitool mc info`; reset it if necessary",
            ) from None
        except OSError as error:
            raise SensorError(
                f"{self.program} cannot be run: {error.strerror}",
                reason="unreadable",
                remedy=REMEDY,
            ) from None
        text = done.stdout[:65_536].decode("utf-8", "replace")
        if done.returncode != 0:
            said = one_line(done.stderr.decode("utf-8", "replace"))
            raise SensorRetry(
                f"{self.program} failed ({done.returncode}): {said}",
                reason="unreadable",
                remedy=REMEDY,
            )
        return text
