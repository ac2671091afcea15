"""Map the kubelet's device ids to cards and parts of cards.

Plugins and DRA drivers call them:

    GPU-UUID            a card                          (NVIDIA's device plugin)
    MIG-UUID            a MIG instance
    MIG-GPU-UUID/G/C    the same, with drivers before R470: GPU instance G, compute instance C
    any of them::N      one of its replicas, shared by time slices or MPS
    nvidiaM             the card with minor number M    (GKE's device plugin)
    nvidiaM/giG         a GPU instance of it
    .../vgpuN           one of its replicas
    GPU-UUID-N          one of the parts of a card        (HAMi, Volcano)
    GPU-UUID-_-N        the same                          (Alibaba's gpushare)
    driver/pool/name    a device of a DRA driver, which a ResourceSlice describes

    0000:4d:00.0        a card by its PCI address                  (AMD's device plugin)
    amdgpu_xcp_30       a partition of a card                      (the same)
    card1-0             card 1, replica 0                          (Intel's device plugin)
    gpu.amd.com/pool/gpu-1-129    card 1, renderD129               (AMD's DRA driver)
    gpu.intel.com/pool/0000-4d-00-0-0x0bda    by PCI address       (Intel's DRA driver)

A ResourceSlice with the PCI address takes precedence over a name. Nothing is guessed.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from joulebook.core.energy.readings import DeviceStatus, Instance, Meter
from joulebook.errors import JoulebookError


class KubeletDevice(NamedTuple):
    """One device under the name that the kubelet knows it by.

    `resource` is that of a device plugin (`nvidia.com/gpu`) and `id` what the plugin calls the
    device; a device of a DRA claim has no resource, and `id` is `driver/pool/name`.
    """

    resource: str
    id: str

    @property
    def is_dra(self) -> bool:
        """Whether it was given by a claim and not by a device plugin."""
        return not self.resource


class ListedPod(NamedTuple):
    """A pod that the kubelet has admitted, and all devices of its containers, each once."""

    namespace: str
    name: str
    devices: tuple[KubeletDevice, ...] = ()


class KubeletError(JoulebookError):
    """Raised if the kubelet gives no answer. `reason` is a short stable word; `remedy` is what to
    do.
    """

    def __init__(self, message: str, *, reason: str, remedy: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.remedy = remedy


_PCI = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|amdgpu_xcp[_.]\d+", re.IGNORECASE)
_INTEL_REPLICA = re.compile(r"(?P<card>card\d+)-\d+")
_CARD = re.compile(r"card\d+")
_AMD_DRA = re.compile(r"gpu-(?P<card>\d+)-(?P<render>\d+)")
_INTEL_DRA = re.compile(
    r"(?P<domain>[0-9a-f]{4})-(?P<bus>[0-9a-f]{2})-(?P<slot>[0-9a-f]{2})-(?P<function>[0-7])"
    r"(?:-0x[0-9a-f]{4})?"
)


def shared_card(device_id: str) -> str:
    """The card of which Intel's plugin calls a replica `device_id`; empty if it is no such name."""
    found = _INTEL_REPLICA.fullmatch(device_id)
    return found["card"] if found is not None else ""


def is_named(name: str) -> bool:
    """Return whether a name is one that plugins of AMD or Intel give."""
    return bool(_PCI.fullmatch(name) or _CARD.fullmatch(name))


def find_card(name: str, cards: Sequence[DeviceStatus]) -> DeviceStatus | None:
    """Return the card that a plugin means; `None` if it is not metered here."""
    if _CARD.fullmatch(name):
        return next((card for card in cards if f"dri/{name}" in card.files), None)
    return _by_pci(name, cards)


def find_dra(device_id: str, pci: str, cards: Sequence[DeviceStatus]) -> DeviceStatus | None:
    """The card of a DRA device (`driver/pool/name`), whose slice may tell its PCI address."""
    name = device_id.rpartition("/")[2]
    if pci:
        return _by_pci(pci, cards)
    if found := _AMD_DRA.fullmatch(name):
        files = {f"dri/card{found['card']}", f"dri/renderD{found['render']}"}
        return next((card for card in cards if files <= set(card.files)), None)
    if found := _INTEL_DRA.fullmatch(name):
        address = "{domain}:{bus}:{slot}.{function}".format(**found.groupdict())
        return _by_pci(address, cards)
    return None


def _by_pci(address: str, cards: Sequence[DeviceStatus]) -> DeviceStatus | None:
    wanted = address.lower()
    return next((card for card in cards if card.files and card.pci.lower() == wanted), None)


_REPLICA = re.compile(r"(?:::|/vgpu)\d+$")
_OLD_MIG = re.compile(r"^MIG-(?P<card>GPU-[^/]+)/(?P<gi>\d+)/(?P<ci>\d+)$")
_UUID = re.compile(r"GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NUMBERED = re.compile(r"(?P<card>GPU-.+?)[-_]+\d+")
_GKE = re.compile(r"^nvidia(?P<minor>\d+)(?:/gi(?P<gi>\d+))?$")


class DevicePart(NamedTuple):
    """`parts` of `of` parts of a meter; of a MIG instance these are slices of its card."""

    meter: Meter
    parts: int = 1
    of: int = 1
    instance: str = ""


class Described(NamedTuple):
    """A device in a ResourceSlice; a dynamic MIG device has no `uuid` of its own yet."""

    uuid: str = ""
    parent_uuid: str = ""
    profile: str = ""
    pci: str = ""


class UnknownDevice(LookupError):
    """Raised for an unknown device. `absent`: NVML does not show it here."""

    def __init__(self, device: KubeletDevice, *, absent: bool = False) -> None:
        super().__init__(device)
        self.absent = absent


class AllocatableDevices(NamedTuple):
    """The ids of all devices that plugins advertise on this node."""

    ids: frozenset[str] = frozenset()

    @classmethod
    def of(cls, advertised: Iterable[KubeletDevice]) -> AllocatableDevices:
        """Return the kubelet's devices of plugins."""
        return cls(frozenset(device.id for device in advertised))

    def replicas(self, names: frozenset[str]) -> Mapping[str, int]:
        """Return the number of replicas of each device, on a node whose cards have these names."""
        return _counted(self.ids, names)


@functools.lru_cache(maxsize=4)
def _counted(ids: frozenset[str], names: frozenset[str]) -> Mapping[str, int]:
    return Counter(base(each, names) for each in ids if is_replica(each, names))


def card_names(cards: Iterable[DeviceStatus]) -> frozenset[str]:
    """Return the UUIDs of cards."""
    return frozenset(card.meter.name for card in cards)


def is_gpu_id(device_id: str) -> bool:
    """Whether an id can only be that of an NVIDIA GPU or a part of one, whatever its resource."""
    return device_id.startswith(("GPU-", "MIG-"))


def is_replica(device_id: str, names: frozenset[str] = frozenset()) -> bool:
    """Return whether others may hold the same device at the same time."""
    return base(device_id, names) != device_id


def base(device_id: str, names: frozenset[str] = frozenset()) -> str:
    """Return the device of which a replica is one; `names` are those of this node's cards."""
    numbered = _NUMBERED.fullmatch(device_id)
    if numbered is not None and device_id not in names:
        card = numbered["card"]
        if card in names or (_UUID.fullmatch(card) and not _UUID.fullmatch(device_id)):
            return card
    return shared_card(device_id) or _REPLICA.sub("", device_id)


class Offers:
    """The devices last advertised by plugins, and the ids waited for."""

    def __init__(self) -> None:
        self.names: frozenset[str] = frozenset()
        """Of this node's cards."""
        self._last: AllocatableDevices | None = None
        self._unknown: set[str] = set()
        self._awaited: set[str] = set()

    @property
    def last(self) -> AllocatableDevices:
        """The last answer."""
        return self._last or AllocatableDevices()

    def answered(self, devices: Iterable[KubeletDevice] | None) -> None:
        """Record an answer; `None`: this kubelet does not support it."""
        self._last = AllocatableDevices.of(devices or ())
        self._awaited = set()

    def ask(self, held: Iterable[KubeletDevice]) -> bool:
        """Return whether to query again: a replica is held that was not advertised, nor queried
        for.
        """
        unknown = {d.id for d in held if not d.is_dra and is_replica(d.id, self.names)}
        unknown -= self.last.ids
        new, self._unknown = unknown - self._unknown, unknown
        self._awaited |= new
        return bool(new)

    def is_pending(self, device_id: str) -> bool:
        """Return whether the number of replicas of a device may soon be known."""
        return is_replica(device_id, self.names) and (
            self._last is None or device_id in self._awaited
        )


def find_part(
    device: KubeletDevice,
    cards: Sequence[DeviceStatus],
    offer: AllocatableDevices,
    described: Mapping[str, Described],
    held: Mapping[str, int] = {},
) -> DevicePart:
    """Return the part of a card that a device is. Raises `UnknownDevice`.

    `held` returns how many replicas of a device are held, which may be more than offered.
    """
    if device.is_dra:
        return _described(device, described.get(device.id), cards)
    names = card_names(cards)
    whole = base(device.id, names)
    part = _named(device, whole, cards)
    if whole == device.id:
        return part
    replicas = offer.replicas(names).get(whole, 0)
    if not replicas:
        raise UnknownDevice(device)
    return part._replace(of=part.of * max(replicas, held.get(whole, 0)))


def _named(device: KubeletDevice, name: str, cards: Sequence[DeviceStatus]) -> DevicePart:
    if old := _OLD_MIG.match(name):
        card = _card(device, old["card"], cards)
        return _instance_part(device, card, name, int(old["gi"]), int(old["ci"]))
    if gke := _GKE.match(name):
        for card in cards:
            if card.minor == int(gke["minor"]):
                gi = gke["gi"]
                return _instance_part(device, card, "", int(gi)) if gi else DevicePart(card.meter)
        raise UnknownDevice(device, absent=True)
    if name.startswith("MIG-"):
        for card in cards:
            for each in card.instances:
                if each.uuid == name:
                    return _slices(card, each)
        raise UnknownDevice(device, absent=not any(card.mig for card in cards))
    if name.startswith("GPU-"):
        return DevicePart(_card(device, name, cards).meter)
    if is_named(name):
        return _other(device, find_card(name, cards))
    raise UnknownDevice(device)


def _other(device: KubeletDevice, card: DeviceStatus | None) -> DevicePart:
    if card is None:
        raise UnknownDevice(device, absent=True)
    return DevicePart(card.meter)


def _card(device: KubeletDevice, uuid: str, cards: Sequence[DeviceStatus]) -> DeviceStatus:
    for card in cards:
        if card.meter.name == uuid:
            return card
    raise UnknownDevice(device, absent=True)


def _instance_part(
    device: KubeletDevice, card: DeviceStatus, uuid: str, gi: int, ci: int | None = None
) -> DevicePart:
    inside = [each for each in card.instances if each.gi == gi]
    fitting = [each for each in inside if each.uuid == uuid or each.ci in {ci, None}]
    found = fitting or (inside if ci is None else [])
    if len(found) != 1:
        raise UnknownDevice(device)
    return _slices(card, found[0])


def _slices(card: DeviceStatus, instance: Instance) -> DevicePart:
    return DevicePart(card.meter, instance.slices, card.slices or instance.slices, instance.uuid)


def _described(
    device: KubeletDevice, said: Described | None, cards: Sequence[DeviceStatus]
) -> DevicePart:
    other = find_dra(device.id, said.pci if said is not None else "", cards)
    if other is not None:
        return DevicePart(other.meter)
    if said is None:
        raise UnknownDevice(device)
    if said.uuid:
        return _named(device, said.uuid, cards)
    if not said.parent_uuid:
        raise UnknownDevice(device)
    card = _card(device, said.parent_uuid, cards)
    fitting = [each for each in card.instances if each.profile == said.profile]
    if len(fitting) != 1:
        raise UnknownDevice(device)  # Of two alike nobody says which it is.
    return _slices(card, fitting[0])
