"""ResourceSlices: what a DRA driver says its devices on this node are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from joulebook.core.sanitize import clean_label
from joulebook.kubernetes_api.watch import Collection, Decoders
from joulebook.node.workloads.kubernetes.device_ids import Described

MAX_DEVICES = 4096


_PCI = ("resource.kubernetes.io/pciBusID", "pciBusID", "pciAddr", "pciAddress")
"""Where drivers tell the PCI address: the standard attribute, and names of before it."""


class Attribute(msgspec.Struct, frozen=True, gc=False):
    """A device's attribute; of its kinds only text is read."""

    string: str | None = None


class Basic(msgspec.Struct, frozen=True, gc=False):
    """Where v1beta1 keeps a device's attributes."""

    attributes: dict[str, Attribute] | None = None


class SliceDevice(msgspec.Struct, frozen=True, gc=False):
    """One device of a slice."""

    name: str = ""
    attributes: dict[str, Attribute] | None = None
    basic: Basic | None = None


class Pool(msgspec.Struct, frozen=True, gc=False):
    """The pool a slice belongs to; a slice of an older generation is out of date."""

    name: str = ""
    generation: int = 0


class SliceSpec(msgspec.Struct, frozen=True, gc=False):
    """What a slice describes."""

    driver: str = ""
    pool: Pool = Pool()
    devices: list[SliceDevice] | None = None


class SliceMeta(msgspec.Struct, frozen=True, gc=False):
    """The metadata of a slice."""

    name: str = ""


class ResourceSlice(msgspec.Struct, frozen=True, gc=False):
    """A ResourceSlice of resource.k8s.io, v1 or v1beta1."""

    metadata: SliceMeta = SliceMeta()
    spec: SliceSpec = SliceSpec()


_SLICES = Decoders(ResourceSlice)


def slices_of(node: str) -> Collection[ResourceSlice]:
    """The slices of a node, in whatever version the API server has them."""
    return Collection(
        "resourceslices",
        tuple(f"/apis/resource.k8s.io/{v}/resourceslices" for v in ("v1", "v1beta2", "v1beta1")),
        {"fieldSelector": f"spec.nodeName={node}"},
        _SLICES,
    )


class SliceTable:
    """The devices of all slices, by `driver/pool/name`; calls come from one thread."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self._slices: dict[str, ResourceSlice] = {}
        self._changed = changed
        self.described: dict[str, Described] = {}
        """Replaced and never changed, so it may be read from any thread."""

    def listed(self, items: list[ResourceSlice]) -> None:
        """All slices that there are now."""
        self._slices = {item.metadata.name: item for item in items}
        self._describe()

    def changed(self, item: ResourceSlice) -> None:
        """One is new, or is not as it was."""
        self._slices[item.metadata.name] = item
        self._describe()

    def deleted(self, item: ResourceSlice) -> None:
        """One is no more."""
        self._slices.pop(item.metadata.name, None)
        self._describe()

    def _describe(self) -> None:
        found: dict[str, Described] = {}
        newest: dict[tuple[str, str], int] = {}
        for each in self._slices.values():
            key = (each.spec.driver, each.spec.pool.name)
            newest[key] = max(newest.get(key, 0), each.spec.pool.generation)
        for each in self._slices.values():
            pool = each.spec.pool
            if pool.generation < newest[each.spec.driver, pool.name]:
                continue
            for device in each.spec.devices or []:
                if len(found) < MAX_DEVICES:
                    name = "/".join((each.spec.driver, pool.name, device.name))
                    found[clean_label(name, 256)] = _described(device, each.spec.driver)
        self.described = found
        self._changed()


def _described(device: SliceDevice, driver: str) -> Described:
    attributes = device.attributes or (device.basic.attributes if device.basic else None) or {}

    def text(name: str) -> str:
        said: Any = attributes.get(name) or attributes.get(f"{driver}/{name}")
        return clean_label(said.string or "") if said is not None else ""

    pci = next((reported for name in _PCI if (reported := text(name))), "")
    return Described(text("uuid"), text("parentUUID"), text("profile"), pci)
