"""NVIDIA GPUs: one NVML session, one meter for each GPU, keyed by its UUID.

The session is opened once, and again only after the driver said UNINITIALIZED or its handles are
invalid (it was reloaded), where a GPU was lost, or where there is none at all: with increasing
intervals, since every initialization costs file descriptors (all-smi issue 118). A GPU that fails,
or returns implausible values, gives a `Failure`; the others are not affected.

NVML gives no handle of a card that is lost from the start, so not even its UUID; the kernel
module's own files in /proc/driver/nvidia/gpus do. Without them a card is known by its index alone.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from joulebook.clock import Clock
from joulebook.core.energy.readings import Component, DeviceStatus, Failure, Meter, Reading
from joulebook.errors import SensorError
from joulebook.log import LogOnce
from joulebook.node.sensors.contract import KERNEL_CARDS, SUSPENDED, PollResult
from joulebook.node.sensors.hwmon import JETSON_GPU, jetson_gpu, paired, sockets
from joulebook.node.sensors.nvidia.api import NvmlDevice, Session
from joulebook.node.sensors.nvidia.errors import (
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    UNINITIALIZED,
    UNKNOWN,
    error,
    meaning,
)
from joulebook.node.sensors.nvidia.gpu import OpenGpu, pci_device
from joulebook.node.sensors.nvidia.health import XidEvents, address, xid_label
from joulebook.node.sensors.sysfs import text_or
from joulebook.node.workloads.host.procfs import ProcessStarts
from joulebook.units import NS_PER_S

log = logging.getLogger(__name__)
_once = LogOnce(log)

_UNINITIALIZED = meaning(UNINITIALIZED).reason
_GONE = meaning(28).reason

_RELOADED = frozenset({_UNINITIALIZED, meaning(INVALID_ARGUMENT).reason})
"""What every handle answers once the driver was reloaded."""

_SOUGHT = frozenset({meaning(GPU_IS_LOST).reason, meaning(UNKNOWN).reason, _GONE, *_RELOADED})
"""Why a GPU does not answer that a new session may find again."""

REOPEN_FIRST_NS = 10 * NS_PER_S
REOPEN_MOST_NS = 3_600 * NS_PER_S


class NvmlSensor:
    """All NVIDIA GPUs of this node.

    `sysfs` and `proc`: where those file systems are mounted (`None`: no /proc here has the pids
    that the driver tells).
    """

    name = "nvml"
    kind = "counter"
    components = frozenset({Component.GPU})

    def __init__(
        self,
        clock: Clock,
        *,
        sysfs: Path = Path("/sys"),
        proc: Path | None = Path("/proc"),
        hwmon: Path | None = None,
    ) -> None:
        """`hwmon` is where the sockets of superchips are read (`None`: they are not)."""
        self._clock = clock
        self._hwmon = hwmon
        self._sysfs = sysfs
        self._proc = proc or Path("/proc")
        self._starts = ProcessStarts(proc)
        self._session: Session | None = None
        self._xids: XidEvents | None = None
        self._cards: dict[Meter, OpenGpu] = {}
        self._absent: dict[Meter, str] = {}  # known, but not enumerated: the reason
        self._unread: list[DeviceStatus] = []  # counted, but never opened
        self._some_lost = False
        self._unpaired: frozenset[Meter] = frozenset()  # CPU sockets of nobody knows which module
        self._reopen_at_ns, self._reopen_ns = 0, REOPEN_FIRST_NS

    def owns(self, meter: Meter) -> bool:
        """GPUs but those that the kernel shows."""
        elsewhere = (*KERNEL_CARDS, JETSON_GPU.name)
        return meter.component is Component.GPU and not meter.name.startswith(elsewhere)

    def open(self) -> None:
        """Initialise NVML and enumerate the GPUs. Raises `SensorError`."""
        self.close()
        session = Session()
        try:
            self._enumerate(session)
        except SensorError:
            session.close()
            raise
        self._session = session

    def close(self) -> None:
        """Close the driver; the state of the GPUs is kept for the next `open`."""
        session, self._session = self._session, None
        if session is not None:
            for card in self._cards.values():
                card.close()
            if self._xids is not None:
                self._xids.close()
            session.close()

    def poll(self, *, processes: bool) -> PollResult:
        """Read every GPU once. Raises `SensorError` if the driver as a whole is gone."""
        if self._session is None:
            raise error(UNINITIALIZED, "look")
        if (self._some_lost or not self._cards) and self._may_reopen():
            self._reopen("a GPU was lost" if self._cards else "it has no GPU")
        poll = self._poll(processes=processes)
        failed = {failure.reason for failure in poll.failures}
        if failed & _RELOADED and self._may_reopen():
            self._reopen("the driver was reloaded")
            poll = self._poll(processes=processes)
            failed = {failure.reason for failure in poll.failures}
        if _UNINITIALIZED in failed:
            raise error(UNINITIALIZED, "look")
        lost = bool(failed & _SOUGHT)
        if not lost and self._cards and self._clock.now_ns() >= self._reopen_at_ns:
            self._reopen_ns = REOPEN_FIRST_NS
        self._some_lost = lost
        return poll

    def poll_energy(self, meters: Iterable[Meter]) -> Sequence[Reading]:
        """Return the energy counters alone; GPUs that have none, sleep or fail are left out."""
        readings: list[Reading] = []
        if self._session is None:
            return readings
        for meter in meters:
            card = self._cards.get(meter)
            if card is None or meter in self._absent or not card.has_counter or card.asleep():
                continue
            try:
                readings.append(card.poll_energy())
            except Exception:  # noqa: S112 (the next look says why)
                continue
        return readings

    def _poll(self, *, processes: bool) -> PollResult:
        readings: list[Reading] = []
        statuses: list[DeviceStatus] = []
        now_ns = self._clock.now_ns()
        self._note_xids()
        failures = [Failure(meter, now_ns, reason) for meter, reason in self._absent.items()]
        statuses += [msgspec.structs.replace(each, t_ns=now_ns) for each in self._unread]
        for meter, card in self._cards.items():
            if meter in self._absent:
                continue
            reason = SUSPENDED
            if not card.asleep():
                try:
                    reading, status = card.poll(processes=processes)
                except SensorError as e:
                    reason = e.reason
                except Exception as fault:
                    # An answer that nobody foresaw is this GPU's; the others go on.
                    reason = "fault"
                    _once.failed(meter.name, "GPU %s: %r", meter.name, fault, exc_info=fault)
                else:
                    readings.append(reading)
                    statuses.append(status)
                    continue
            now_ns = self._clock.now_ns()
            failures.append(Failure(meter, now_ns, reason))
            statuses.append(card.status(now_ns, {}, {}))
        if processes:
            self._starts.keep({p.pid for reading in readings for p in reading.processes or ()})
        return PollResult(
            tuple(readings), tuple(failures), tuple(statuses), self._refused(), self._within()
        )

    def _note_xids(self) -> None:
        """Count the errors reported by the driver since the last poll, and log each."""
        happened = self._xids.happened() if self._xids is not None else ()
        for handle, xid in happened:
            for meter, card in self._cards.items():
                if address(card.device.handle) == handle:
                    card.xids[xid_label(xid, card.xids)] += 1
                    card.last_xid = xid
                    log.warning("GPU %s: Xid %d (see dmesg)", meter.name, xid)

    def _pair_sockets(self) -> None:
        """Assign each superchip's GPU its CPU socket, also beside a GPU that does not answer.

        A Jetson's GPU gets its rail, which reports the power that NVML does not.
        """
        if self._hwmon is None:
            return
        if len(self._cards) == 1:
            next(iter(self._cards.values())).rail = jetson_gpu(self._hwmon)
        cards = {pci_device(self._sysfs, card.device.pci): card for card in self._cards.values()}
        silent = {pci_device(self._sysfs, status.pci) for status in self._unread if status.pci}
        gpus, found = sorted(cards.keys() | silent), sockets(self._hwmon)
        for gpu, socket in zip(gpus, paired(found, self._sysfs, gpus), strict=True):
            if gpu in cards:
                cards[gpu].socket = socket
        its_own = {card.socket.meter for card in cards.values() if card.socket}
        self._unpaired = frozenset(socket.meter for socket in found) - its_own

    def _within(self) -> frozenset[Meter]:
        """Return the CPU sockets that a module's counter may have in it, and say so."""
        unpaired = [card for card in self._cards.values() if card.is_module and card.socket is None]
        if not (unpaired and self._unpaired):
            return frozenset()
        for card in unpaired:
            _once.failed(
                f"{card.meter.name} socket",
                "GPU %s: its counter is that of its module, and which CPU socket is in it is not "
                "known: the module is booked as the GPU's, and no socket. Let the daemon see the "
                "host's /sys/devices/system",
                card.meter.name,
            )
        return self._unpaired

    def _refused(self) -> Mapping[str, int]:
        found = [refused for card in self._cards.values() if (refused := card.refused())]
        return sum(found, Counter[str]())

    def _may_reopen(self) -> bool:
        now_ns = self._clock.now_ns()
        if now_ns < self._reopen_at_ns:
            return False
        self._reopen_at_ns = now_ns + self._reopen_ns
        self._reopen_ns = min(2 * self._reopen_ns, REOPEN_MOST_NS)
        return True

    def _reopen(self, why: str) -> None:
        log.warning("NVML is reinitialized: %s", why)
        self.open()

    def _enumerate(self, session: Session) -> None:
        """Open every GPU that answers; `_cards` keeps those of before that do not."""
        found: dict[Meter, OpenGpu] = {}
        silent: dict[int, str] = {}
        for index in range(session.device_count()):
            try:
                device = NvmlDevice(session, index)
                earlier = next((c for m, c in self._cards.items() if m.name == device.uuid), None)
                card = OpenGpu(session, device, self._clock, self._starts, self._sysfs, earlier)
            except SensorError as e:
                _once.failed(
                    f"GPU {index}", "GPU %d: %s. %s", index, e, e.remedy, level=logging.ERROR
                )
                silent[index] = e.reason
                continue
            if card.meter in found:
                _once.failed(device.uuid, "GPU %d has the UUID of another: %s", index, device.uuid)
                continue
            _once.recovered(f"GPU {index}", "GPU %d responds again", index)
            found[card.meter] = card
        self._xids = XidEvents(session)
        for card in found.values():
            if self._xids.register(card.device.handle):
                card.last_xid = card.last_xid or 0
        gone = [meter for meter in self._cards if meter not in found]
        reasons = list(silent.values())
        self._absent = dict.fromkeys(gone, reasons[0] if reasons else _GONE)
        self._cards = {**self._cards, **found}
        # Of those that do not answer, as many are known as are gone.
        never = list(silent)[len(gone) :]
        known = {meter.name for meter in self._cards}
        self._unread = unread(never, known, kernel_gpus(self._proc) if never else ())
        self._absent |= {
            each.meter: silent[index] for index, each in zip(never, self._unread, strict=True)
        }
        self._some_lost = bool(self._absent)
        self._pair_sockets()
        if not self._cards:
            _once.failed(self.name, "NVML shows no GPU (driver %s); retrying", session.driver)
        else:
            _once.recovered(self.name, "NVML shows GPUs now")
            log.info("NVML: %d GPUs, driver %s", len(found), session.driver)


_LINE = re.compile(r"^([^:\n]+):[ \t]*(\S.*?)\s*$", re.MULTILINE)


class KernelGpu(msgspec.Struct, frozen=True):
    """One card as the kernel module knows it."""

    uuid: str
    model: str = ""
    pci: str = ""
    minor: int | None = None


def kernel_gpus(proc: Path) -> list[KernelGpu]:
    """Return the cards below `proc`, by PCI address."""
    try:
        folders = sorted((proc / "driver/nvidia/gpus").iterdir())
    except OSError:
        return []
    found = []
    for folder in folders:
        told = dict(_LINE.findall(text_or(folder / "information")))
        uuid, minor = told.get("GPU UUID", ""), told.get("Device Minor", "")
        if uuid and "?" not in uuid:
            number = int(minor) if minor.isdecimal() and len(minor) < 6 else None
            found.append(KernelGpu(uuid, told.get("Model", ""), folder.name, number))
    return found


def unread(
    indexes: Sequence[int], known: Collection[str], cards: Iterable[KernelGpu]
) -> list[DeviceStatus]:
    """Return who the cards are that NVML counts at `indexes` and does not open.

    They are not in `known` (by UUID); both are in bus order.
    """
    left = [card for card in cards if card.uuid not in known]
    if len(left) != len(indexes):
        left = [KernelGpu(f"GPU-unread-{index}", minor=index) for index in indexes]
    return [
        DeviceStatus(
            Meter(Component.GPU, card.uuid),
            index,
            0,
            "nvidia",
            card.model,
            "",
            card.pci,
            card.minor,
        )
        for index, card in zip(indexes, left, strict=True)
    ]
